"""Weights as a chip would give them back: copies combined, drift compensated, and what it cost.

The result is W minus an error mapped back to weights, not a mapped-back weight: where nothing
happens, the error is +0 and every bit of W stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from weightsmith.crossbar.chip import Chip, Place
from weightsmith.crossbar.device import Cell
from weightsmith.crossbar.redundancy import Combine, combine
from weightsmith.crossbar.scale import Range

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float
    from weightsmith.crossbar.streams import Streams


class Compensate(StrEnum):
    """What one drift-compensating factor covers."""

    NONE = "none"
    TENSOR = "tensor"
    ROW = "row"


@dataclass(frozen=True)
class ReadBack:
    """Rows of weights, what was lost of them, and the ranges they were mapped by.

    Attributes:
        weights: [rows, columns].
        fresh, final: their errors in weights after programming and at the end.
        shrinkage: sum over weights of sign(W) times the error, in parts of the device's range.
    """

    weights: Float
    fresh: Float
    final: Float
    shrinkage: float

    @property
    def sizes(self) -> tuple[Float, Float]:
        """Sums of |W| of each row after programming and at the end, in float64."""
        fresh, final = (
            np.abs(self.weights - error).sum(axis=1, keepdims=True, dtype=np.float64)
            for error in (self.fresh, self.final)
        )
        return fresh, final


def read_back(
    chip: Chip, weights: Float, scale: Range, streams: Streams, first_row: int, copies: Copies
) -> ReadBack:
    """Put rows of weights on devices and read them at the end of the chip's time."""
    mapping = chip.mapping
    x = mapping.conductances(weights, scale)
    step = scale.spread(mapping.step(scale))

    def of_copies() -> Iterator[tuple[Float, Float]]:
        for copy in range(copies.number):
            yield chip.errors(x, Place(streams, copy, first_row))

    if chip.ages:
        pairs = list(of_copies())
        fresh, final = (combine(iter(e), copies.combine) for e in zip(*pairs, strict=True))
    else:
        fresh = final = combine((error for _, error in of_copies()), copies.combine)
    span = mapping.device.g_max - mapping.device.g_min
    # The models of weights as a whole have no end of a range to be cut off at.
    biased = mapping.device.cell is not Cell.SIGNED
    shrinkage = float(np.vdot(np.sign(weights), final)) / span if biased else 0.0
    final = final * step
    return ReadBack(weights, fresh * step if chip.ages else final, final, shrinkage)


@dataclass(frozen=True)
class Copies:
    """How many times a weight is held, and how the copies are read."""

    number: int = 1
    combine: Combine = Combine.MEAN


def factors(fresh: Any, final: Any) -> Float:
    """What brings the mean size at the end to that after programming; 1 where nothing is left."""
    ones = np.ones(np.shape(final))
    quotients: Any = np.divide(fresh, final, out=ones, where=np.asarray(final) > 0)
    return np.asarray(quotients, np.float32)
