"""Weights as a chip would give them back: copies combined, drift compensated, and what it cost.

The result is W minus an error mapped back to weights, not a mapped-back weight: where nothing
happens, the error is +0 and every bit of W stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
        """Sums of |W| of each row after programming and at the end, in float64.

        Widened first: a sum that widens as it goes works in pieces that do not end with rows, so
        the order of additions would depend on which rows there are.
        """
        fresh, final = (
            np.abs(self.weights - error).astype(np.float64).sum(axis=1, keepdims=True)
            for error in (self.fresh, self.final)
        )
        return fresh, final


@dataclass(frozen=True)
class Copies:
    """How many times a weight is held, and how the copies are read."""

    number: int = 1
    combine: Combine = Combine.MEAN


@dataclass(frozen=True)
class Holding:
    """Rows on devices.

    Attributes:
        chip: the devices.
        streams: the tensor's draws.
        first_row: of the tensor.
        copies: of each weight.
    """

    chip: Chip
    streams: Streams
    first_row: int
    copies: Copies

    def errors(self, x: Float) -> tuple[Float, Float]:
        """What is lost of conductances: (after programming, at the end), copies combined."""

        def of_copies() -> Iterator[tuple[Float, Float]]:
            for copy in range(self.copies.number):
                yield self.chip.errors(x, Place(self.streams, copy, self.first_row))

        how = self.copies.combine
        if self.chip.ages:
            fresh, final = (combine(iter(e), how) for e in zip(*of_copies(), strict=True))
            return fresh, final
        final = combine((error for _, error in of_copies()), how)
        return final, final

    def shrinkage(self, signs: Float, final: Float) -> float:
        """Sum of sign(W) times the error, in parts of the device's range."""
        device = self.chip.mapping.device
        if device.cell is Cell.SIGNED:
            return 0.0  # a model of the weight as a whole is cut off nowhere
        return float(np.vdot(signs, final)) / (device.g_max - device.g_min)

    def read_back(self, weights: Float, scale: Range) -> ReadBack:
        """Weights as they are at the end of the chip's time."""
        mapping = self.chip.mapping
        step = scale.spread(mapping.step(scale))
        fresh, final = self.errors(mapping.conductances(weights, scale))
        shrinkage = self.shrinkage(np.sign(weights), final)
        if self.chip.ages:
            fresh *= step
        final *= step
        return ReadBack(weights, fresh, final, shrinkage)

    def read_back_planes(self, weights: Float, planes: Iterable[tuple[Float, Float]]) -> ReadBack:
        """Sums of scaled trit planes, of which the trits lie on devices and the scales do not.

        Args:
            weights: the sums, [rows, columns].
            planes: (trits, their scales), each of the same shape.
        """
        device = self.chip.mapping.device
        single = device.cell is Cell.SINGLE
        # A trit spans both halves of a pair, but only the range of a single device.
        step = np.float32((2 if single else 1) / (device.g_max - device.g_min))
        fresh = final = np.zeros_like(weights)
        shrinkage = 0.0
        for number, (trits, scales) in enumerate(planes):
            part = replace(self, streams=replace(self.streams, part=f"plane {number}, "))
            lost = part.errors(((trits + 1) if single else trits) * (1 / step))
            shrinkage += self.shrinkage(trits, lost[1])
            fresh = fresh + lost[0] * (scales * step)
            final = final + lost[1] * (scales * step)
        return ReadBack(weights, fresh, final, shrinkage)


def factors(fresh: Any, final: Any) -> Float:
    """What brings the mean size at the end to that after programming; 1 where nothing is left."""
    ones = np.ones(np.shape(final))
    quotients: Any = np.divide(fresh, final, out=ones, where=np.asarray(final) > 0)
    return np.asarray(quotients, np.float32)
