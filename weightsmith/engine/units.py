"""Cut a plan into work units that fit the memory, and the buffers they are worked on in."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from weightsmith.checkpoint.shard import PAGE
from weightsmith.dtypes import DTYPES
from weightsmith.operators.operator import Granularity, Segment, TensorPlan

# Large enough that handing units from thread to thread costs little, small enough that two results
# and their inputs stay in the last-level cache.
BLOCK_ELEMENTS = 1 << 21
_SMALLEST = 4096


def nbytes(dtype: str, elements: int) -> int:
    """Size of a run of elements."""
    return elements * DTYPES[dtype].bits // 8


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """Elements [start, stop) of one output tensor, inside one segment; `shape` as in Block."""

    tensor: TensorPlan
    segment: Segment
    start: int
    stop: int
    shape: tuple[int, ...]

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


def cut(tensor: TensorPlan, granularity: Granularity, memory: int) -> Iterator[WorkUnit]:
    """Units of a tensor in order, each with buffers of at most `memory` bytes where it may be cut.

    What is only copied may always be cut anywhere.
    """
    for segment in tensor.segments:
        allowed = Granularity.ELEMENT if segment.parameters is None else granularity
        step = _step(tensor, segment, allowed, memory)
        for start in range(segment.start, segment.stop, step):
            stop = min(start + step, segment.stop)
            shape = _shape(tensor.spec.shape, allowed, stop - start)
            yield WorkUnit(tensor, segment, start, stop, shape)


def _shape(whole: tuple[int, ...], granularity: Granularity, elements: int) -> tuple[int, ...]:
    if granularity is Granularity.TENSOR and whole:
        return (elements // max(1, prod(whole[1:])), *whole[1:])  # perhaps not all of the rows
    if granularity is Granularity.ELEMENT or not whole:
        return (elements,)
    return (elements // whole[-1], whole[-1])


def _step(tensor: TensorPlan, segment: Segment, granularity: Granularity, memory: int) -> int:
    if granularity is Granularity.TENSOR:
        return max(1, segment.stop - segment.start)
    dtypes = [tensor.spec.dtype, *(slot.spec.dtype for slot in segment.slots)]
    per_element = sum(DTYPES[dtype].bits for dtype in dtypes) / 8
    room = memory - len(dtypes) * 2 * PAGE
    fitting = min(BLOCK_ELEMENTS, int(room / per_element))
    if granularity is Granularity.ELEMENT:
        return max(_SMALLEST, fitting // _SMALLEST * _SMALLEST)
    row = max(1, tensor.spec.shape[-1]) if tensor.spec.shape else 1
    return max(1, fitting // row) * row


def page_aligned(size: int) -> memoryview:
    """Fresh memory with room for `size` bytes and two pages."""
    return memoryview(mmap.mmap(-1, -(-size // PAGE) * PAGE + 2 * PAGE))


class Arena:
    """The reused input buffers of one worker: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._areas: dict[int, memoryview] = {}

    def area(self, index: int, size: int) -> memoryview:
        """Buffer number `index` with room for `size` bytes and two pages; its content is lost."""
        area = self._areas.get(index)
        if area is None or len(area) < size + 2 * PAGE:
            self._areas.pop(index, None)
            area = self._areas[index] = page_aligned(size)
        return area
