"""Which elements of a task vector stay: the largest, found without sorting, or a random share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weightsmith.errors import WeightsmithError
from weightsmith.kernels import draws, elementwise, task_vectors
from weightsmith.operators.arithmetic.blends import PIECE, as_bytes, pieces
from weightsmith.operators.taskvectors import Trim
from weightsmith.operators.unit import Block, Unit

Array = NDArray[np.float32]
# Random bits are drawn for rows of this many elements of the flat tensor.
_ROW = 4096
_BINS = 1 << 16
_INFINITE = 0x7F80_0000
# Below this sum of absolute values nothing is rescaled.
_NOTHING = 1e-7


class Keeper(Protocol):
    """Trims a task vector, run after run."""

    factor: float

    def apply(self, vector: Array, first: int) -> None:
        """Trim and rescale in place a run that begins at element `first` of the unit."""


def subtract(out: Array, model: Block, base: Block) -> None:
    """OUT = MODEL - BASE in float32."""
    elementwise.difference(as_bytes(out), "F32", model.data, model.dtype, base.data, base.dtype)


def not_finite(tensor: str) -> WeightsmithError:
    """What is wrong with a task vector that holds NaN or infinity."""
    return WeightsmithError(
        "NaN or infinite elements in a task vector, of which no share and no sign can be taken",
        tensor=tensor,
        remedy=f"--exclude {tensor} copies BASE's",
    )


def keeper_of(trim: Trim, unit: Unit, model: Block) -> Keeper:
    """What trims MODEL - BASE of a unit, BASE being its first input.

    Raises:
        WeightsmithError: the largest are to be kept, and not all elements are finite.
    """
    base = unit.inputs[0]

    def fresh() -> Keeper:
        if trim.key is None:
            return _largest(model, base, trim.density, unit.name)
        factor = 1 / trim.density if trim.rescale == "density" else 1.0
        return _Drawn(trim.key, trim.density, factor, unit.start)

    keeper = fresh()
    if trim.rescale == "l1":
        before = after = 0.0
        for first, vector in _differences(model, base):
            before += float(np.abs(vector).sum(dtype=np.float64))
            keeper.apply(vector, first)
            after += float(np.abs(vector).sum(dtype=np.float64))
        keeper = fresh()
        if min(before, after) >= _NOTHING:
            keeper.factor = before / after
    return keeper


@dataclass
class _Drawn:
    """Keeps the elements whose random bits lie below a limit."""

    key: int
    density: float
    factor: float
    start: int

    def apply(self, vector: Array, first: int) -> None:
        """See Keeper."""
        row, skipped = divmod(self.start + first, _ROW)
        rows = -(-(skipped + len(vector)) // _ROW)
        bits = np.empty((rows, _ROW), np.uint32)
        draws.draw_bits(bits, self.key, row)
        mine = bits.reshape(-1)[skipped : skipped + len(vector)]
        limit = np.uint32(min(round(self.density * 2**32), 2**32 - 1))
        with np.errstate(invalid="ignore"):  # infinity times 0 is NaN, and refused like it
            vector *= mine < limit
        vector *= np.float32(self.factor)


@dataclass
class _Largest:
    """Keeps magnitudes above a threshold, and the first few that equal it.

    Attributes:
        threshold: its float32 bits, which order as magnitudes do.
        equal: how many that equal it are still to be kept; runs must come in order.
        factor: what stays is multiplied by.
    """

    threshold: int
    equal: int
    factor: float = 1.0

    def apply(self, vector: Array, first: int) -> None:
        """See Keeper."""
        del first
        self.equal -= task_vectors.trim(vector, self.threshold, self.equal)
        if self.factor != 1:
            vector *= np.float32(self.factor)


def _largest(model: Block, base: Block, density: float, name: str) -> _Largest:
    """Find the threshold by counting: the upper half of the magnitudes' bits, then the lower."""
    upper, lower = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
    for _, vector in _differences(model, base):
        task_vectors.count(upper, vector, -1)
    if upper[_INFINITE >> 16 :].any():
        raise not_finite(name)
    wanted = max(1, int(density * int(upper.sum())))
    high, wanted = _bin_of(upper, wanted)
    for _, vector in _differences(model, base):
        task_vectors.count(lower, vector, high)
    low, equal = _bin_of(lower, wanted)
    return _Largest(high << 16 | low, equal)


def _bin_of(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """The bin with the `wanted`-th largest value, and its place among those of the bin."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, wanted))
    before = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, wanted - before


def _differences(model: Block, base: Block) -> Iterator[tuple[int, Array]]:
    """MODEL - BASE, run after run, each in the memory of the one before it."""
    scratch = np.empty(PIECE, np.float32)
    for first, (part, origin) in pieces([model, base]):
        vector = scratch[: part.shape[0]]
        subtract(vector, part, origin)
        yield first, vector
