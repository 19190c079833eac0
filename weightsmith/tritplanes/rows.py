"""Packed rows to arrays and back; the layout is that of docs/formats.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightsmith.kernels import trit_fit
from weightsmith.tritplanes.encoding import Encoding, Int8Encoding, TritEncoding


@dataclass(frozen=True)
class Planes:
    """Rows as trit planes.

    Attributes:
        trits: int8 [rows, planes, columns].
        scales: float32 that float16 holds, [rows, groups, planes], not negative.
        choice: uint8 [rows, groups], the ratio that the scales are tied to.
    """

    trits: NDArray[np.int8]
    scales: NDArray[np.float32]
    choice: NDArray[np.uint8]


class InvalidRows(ValueError):
    """The bytes are not rows of this encoding; says what is wrong."""


def pack_trits(encoding: TritEncoding, planes: Planes) -> NDArray[np.uint8]:
    """Rows of bytes, [rows, row_bytes]."""
    rows = len(planes.trits)
    packed = np.empty((rows, encoding.row_bytes), np.uint8)
    trit_fit.pack(_trit_bytes(packed, encoding), planes.trits)
    scales, choice = _tails(packed, encoding)
    stored = planes.scales
    if encoding.ratios:
        largest = np.array([ratio[0] for ratio in encoding.ratios], np.float32)
        stored = planes.scales[:, :, :1] / largest[planes.choice][:, :, None]
    scales[:] = stored.astype("<f2").reshape(rows, encoding.scale_bytes // 2).view(np.uint8)
    if choice is not None:
        choice[:] = planes.choice
    return packed


def unpack_trits(encoding: TritEncoding, packed: NDArray[np.uint8]) -> Planes:
    """What `pack_trits` was given.

    Raises:
        InvalidRows: codes that are no trits, scales that are negative or not finite.
    """
    rows = len(packed)
    trits = np.empty((rows, encoding.planes, encoding.columns), np.int8)
    if invalid := trit_fit.unpack(trits, _trit_bytes(packed, encoding)):
        raise InvalidRows(f"{invalid} bytes are no five trits")
    scale_bytes, choice_bytes = _tails(packed, encoding)
    stored = np.ascontiguousarray(scale_bytes).view("<f2").astype(np.float32)
    if not (np.isfinite(stored).all() and (stored >= 0).all()):
        raise InvalidRows("a scale is negative or not finite")
    choice = np.zeros((rows, encoding.groups), np.uint8)
    if not encoding.ratios:
        return Planes(trits, stored.reshape(rows, encoding.groups, encoding.planes), choice)
    if choice_bytes is not None:
        choice[:] = choice_bytes
        if choice.size and choice.max() >= len(encoding.ratios):
            raise InvalidRows("a group's ratio is not in the list")
    table = np.array(encoding.ratios, np.float32)
    return Planes(trits, stored[:, :, None] * table[choice], choice)


def _trit_bytes(packed: NDArray[np.uint8], encoding: TritEncoding) -> NDArray[np.uint8]:
    """The bytes of the planes, [rows, planes, plane_bytes], within the rows."""
    return np.lib.stride_tricks.as_strided(
        packed,
        (len(packed), encoding.planes, encoding.plane_bytes),
        (packed.strides[0], encoding.plane_bytes, 1),
        writeable=packed.flags.writeable,
    )


def _tails(
    packed: NDArray[np.uint8], encoding: TritEncoding
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The bytes of scales and, where there are any, of the groups' ratios."""
    start = encoding.planes * encoding.plane_bytes
    end = start + encoding.scale_bytes
    choice = packed[:, end:] if len(encoding.ratios) > 1 else None
    return packed[:, start:end], choice


def pack_int8(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of bytes, [rows, columns + 2]: nearest of 255 levels, scale = largest magnitude / 127.

    Raises:
        OverflowError: a scale is too large for float16.
    """
    rows, columns = weights.shape
    largest = np.abs(weights).max(axis=1, initial=0)
    with np.errstate(over="ignore"):
        scales = (largest / np.float32(127)).astype("<f2")
    if not np.isfinite(scales).all():
        raise OverflowError
    wide = scales.astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(wide > 0, np.rint(weights / wide), 0)
    packed = np.empty((rows, columns + 2), np.uint8)
    packed[:, :columns] = np.clip(levels, -127, 127).astype(np.int8).view(np.uint8)
    packed[:, columns:] = scales[:, None].view(np.uint8)
    return packed


def unpack_int8(packed: NDArray[np.uint8]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers [rows, columns] and scales [rows].

    Raises:
        InvalidRows: a scale is negative or not finite.
    """
    scales = np.ascontiguousarray(packed[:, -2:]).view("<f2")[:, 0].astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise InvalidRows("a scale is negative or not finite")
    return np.ascontiguousarray(packed[:, :-2]).view(np.int8), scales


def expand(encoding: TritEncoding, planes: Planes) -> NDArray[np.float32]:
    """The weights that the planes stand for, [rows, columns]."""
    weights = np.empty((len(planes.trits), encoding.columns), np.float32)
    trit_fit.expand(weights, planes.trits, planes.scales, encoding.group)
    return weights


def decode(encoding: Encoding, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The weights that packed rows stand for, [rows, columns].

    Raises:
        InvalidRows: the bytes are not rows of this encoding.
    """
    if isinstance(encoding, Int8Encoding):
        levels, scales = unpack_int8(packed)
        return levels * scales[:, None]
    return expand(encoding, unpack_trits(encoding, packed))
