"""Stored tensors as matrices that are in float32 only a part at a time: none has a second copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from weightsmith.dtypes import DTYPES
from weightsmith.kernels import elementwise
from weightsmith.staging import upload

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cut: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True)
class StoredMatrix:
    """The elements of a tensor, as they are stored; a weightsmith.spectral.Matrix.

    Attributes:
        words: [out, rest], the dimensions after the first joined; unsigned integers of the
            elements' width, not necessarily aligned.
        dtype: of the elements, the format's name.
    """

    words: NDArray[Any]
    dtype: str

    @classmethod
    def of(cls, data: memoryview, dtype: str, shape: tuple[int, ...]) -> StoredMatrix:
        """A view of the bytes of a tensor of two or more dimensions."""
        words = np.frombuffer(data, f"u{DTYPES[dtype].bits // 8}")
        return cls(words.reshape(shape[0], -1), dtype)

    def raw(self, cut: Cut) -> memoryview:
        """The bytes of a part, row after row."""
        return _bytes(np.ascontiguousarray(self.words[cut]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.words.shape

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return torch.device("cpu")

    def __getitem__(self, cut: Cut) -> torch.Tensor:
        """A part, widened exactly to float32."""
        found = np.empty(self.words[cut].shape, np.float32)
        elementwise.cast(_bytes(found), "F32", self.raw(cut), self.dtype)
        return torch.from_numpy(found)

    def store(self, cut: Cut, values: torch.Tensor) -> int:
        """Round float32 values into a part, to nearest even; returns how many overflowed."""
        part = self.words[cut]
        rounded = np.empty(part.shape, part.dtype)
        source = np.ascontiguousarray(values.numpy())
        overflows = elementwise.cast(_bytes(rounded), self.dtype, _bytes(source), "F32")
        part[...] = rounded
        return overflows


@dataclass(frozen=True)
class Difference:
    """`left - right` in float32, computed where it is cut; a weightsmith.spectral.Matrix.

    Attributes:
        left, right: of one shape.
    """

    left: StoredMatrix
    right: StoredMatrix

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.left.shape

    def __getitem__(self, cut: Cut) -> torch.Tensor:
        left, right = self.left, self.right
        found = np.empty(left.words[cut].shape, np.float32)
        a, b = left.raw(cut), right.raw(cut)
        elementwise.difference(_bytes(found), "F32", a, left.dtype, b, right.dtype)
        return torch.from_numpy(found)


@dataclass(frozen=True)
class DeviceDifference:
    """The same bits as Difference, on a device that holds both matrices as they are stored."""

    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, left: StoredMatrix, right: StoredMatrix, device: torch.device) -> DeviceDifference:
        """Send both to the device."""
        sent = (upload(_bytes(m.words), m.dtype, m.words.shape, device) for m in (left, right))
        return cls(*sent)

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return self.left.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return tuple(self.left.shape)

    def __getitem__(self, cut: Cut) -> torch.Tensor:
        return self.left[cut].float() - self.right[cut].float()


def difference(
    left: StoredMatrix, right: StoredMatrix, device: torch.device
) -> Difference | DeviceDifference:
    """`left - right` in float32, whose parts are on the device."""
    if device.type == "cpu":
        return Difference(left, right)
    return DeviceDifference.of(left, right, device)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
