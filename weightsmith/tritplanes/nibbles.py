"""Trit planes with tied scales as 4-bit integers, as compressed-tensors 0.20 stores them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.int4 import PER_WORD
from weightsmith.tritplanes.rows import Planes

_OFFSET = 8


def integers(encoding: TritEncoding, planes: Planes) -> NDArray[np.int8]:
    """The integers in -7..7 that the units are multiplied with, [rows, columns]."""
    table = np.array(encoding.ratios, np.int8)[planes.choice]
    spread = np.repeat(table, encoding.group, axis=1)[:, : encoding.columns].transpose(0, 2, 1)
    levels: NDArray[np.int8] = (planes.trits * spread).sum(axis=1, dtype=np.int8)
    return levels


def words(levels: NDArray[np.int8]) -> NDArray[np.int32]:
    """Integers [rows, columns] plus 8, in words [rows, columns / 8], lowest bits first."""
    nibbles = (levels + _OFFSET).astype(np.uint32).reshape(len(levels), -1, PER_WORD)
    shifts = np.arange(PER_WORD, dtype=np.uint32) * 4
    joined: NDArray[np.uint32] = np.bitwise_or.reduce(nibbles << shifts, axis=2)
    return joined.view(np.int32)


def units(encoding: TritEncoding, planes: Planes) -> NDArray[np.float16]:
    """The scales [rows, groups] that belong to the integers."""
    largest = np.array([ratio[0] for ratio in encoding.ratios], np.float32)
    return (planes.scales[:, :, 0] / largest[planes.choice]).astype(np.float16)
