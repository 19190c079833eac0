"""Cut a plan into work units that fit the memory, and the buffers they are worked on in."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from weightsmith.checkpoint.shard import PAGE
from weightsmith.dtypes import DTYPES
from weightsmith.header import TensorSpec
from weightsmith.operators.operator import Granularity, Segment, Slot, TensorPlan

# Large enough that handing units from thread to thread costs little, small enough that two results
# and their inputs stay in the last-level cache.
BLOCK_ELEMENTS = 1 << 21
_SMALLEST = 4096
# Buffers of more bytes than a unit that was cut has are not kept for the next.
KEPT = 8 * BLOCK_ELEMENTS + 4 * PAGE


def nbytes(dtype: str, elements: int) -> int:
    """Size of a run of elements."""
    return elements * DTYPES[dtype].bits // 8


@dataclass(frozen=True, slots=True)
class Span:
    """Elements [start, stop) of a tensor of an input; `shape` as in Block."""

    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """Elements [start, stop) of one output tensor, inside one segment; `shape` as in Block."""

    tensor: TensorPlan
    segment: Segment
    start: int
    stop: int
    shape: tuple[int, ...]
    granularity: Granularity

    @property
    def name(self) -> str:
        """The output tensor."""
        return self.tensor.spec.name

    @property
    def out_start(self) -> int:
        """Where the result begins, in bytes from the start of the tensor."""
        return nbytes(self.tensor.spec.dtype, self.start)

    @property
    def out_bytes(self) -> int:
        """Size of the result."""
        return nbytes(self.tensor.spec.dtype, self.stop - self.start)

    def span(self, slot: Slot) -> Span:
        """What the unit needs of an input: all of it, the same elements, or the same rows."""
        spec, out = slot.spec, self.tensor.spec
        if slot.whole:
            return Span(0, spec.numel, spec.shape)
        if self.granularity is Granularity.ELEMENT or spec.shape[-1:] == out.shape[-1:]:
            return Span(self.start, self.stop, self.shape)
        ours, theirs = max(1, out.shape[-1]), spec.shape[-1]
        start, stop = self.start // ours * theirs, self.stop // ours * theirs
        return Span(start, stop, _shape(spec.shape, self.granularity, stop - start))

    def place(self, slot: Slot) -> tuple[int, int]:
        """Where in the bytes of a slot's tensor that begins, and its size."""
        span, dtype = self.span(slot), slot.spec.dtype
        return nbytes(dtype, slot.start + span.start), nbytes(dtype, span.stop - span.start)


def granularity_of(tensor: TensorPlan, usual: Granularity) -> Granularity:
    """Where a tensor may be cut; what is only copied, anywhere."""
    return (tensor.granularity or usual) if tensor.changed else Granularity.ELEMENT


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a unit has to mind where other plans make its inputs as they are asked for.

    Attributes:
        rows: only whole rows can be asked for.
        specs: tensors of which parts of the same size are in memory meanwhile.
    """

    rows: bool = False
    specs: tuple[TensorSpec, ...] = ()


def cut(
    tensor: TensorPlan,
    usual: Granularity,
    memory: int,
    upstream: Callable[[Segment], Upstream] = lambda _: Upstream(),
) -> Iterator[WorkUnit]:
    """Units of a tensor in order, each with buffers of at most `memory` bytes where it may be cut.

    What is only copied may always be cut anywhere.
    """
    for segment in tensor.segments:
        above, allowed = upstream(segment), _allowed(tensor, segment, usual)
        by = Granularity.ROW if above.rows and allowed is Granularity.ELEMENT else allowed
        step = _step(tensor, segment, by, memory, above.specs)
        for start in range(segment.start, segment.stop, step):
            yield piece(tensor, segment, usual, start, min(start + step, segment.stop))


def piece(
    tensor: TensorPlan, segment: Segment, usual: Granularity, start: int, stop: int
) -> WorkUnit:
    """The unit of elements [start, stop) of a segment, which may be cut there."""
    allowed = _allowed(tensor, segment, usual)
    shape = _shape(tensor.spec.shape, allowed, stop - start)
    return WorkUnit(tensor, segment, start, stop, shape, allowed)


def _allowed(tensor: TensorPlan, segment: Segment, usual: Granularity) -> Granularity:
    computed = segment.parameters is not None
    return granularity_of(tensor, usual) if computed else Granularity.ELEMENT


def _shape(whole: tuple[int, ...], granularity: Granularity, elements: int) -> tuple[int, ...]:
    if granularity is Granularity.TENSOR and whole:
        return (elements // max(1, prod(whole[1:])), *whole[1:])  # perhaps not all of the rows
    if granularity is Granularity.ELEMENT or not whole:
        return (elements,)
    return (elements // whole[-1], whole[-1])


def _step(
    tensor: TensorPlan,
    segment: Segment,
    granularity: Granularity,
    memory: int,
    above: Sequence[TensorSpec],
) -> int:
    if granularity is Granularity.TENSOR:
        return max(1, segment.stop - segment.start)
    cut_specs = [tensor.spec, *(slot.spec for slot in segment.slots if not slot.whole), *above]
    room = memory - len(cut_specs) * 2 * PAGE
    if granularity is Granularity.ELEMENT:
        fitting = _fitting(room, cut_specs, (1,) * len(cut_specs))
        return max(_SMALLEST, fitting // _SMALLEST * _SMALLEST)
    rows = [max(1, spec.shape[-1]) if spec.shape else 1 for spec in cut_specs]
    return max(1, _fitting(room, cut_specs, rows)) * rows[0]


def _fitting(room: int, specs: Sequence[TensorSpec], lengths: Sequence[int]) -> int:
    """How many runs of these lengths, one of each tensor, go into a block and into the room."""
    bits = sum(DTYPES[spec.dtype].bits * n for spec, n in zip(specs, lengths, strict=True))
    return min(BLOCK_ELEMENTS // max(lengths), 8 * room // bits)


def page_aligned(size: int) -> memoryview:
    """Fresh memory with room for `size` bytes and two pages."""
    return memoryview(mmap.mmap(-1, -(-size // PAGE) * PAGE + 2 * PAGE))


class Arena:
    """The reused input buffers of one worker: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._areas: dict[int, memoryview] = {}
        self._below: dict[int, Arena] = {}

    def area(self, index: int, size: int) -> memoryview:
        """Buffer number `index` with room for `size` bytes and two pages; its content is lost."""
        area = self._areas.get(index)
        if area is None or len(area) < size + 2 * PAGE:
            self._areas.pop(index, None)
            area = self._areas[index] = page_aligned(size)
        return area

    def trim(self) -> None:
        """Drop large buffers, which would lie idle beside those of other workers."""
        self._areas = {index: area for index, area in self._areas.items() if len(area) <= KEPT}
        for arena in self._below.values():
            arena.trim()

    def below(self, index: int) -> "Arena":
        """More buffers, such as for what buffer number `index` is made of."""
        return self._below.setdefault(index, Arena())
