"""Layers that compute with packed rows: expanded once when the model is loaded, never to floats.

Each keeps the parameter `weight` that files have, uint8 [out, row_bytes], until `expand_rows` puts
integer buffers in its place; its state dict has those rows again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightsmith.kernels.ternary_gemm import Packed, PackedRows, int8_linear, ternary_linear
from weightsmith.kernels.ternary_gemm.packed import narrow
from weightsmith.tritplanes.encoding import Int8Encoding, TritEncoding
from weightsmith.tritplanes.rows import Planes, pack_trits, unpack_int8, unpack_trits

_ROWS = 1024  # rows that are unpacked at once


class PackedLayer(nn.Module):
    """What the layers share: rows as a parameter first, buffers later, rows in the state dict."""

    weight: nn.Parameter | None

    def __init__(self, rows: int, row_bytes: int) -> None:
        super().__init__()
        packed = torch.empty((rows, row_bytes), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def expand_rows(self) -> None:
        """Turn the rows that were loaded into what the kernels read."""
        raise NotImplementedError

    def take_rows(self) -> Tensor:
        """The rows that were loaded; the parameter goes."""
        assert self.weight is not None, "rows are expanded once"
        rows = self.weight.data
        self.weight = None
        return rows

    def rows(self) -> Tensor:
        """The rows as files have them."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight is None:
            destination[prefix + "weight"] = self.rows()


class TernaryLinear(PackedLayer):
    """A linear layer on trit planes.

    Args:
        encoding: of its weights [out, in].
        act: see `ternary_linear`.
        bias: that of the layer it stands for.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, encoding: TritEncoding, act: str, bias: nn.Parameter | None) -> None:
        out, inputs = encoding.shape
        super().__init__(out, encoding.row_bytes)
        self.in_features, self.out_features = inputs, out
        self.encoding, self.act, self.bias = encoding, act, bias

    @property
    def packed(self) -> Packed:
        """The weights in the kernel layout."""
        shape = (self.out_features, self.in_features, self.encoding.group)
        return Packed(self.codes, self.scales, *shape)

    def expand_rows(self) -> None:
        """See PackedLayer.

        Raises:
            InvalidRows: the rows are damaged.
        """
        stored = self.take_rows()
        rows, encoding = stored.cpu().numpy(), self.encoding
        wide = bool(encoding.ratios) and any(
            bool((narrow(part.scales) != part.scales).any())
            for part in map(self._unpacked, _parts(rows))
        )
        packed = Packed.empty(
            self.out_features, self.in_features, encoding.planes, encoding.group, wide=wide
        )
        for number, part in enumerate(_parts(rows)):
            planes = self._unpacked(part)
            packed.fill(number * _ROWS, planes.trits, planes.scales)
        self.register_buffer("codes", packed.codes.to(stored.device), persistent=False)
        self.register_buffer("scales", packed.scales.to(stored.device), persistent=False)

    def _unpacked(self, rows: np.ndarray[Any, np.dtype[np.uint8]]) -> Planes:
        return unpack_trits(self.encoding, rows)

    def rows(self) -> Tensor:
        """See PackedLayer; where a group's scales are zero, its ratio may be another one."""
        packed, encoding = self.packed, self.encoding
        result = torch.empty((self.out_features, encoding.row_bytes), dtype=torch.uint8)
        for first in range(0, self.out_features, _ROWS):
            count = min(_ROWS, self.out_features - first)
            trits, scales = packed.rows(first, count)
            planes = Planes(trits, scales, _choices(encoding, scales))
            result[first : first + count] = torch.from_numpy(pack_trits(encoding, planes))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """X [.., in] to [.., out]."""
        return ternary_linear(x, self.packed, act=self.act, bias=self.bias)

    def extra_repr(self) -> str:
        """For print."""
        planes, group = self.encoding.planes, self.encoding.group
        return f"{self.in_features}, {self.out_features}, planes={planes}, group={group}"


class _Rows(PackedLayer):
    """8-bit rows."""

    values: Tensor
    scales: Tensor

    def __init__(self, encoding: Int8Encoding) -> None:
        super().__init__(encoding.shape[0], encoding.row_bytes)

    @property
    def packed(self) -> PackedRows:
        """Integers and scales apart."""
        return PackedRows(self.values, self.scales)

    def expand_rows(self) -> None:
        """See PackedLayer.

        Raises:
            InvalidRows: a scale is negative or not finite.
        """
        stored = self.take_rows()
        unpack_int8(stored[:, -2:].cpu().numpy())
        self.share(PackedRows.split(stored))

    def share(self, packed: PackedRows) -> None:
        """Use rows that another layer may use too."""
        self.weight = None
        self.register_buffer("values", packed.values, persistent=False)
        self.register_buffer("scales", packed.scales, persistent=False)

    def rows(self) -> Tensor:
        """See PackedLayer."""
        return self.packed.join()


class Int8Embedding(_Rows):
    """An embedding of 8-bit rows; gives rows of `dtype`."""

    def __init__(self, encoding: Int8Encoding, dtype: torch.dtype, padding: int | None) -> None:
        super().__init__(encoding)
        self.num_embeddings, self.embedding_dim = encoding.shape
        self.dtype, self.padding_idx = dtype, padding

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [..] to rows [.., dim]."""
        scales = self.scales.view(torch.float16)[ids].float()
        rows: Tensor = self.values[ids].float() * scales[..., None]
        return rows.to(self.dtype)


class Int8Linear(_Rows):
    """A linear layer of 8-bit rows, such as a head.

    Args:
        encoding: of its weights [out, in].
        act: see `int8_linear`.
        bias: that of the layer it stands for.
        tied_to: the embedding whose rows these are.
    """

    def __init__(
        self,
        encoding: Int8Encoding,
        act: str,
        bias: nn.Parameter | None,
        tied_to: Int8Embedding | None = None,
    ) -> None:
        super().__init__(encoding)
        self.out_features, self.in_features = encoding.shape
        self.act, self.bias = act, bias
        self._tied_to = [tied_to]  # a list, so that the embedding is not a part of this layer

    @property
    def tied(self) -> bool:
        """Whether an embedding has the same rows."""
        return self._tied_to != [None]

    def expand_rows(self) -> None:
        """See PackedLayer."""
        (embedding,) = self._tied_to
        if embedding is None:
            super().expand_rows()
            return
        if embedding.weight is not None:
            embedding.expand_rows()
        self.share(embedding.packed)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # The embedding writes the rows; until they are loaded, transformers looks for them here.
        if self.weight is not None or not self.tied:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def forward(self, x: Tensor) -> Tensor:
        """X [.., in] to [.., out]."""
        y = int8_linear(x, self.packed, act=self.act)
        return y if self.bias is None else y + self.bias


def _parts(
    rows: np.ndarray[Any, np.dtype[np.uint8]],
) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]


def _choices(
    encoding: TritEncoding, scales: np.ndarray[Any, np.dtype[np.float32]]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Which ratio each group's scales stand in."""
    result = np.zeros(scales.shape[:2], np.uint8)
    for number, ratio in enumerate(encoding.ratios):
        parts = np.array(ratio, np.float32)
        fits = (scales * parts[0] == scales[:, :, :1] * parts).all(axis=2)
        result[fits & (scales[:, :, 0] > 0)] = number
    return result
