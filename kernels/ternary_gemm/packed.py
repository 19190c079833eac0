"""Weights in the kernel layout, as torch tensors."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from weightsmith.kernels.ternary_gemm import reference
from weightsmith.kernels.ternary_gemm.native import native
from weightsmith.kernels.ternary_gemm.reference import BLOCK, STRIP, span_of


@dataclass(frozen=True)
class Packed:
    """Trit planes of one matrix [out_features, in_features].

    Attributes:
        codes: uint8 [blocks, strips, planes, 64]; see README.md.
        scales: int16 [blocks, spans, planes, 8], the bits of float16, which no cast of a model to
            another dtype can hurt.
        out_features: rows; the last block may have fewer than 8.
        in_features: columns; the last strip may have fewer than 32.
        group: columns that share a scale.
    """

    codes: Tensor
    scales: Tensor
    out_features: int
    in_features: int
    group: int

    @property
    def planes(self) -> int:
        """1, 2 or 3."""
        return self.codes.shape[2]

    @property
    def span(self) -> int:
        """Columns that the kernels take at once; they share a scale."""
        return span_of(self.group)

    @classmethod
    def empty(
        cls,
        out_features: int,
        in_features: int,
        planes: int,
        group: int,
        device: torch.device | str | None = None,
    ) -> Self:
        """Room for a matrix; `device` may be meta."""
        blocks, strips = -(-out_features // BLOCK), -(-in_features // STRIP)
        spans = -(-in_features // span_of(group))
        codes = torch.empty((blocks, strips, planes, 64), dtype=torch.uint8, device=device)
        scales = torch.empty((blocks, spans, planes, BLOCK), dtype=torch.int16, device=device)
        return cls(codes, scales, out_features, in_features, group)

    @classmethod
    def expand(cls, rows: Tensor, in_features: int, planes: int, group: int) -> Self:
        """From rows as files have them, uint8 [out_features, row_bytes].

        Raises:
            ValueError: they do not fit the shape, or hold what no row can.
        """
        if native is None:
            codes, scales = reference.layout(
                *reference.unpack(rows.cpu().numpy(), in_features, planes, group), group
            )
            laid = torch.from_numpy(codes), torch.from_numpy(scales.view("i2"))
            return cls(*laid, rows.shape[0], in_features, group).to(rows.device)
        packed = cls.empty(rows.shape[0], in_features, planes, group, "cpu")
        shape = (packed.out_features, in_features, group, packed.span, planes)
        native.expand(rows.cpu().contiguous(), *shape, packed.codes, packed.scales)
        return packed.to(rows.device)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        shape = (self.out_features, self.in_features, self.group)
        return type(self)(self.codes.to(device), self.scales.to(device), *shape)

    def fold(self) -> Tensor:
        """The rows as files have them; the reverse of `expand`."""
        codes, scales = self.codes.cpu(), self.scales.cpu()
        if native is None:
            laid = codes.numpy(), scales.numpy().view("f2")
            shape = (self.out_features, self.in_features, self.group)
            return torch.from_numpy(reference.pack(*reference.unlayout(*laid, *shape)))
        groups = -(-self.in_features // self.group)
        nbytes = self.planes * (-(-self.in_features // 5) + 2 * groups)
        rows = torch.empty((self.out_features, nbytes), dtype=torch.uint8)
        sizes = (self.out_features, self.in_features, self.group, self.span, self.planes)
        native.fold(codes, scales, *sizes, rows)
        return rows

    def dequantize(self) -> Tensor:
        """The weights, float32 [out_features, in_features], on any device."""
        shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=self.codes.device)
        blocks, strips, planes, _ = self.codes.shape
        fields = self.codes.view(blocks, strips, planes, 2, 1, STRIP) >> shifts[:, None] & 3
        trits = fields.permute(0, 3, 4, 2, 1, 5).reshape(blocks * BLOCK, planes, strips * STRIP)
        scales = self.scales.view(torch.float16).permute(0, 3, 2, 1).float()
        each = scales.reshape(blocks * BLOCK, planes, -1).repeat_interleave(self.span, dim=2)
        trits, each = trits[..., : self.in_features], each[..., : self.in_features]
        signed: Tensor = (trits.to(torch.int8) - 1) * each
        weights = signed[:, 0]
        for plane in range(1, planes):
            weights = weights + signed[:, plane]
        return weights[: self.out_features]


@dataclass(frozen=True)
class PackedRows:
    """8-bit rows of one matrix, as embeddings and heads have them.

    Attributes:
        values: int8 [rows, in_features].
        scales: int16 [rows], the bits of float16.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def split(cls, rows: Tensor) -> Self:
        """From rows as files have them, uint8 [rows, in_features + 2]."""
        scales = rows[:, -2:].contiguous().view(torch.int16).reshape(-1)
        return cls(rows[:, :-2].contiguous().view(torch.int8), scales)

    def join(self) -> Tensor:
        """The rows as files have them; the reverse of `split`."""
        parts = [self.values.view(torch.uint8), self.scales[:, None].view(torch.uint8)]
        return torch.cat(parts, dim=1)

    def dequantize(self) -> Tensor:
        """The weights, float32 [rows, in_features]."""
        weights: Tensor = self.values.float() * self.scales.view(torch.float16).float()[:, None]
        return weights
