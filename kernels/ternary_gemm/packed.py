"""Weights in the kernel layout, as torch tensors."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from weightsmith.kernels.ternary_gemm import reference
from weightsmith.kernels.ternary_gemm.native import native
from weightsmith.kernels.ternary_gemm.reference import BLOCK, STRIP, span_of


def narrow(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Scales as float16, which hold most of them exactly."""
    with np.errstate(over="ignore"):
        return scales.astype(np.float16)


@dataclass(frozen=True)
class Packed:
    """Trit planes of one matrix [out_features, in_features].

    Attributes:
        codes: uint8 [blocks, strips, planes, 64]; see README.md.
        scales: [blocks, spans, planes, 8], the bits of float16 as int16, or of float32 as int32
            where some scale is no float16: integers, which no cast of a model can hurt.
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

    @property
    def float_scales(self) -> Tensor:
        """The scales as the floats that they are."""
        return self.scales.view(torch.float16 if self.scales.element_size() == 2 else torch.float32)

    @classmethod
    def empty(
        cls,
        out_features: int,
        in_features: int,
        planes: int,
        group: int,
        *,
        wide: bool = False,
        device: torch.device | str | None = None,
    ) -> Self:
        """Room for a matrix; `device` may be meta, `wide` scales are float32."""
        blocks, strips = -(-out_features // BLOCK), -(-in_features // STRIP)
        spans = -(-in_features // span_of(group))
        codes = torch.empty((blocks, strips, planes, 64), dtype=torch.uint8, device=device)
        kind = torch.int32 if wide else torch.int16
        scales = torch.empty((blocks, spans, planes, BLOCK), dtype=kind, device=device)
        return cls(codes, scales, out_features, in_features, group)

    @classmethod
    def of(cls, trits: NDArray[np.int8], scales: NDArray[np.float32], group: int) -> Self:
        """From trits [out, planes, in] and scales [out, groups, planes]."""
        rows, planes, inputs = trits.shape
        packed = cls.empty(rows, inputs, planes, group, wide=bool((narrow(scales) != scales).any()))
        packed.fill(0, trits, scales)
        return packed

    def fill(self, first: int, trits: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        """Write rows from `first`, the start of a block, on the CPU."""
        begin, end = first // BLOCK, -(-(first + len(trits)) // BLOCK)
        codes = self.codes[begin:end].numpy()
        if native is None:
            codes[:] = reference.arrange(trits)
        else:
            native.arrange(np.ascontiguousarray(trits), codes)
        laid = reference.arrange_scales(scales, self.in_features, self.group)
        self.float_scales[begin:end].numpy()[:] = laid

    def rows(self, first: int, count: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Trits and scales of some rows from the start of a block, as `fill` takes them."""
        begin, end = first // BLOCK, -(-(first + count) // BLOCK)
        codes = self.codes[begin:end].cpu().numpy()
        if native is None:
            trits = reference.restore(codes, count, self.in_features)
        else:
            trits = np.empty((count, self.planes, self.in_features), np.int8)
            native.restore(codes, trits)
        laid = self.float_scales[begin:end].cpu().numpy()
        return trits, reference.restore_scales(laid, count, self.in_features, self.group)

    def dequantize(self) -> Tensor:
        """The weights, float32 [out_features, in_features], on any device."""
        shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=self.codes.device)
        blocks, strips, planes, _ = self.codes.shape
        fields = self.codes.view(blocks, strips, planes, 2, 1, STRIP) >> shifts[:, None] & 3
        trits = fields.permute(0, 3, 4, 2, 1, 5).reshape(blocks * BLOCK, planes, strips * STRIP)
        scales = self.float_scales.permute(0, 3, 2, 1).float()
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
