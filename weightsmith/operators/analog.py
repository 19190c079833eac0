"""The arithmetic of memristor on one work unit: a few rows at a time through devices and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from weightsmith.errors import WeightsmithError
from weightsmith.operators.unit import Block, Unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weightsmith.crossbar.readback import ReadBack
    from weightsmith.crossbar.scale import Range
    from weightsmith.operators.memristor import Memristor

# About so many weights at a time: a few arrays of that size stay in the second-level cache.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Rows:
    """Some rows of a unit.

    Attributes:
        first: number of the first one within the tensor.
        source, out: the input and the result.
    """

    first: int
    source: Block
    out: Block


def few_rows(unit: Unit) -> Iterator[Rows]:
    """A unit, a few rows at a time."""
    source, out = unit.inputs[0], unit.out
    columns = source.shape[-1]
    rows = prod(source.shape) // columns
    step = max(1, _BLOCK // columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        shape = (last - first, columns)
        parts = [
            Block(each.dtype, each.data[first * width : last * width], shape)
            for each in (source, out)
            for width in [len(each.data) // rows]
        ]
        yield Rows(unit.start // columns + first, *parts)


def holding(operator: Memristor) -> Callable[[Unit], int]:
    """The function of devices that hold conductances."""
    from weightsmith.crossbar.cells import Mapping
    from weightsmith.crossbar.chip import Chip
    from weightsmith.crossbar.device import Cell
    from weightsmith.crossbar.faults import Stuck
    from weightsmith.crossbar.readback import Copies, factors, read_back
    from weightsmith.crossbar.redundancy import Combine
    from weightsmith.crossbar.scale import Range
    from weightsmith.crossbar.streams import Streams
    from weightsmith.crossbar.tally import Tally

    chip = Chip(
        Mapping(operator.model, operator.levels, operator.cells_per_weight),
        operator.time or 0.0,
        Stuck(operator.stuck_on, operator.stuck_off),
        operator.noise,
        operator.drift,
        operator.read_noise,
    )
    symmetric = chip.mapping.device.cell is not Cell.SINGLE
    compensate = operator.compensate if chip.ages else "none"

    def range_of(weights: NDArray[np.float32], name: str) -> Range:
        found = Range.of(weights, operator.tile, symmetric=symmetric)
        if not found.finite:
            raise WeightsmithError(
                "weights are NaN or infinite, which no device can hold",
                tensor=name,
                remedy=f"--exclude {name} copies it",
            )
        return found

    def hold(unit: Unit) -> int:
        streams = Streams(operator.seed, unit.name)
        copies = Copies(unit.parameters, Combine(operator.combine))
        common: Range | None = None
        if operator.scale == "tensor":
            common = Range.common(
                [range_of(rows.source.float32(), unit.name) for rows in few_rows(unit)]
            )

        def read(rows: Rows) -> ReadBack:
            weights = rows.source.float32()
            return read_back(
                chip, weights, common or range_of(weights, unit.name), streams, rows.first, copies
            )

        alpha: Any = None
        if compensate == "tensor":
            # The second pass finds the same draws again, so nothing is kept of the first.
            sizes = [read(rows).sizes for rows in few_rows(unit)]
            alpha = factors(
                *(sum(part.sum() for part in parts) for parts in zip(*sizes, strict=True))
            )
        overflows, tally = 0, Tally()
        for rows in few_rows(unit):
            found = read(rows)
            if compensate == "row":
                alpha = factors(*found.sizes)
            result, error = found.weights - found.final, found.final
            if alpha is not None:
                result *= alpha
                error = found.weights - result
            overflows += rows.out.store(result)
            tally.add(found.weights, error, copies.number, found.shrinkage)
        unit.report(tally.sums)
        return overflows

    return hold


def flipping(operator: Memristor) -> Callable[[Unit], int]:
    """The function of memory whose bits flip."""
    import numpy as np

    from weightsmith.crossbar.bits import flip_bits
    from weightsmith.crossbar.chip import Place
    from weightsmith.crossbar.redundancy import Combine, combine
    from weightsmith.crossbar.streams import Streams
    from weightsmith.crossbar.tally import Tally
    from weightsmith.devices.bitflip import BitFlip

    memory = operator.model
    assert isinstance(memory, BitFlip)

    def flip(unit: Unit) -> int:
        streams = Streams(operator.seed, unit.name)
        overflows, tally = 0, Tally()
        for rows in few_rows(unit):
            source = rows.source
            stored = np.frombuffer(source.data, "u4" if source.dtype == "F32" else "u2")
            stored = stored.reshape(source.shape)
            copies = (
                flip_bits(stored, memory.rate, Place(streams, copy, rows.first))
                for copy in range(unit.parameters)
            )
            values = (
                Block(source.dtype, memoryview(copy).cast("B"), source.shape).float32()  # type: ignore[arg-type]
                for copy in copies
            )
            with np.errstate(all="ignore"):  # a flip may give anything
                result = combine(values, Combine(operator.combine))
                overflows += rows.out.store(result)
                tally.add(source.float32(), source.float32() - result, unit.parameters)
        unit.report(tally.sums)
        return overflows

    return flip
