"""The arithmetic of memristor on one work unit: a few rows at a time through devices and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from weightsmith.errors import WeightsmithError
from weightsmith.operators.unit import Block, Unit
from weightsmith.tritplanes.encoding import Encoding, TritEncoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weightsmith.crossbar.readback import ReadBack
    from weightsmith.crossbar.scale import Range
    from weightsmith.operators.memristor import Memristor
    from weightsmith.tritplanes.rows import Planes

# About so many weights at a time: a few arrays of that size stay in the second-level cache.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Job:
    """What `plan` leaves for a tensor.

    Attributes:
        copies: on devices; 0 for a packed tensor that stays digital and only becomes dense.
        encoding: how it is packed, if it is.
    """

    copies: int
    encoding: Encoding | None = None


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
    columns = out.shape[-1]
    rows = prod(out.shape) // columns
    step = max(1, _BLOCK // columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        parts = [
            Block(each.dtype, each.data[first * width : last * width], (last - first, length))
            for each in (source, out)
            for width, length in [(len(each.data) // rows, each.shape[-1])]
        ]
        yield Rows(unit.start // columns + first, *parts)


def dense(rows: Rows, encoding: Encoding | None, name: str) -> NDArray[np.float32]:
    """The weights of some rows, whether they are packed or not.

    Raises:
        InvalidFile: packed rows are not what they should be.
    """
    if encoding is None:
        return rows.source.float32()
    from weightsmith.operators.arithmetic.quantizing import decode

    return decode(rows.source, encoding, name)


def packed(rows: Rows, encoding: Encoding) -> NDArray[np.uint8]:
    """The bytes of packed rows."""
    import numpy as np

    return np.frombuffer(rows.source.data, np.uint8).reshape(-1, encoding.row_bytes)


def plane_by_plane(
    planes: Planes, encoding: TritEncoding
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Trits and scales of each plane, both [rows, columns]."""
    import numpy as np

    for k in range(encoding.planes):
        scales = np.repeat(planes.scales[:, :, k], encoding.group, axis=1)
        yield planes.trits[:, k].astype(np.float32), scales[:, : encoding.columns]


def holding(operator: Memristor) -> Callable[[Unit], int]:
    """The function of devices that hold conductances."""
    from weightsmith.crossbar.cells import Mapping
    from weightsmith.crossbar.chip import Chip
    from weightsmith.crossbar.device import Cell
    from weightsmith.crossbar.faults import Stuck
    from weightsmith.crossbar.readback import Copies, Holding, factors
    from weightsmith.crossbar.redundancy import Combine
    from weightsmith.crossbar.scale import Range
    from weightsmith.crossbar.streams import Streams
    from weightsmith.crossbar.tally import Tally
    from weightsmith.tritplanes.rows import unpack_trits

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

    def reader(unit: Unit) -> Callable[[Rows], ReadBack]:
        job: Job = unit.parameters
        streams = Streams(operator.seed, unit.name)
        copies = Copies(job.copies, Combine(operator.combine))
        common: Range | None = None
        if operator.scale == "tensor" and not isinstance(job.encoding, TritEncoding):
            parts = (dense(rows, job.encoding, unit.name) for rows in few_rows(unit))
            common = Range.common([range_of(part, unit.name) for part in parts])

        def read(rows: Rows) -> ReadBack:
            weights = dense(rows, job.encoding, unit.name)
            held = Holding(chip, streams, rows.first, copies)
            if isinstance(job.encoding, TritEncoding):
                planes = unpack_trits(job.encoding, packed(rows, job.encoding))
                return held.read_back_planes(weights, plane_by_plane(planes, job.encoding))
            return held.read_back(weights, common or range_of(weights, unit.name))

        return read

    def hold(unit: Unit) -> int:
        job: Job = unit.parameters
        if not job.copies:
            return sum(
                rows.out.store(dense(rows, job.encoding, unit.name)) for rows in few_rows(unit)
            )
        read = reader(unit)
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
            tally.add(found.weights, error, job.copies, found.shrinkage)
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
                for copy in range(unit.parameters.copies)
            )
            values = (
                Block(source.dtype, memoryview(copy).cast("B"), source.shape).float32()  # type: ignore[arg-type]
                for copy in copies
            )
            with np.errstate(all="ignore"):  # a flip may give anything
                result = combine(values, Combine(operator.combine))
                overflows += rows.out.store(result)
                tally.add(source.float32(), source.float32() - result, unit.parameters.copies)
        unit.report(tally.sums)
        return overflows

    return flip
