"""Memory that tensors which cannot be cut share: what does not fit waits."""

import threading
from collections.abc import Iterable

from weightsmith.engine.units import granularity_of, nbytes
from weightsmith.operators.operator import Granularity, Operator, Segment, TensorPlan


def memory_for_whole(memory: int) -> int:
    """How much of it tensors may take that cannot be cut; the rest is for pieces of others."""
    return memory - memory // 8


def uncut_memory(tensors: Iterable[TensorPlan], operator: Operator) -> int:
    """Bytes that the largest of the tensors needs that cannot be cut; 0 if all can be.

    Its inputs count as if none of them were mapped.
    """
    return max(
        (
            _segment_bytes(tensor, segment, operator.working_arrays)
            for tensor in tensors
            if granularity_of(tensor, operator.granularity) is Granularity.TENSOR
            for segment in tensor.segments
        ),
        default=0,
    )


def _segment_bytes(tensor: TensorPlan, segment: Segment, arrays: int) -> int:
    size = segment.stop - segment.start
    specs = [slot.spec for slot in segment.slots]
    buffers = nbytes(tensor.spec.dtype, size) + sum(nbytes(s.dtype, s.numel) for s in specs)
    return buffers + arrays * 4 * max(size, *(spec.numel for spec in specs), 0)


class Room:
    """So many bytes; what is larger than all of them gets in when nothing else is there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is room; who takes nothing never waits."""
        if not size:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not self._taken or self._taken + size <= self._size
            )
            self._taken += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        if not size:
            return
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
