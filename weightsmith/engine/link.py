"""A plan whose output is read rather than written: the source between two commands of a chain.

Only what a reader asks for is made, in the reader's own unit, so that a tensor passes all commands
of a chain while it is in the cache. What several output tensors read, or what cannot be made piece
by piece, is made once and held until it has been read.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from weightsmith.checkpoint.renamed import RenamedSource
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.source import Source
from weightsmith.checkpoint.workspace import write_errors
from weightsmith.dtypes import DTYPES
from weightsmith.engine.maker import Maker
from weightsmith.engine.units import (
    Arena,
    Upstream,
    WorkUnit,
    cut,
    granularity_of,
    page_aligned,
    piece,
)
from weightsmith.header import TensorSpec
from weightsmith.operators.operator import Granularity, Segment, Slot, TensorPlan

if TYPE_CHECKING:
    from weightsmith.engine.plan import Plan

Ready = Callable[[], memoryview]
_IN_MEMORY = 1 << 16  # what is held up to this size needs no file


class Link:
    """A plan as a source; see `source.Source` for the protocol.

    Args:
        maker: makes the units of the plan.
        plan: complete: its header is what a pipe would carry.

    Attributes:
        shared: whether several plans read it; each then keeps all that it reads.
        memory: bound on the buffers of what is made to be held, in bytes.
    """

    sidecars: Sidecars | None = None
    shard_of: Mapping[str, str] = {}

    def __init__(self, plan: Plan, maker: Maker, *, shared: bool = False) -> None:
        self.plan = plan
        self.maker = maker
        self.label = plan.link or plan.operator.name
        self.header = plan.header
        self.sequential = any(source.sequential for source in plan.sources)
        self.shared = shared
        self.memory = 0
        self._tensors = {tensor.spec.name: tensor for tensor in plan.tensors}
        self._keepers: Counter[str] = Counter()
        self._passing: list[str] = []
        self._held: dict[str, _Held] = {}
        plan.keep()

    def begin(self, tensor: str, start: int, size: int, arena: Arena) -> Ready:
        """Read what has to be read in order now, and leave the rest to whoever wants the bytes.

        Called by one thread at a time, in the order in which the output is made.

        Args:
            tensor: its name.
            start, size: the bytes that are wanted.
            arena: for the buffers of this unit.
        """
        if self.sequential:
            self._pass(self.header.offsets[tensor])
        if self.is_held(tensor):
            return self._begin_held(tensor, start, size)
        plan, bits = self._tensors[tensor], DTYPES[self._tensors[tensor].spec.dtype].bits
        first, last = start * 8 // bits, (start + size) * 8 // bits
        jobs: list[tuple[WorkUnit, list[Ready]]] = []
        for segment in plan.segments:
            begins, ends = max(first, segment.start), min(last, segment.stop)
            if begins < ends:
                unit = piece(plan, segment, self._usual, begins, ends)
                jobs.append((unit, begin(self.plan, unit, arena.below(len(jobs)))))
        if last == plan.spec.numel:
            self.plan.release(tensor)
        if len(jobs) == 1 and _is_passed_on(jobs[0][0]):
            return jobs[0][1][0]
        return partial(self._make, jobs, start, size, arena)

    def _make(
        self, jobs: list[tuple[WorkUnit, list[Ready]]], start: int, size: int, arena: Arena
    ) -> memoryview:
        buffer = arena.area(-1, size)[:size]
        for unit, feeds in jobs:
            begins = unit.out_start - start
            self.maker(unit, buffer[begins : begins + unit.out_bytes], [ready() for ready in feeds])
        return buffer

    @property
    def _usual(self) -> Granularity:
        return self.plan.operator.granularity

    def is_held(self, tensor: str) -> bool:
        """Whether a tensor is made as a whole, at the first read of any part."""
        whole = granularity_of(self._tensors[tensor], self._usual) is Granularity.TENSOR
        return whole or tensor in self._keepers

    @property
    def holds(self) -> bool:
        """Whether any tensor is."""
        return any(map(self.is_held, self._tensors))

    def upstream(self, tensor: str) -> Upstream:
        """What a reader that reads a tensor piece by piece has to mind."""
        if self.is_held(tensor):
            return Upstream()
        plan = self._tensors[tensor]
        each = [self.plan.upstream(segment) for segment in plan.segments]
        most = max(
            (
                (*(slot.spec for slot in segment.slots if not slot.whole), *above.specs)
                for segment, above in zip(plan.segments, each, strict=True)
            ),
            key=lambda specs: sum(DTYPES[spec.dtype].bits for spec in specs),
        )
        by_rows = granularity_of(plan, self._usual) is Granularity.ROW
        return Upstream(by_rows or any(above.rows for above in each), most)

    def _begin_held(self, tensor: str, start: int, size: int) -> Ready:
        held = self._held.get(tensor) or self._hold(tensor)
        held.unread -= size
        if tensor not in self._keepers and held.unread <= 0:
            del self._held[tensor]  # whoever still reads it has a reference
        return lambda: held.data()[start : start + size]

    def _hold(self, name: str) -> _Held:
        tensor, arena = self._tensors[name], Arena()
        if name in self._passing:
            self._passing.remove(name)
        held = self._held[name] = _Held(tensor.spec.nbytes, on_disk=name in self._keepers)
        at_once = granularity_of(tensor, self._usual) is Granularity.TENSOR
        for number, unit in enumerate(cut(tensor, self._usual, self.memory, self.plan.upstream)):
            feeds = begin(self.plan, unit, arena.below(number) if self.sequential else arena)
            out = held.store[unit.out_start : unit.out_start + unit.out_bytes]
            held.jobs.append(partial(self._fill, unit, out, feeds))
            if self.sequential and not at_once:
                held.data()  # or all of the stream that it is made of would wait in memory
        self.plan.release(name)
        return held

    def _fill(self, unit: WorkUnit, out: memoryview, feeds: list[Ready]) -> None:
        self.maker(unit, out, [ready() for ready in feeds])

    def _pass(self, position: int) -> None:
        """Make what is kept and passes by before this byte of the output."""
        offsets = self.header.offsets
        while self._passing and offsets[self._passing[0]] < position:
            self._hold(self._passing[0])

    def read(self, tensor: str, start: int, size: int, area: memoryview) -> memoryview:
        """See Source; the engine calls `begin` instead."""
        area[:size] = self.begin(tensor, start, size, Arena())()
        return area[:size]

    def keep(self, tensors: Iterable[str]) -> None:
        """See Source: each is made once, into a file without a name, if it is not tiny."""
        self._keepers.update(iter(tensors))
        names = (spec.name for spec in self.header.tensors)
        self._passing = [name for name in names if self.sequential and name in self._keepers]

    def drop(self, tensor: str) -> None:
        """See Source."""
        self._keepers[tensor] -= 1
        if not self._keepers[tensor]:
            del self._keepers[tensor]
            self._held.pop(tensor, None)
            if tensor in self._passing:
                self._passing.remove(tensor)

    def finish(self) -> None:
        """See Source: all inputs end as they should, and no value was too large."""
        self._held.clear()
        for source in self.plan.sources:
            source.finish()
        self.maker.refuse_overflows(self.label)

    def identity(self) -> object:
        """See Source."""
        return self.plan.identity()

    def close(self) -> None:
        """See Source: the inputs are closed by who opened them."""
        self._held.clear()


class _Held:
    """A tensor that is made once.

    Attributes:
        store: room for all of its bytes.
        jobs: what is still to be done to fill it.
        unread: bytes that nobody has asked for.
    """

    def __init__(self, size: int, *, on_disk: bool) -> None:
        self.store = _file_backed(size) if on_disk and size > _IN_MEMORY else page_aligned(size)
        self.jobs: list[Callable[[], None]] = []
        self.unread = size
        self._lock = threading.Lock()

    def data(self) -> memoryview:
        """The bytes; the first who asks has to make them."""
        with self._lock:
            while self.jobs:
                self.jobs[0]()
                self.jobs.pop(0)
        return self.store


def _file_backed(size: int) -> memoryview:
    with tempfile.TemporaryFile() as file, write_errors("a temporary file"):
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # or a full disk would end us by a signal
        else:
            file.truncate(size)
        return memoryview(mmap.mmap(file.fileno(), size))


def begin(plan: Plan, unit: WorkUnit, arena: Arena) -> list[Ready]:
    """Read what a unit needs of its streams; the rest is read, or made, when it is asked for.

    Called by one thread at a time, in the order in which the output is made.
    """
    return [_begin_slot(plan, unit, index, arena) for index in range(len(unit.segment.slots))]


def _begin_slot(plan: Plan, unit: WorkUnit, index: int, arena: Arena) -> Ready:
    slot = unit.segment.slots[index]
    source = plan.sources[slot.source]
    link, name = link_of(plan, slot)
    start, size = unit.place(slot)
    if link is not None:
        return link.begin(name, start, size, arena.below(index))

    def read() -> memoryview:
        return source.read(slot.spec.name, start, size, arena.area(index, size))

    if not source.sequential:
        return read
    data = read()
    return lambda: data


def _is_passed_on(unit: WorkUnit) -> bool:
    """Whether a unit is its input's bytes as they are."""
    segment = unit.segment
    return segment.parameters is None and segment.slots[0].spec.dtype == unit.tensor.spec.dtype


def behind(source: Source) -> Source:
    """The source itself where others only rename its tensors."""
    return source.source if isinstance(source, RenamedSource) else source


def link_of(plan: Plan, slot: Slot) -> tuple[Link | None, str]:
    """The link that makes a slot's tensor, if one does, and what it calls the tensor."""
    source, name = plan.sources[slot.source], slot.spec.name
    if isinstance(source, RenamedSource):
        name = source.stored(name)
        source = source.source
    return (source if isinstance(source, Link) else None), name


def links_of(plan: Plan) -> Iterator[Link]:
    """Every link that a plan is made of, each once, those that others read first."""
    seen: dict[int, Link] = {}
    for source in map(behind, plan.sources):
        if isinstance(source, Link):
            for link in (*links_of(source.plan), source):
                seen.setdefault(id(link), link)
    yield from seen.values()


def needed_upstream(plan: Plan, segment: Segment) -> Upstream:
    """What the links among a segment's inputs ask of its units."""
    makers = (link_of(plan, slot) for slot in segment.slots if not slot.whole)
    found = [link.upstream(name) for link, name in makers if link is not None]
    return Upstream(
        any(each.rows for each in found), tuple(spec for each in found for spec in each.specs)
    )


def late(
    index: int, source: Source, tensors: Iterable[TensorPlan], usual: Granularity
) -> dict[str, str]:
    """The tensors of a link that cannot be made as they are asked for.

    More than one output tensor reads them, or every unit does, or the link makes whole rows and the
    reader's units are not whole rows.

    Args:
        index: of the link among the reader's inputs.
        source: the link, perhaps under other names.
        tensors: the reader's output, in the order in which it is made.
        usual: granularity of the reader.

    Returns:
        For each, the last output tensor that is made of it.
    """
    link = behind(source)
    assert isinstance(link, Link)
    found: set[str] = set()
    last: dict[str, str] = {}
    for tensor in tensors:
        name = tensor.spec.name
        for segment, slot in ((s, slot) for s in tensor.segments for slot in s.slots):
            if slot.source == index:
                read = slot.spec.name
                stored = source.stored(read) if isinstance(source, RenamedSource) else read
                again = last.setdefault(read, name) != name
                ragged = link.upstream(stored).rows and not _whole_rows(
                    tensor, segment, slot, source.header.by_name[read], usual
                )
                if again or slot.whole or link.shared or ragged:
                    found.add(read)
                last[read] = name
    return {name: last[name] for name in found}


def _whole_rows(
    tensor: TensorPlan, segment: Segment, slot: Slot, spec: TensorSpec, usual: Granularity
) -> bool:
    """Whether units that are cut at rows of an output tensor read whole rows of an input's."""
    row = _row(spec)
    if slot.start % row:
        return False
    if granularity_of(tensor, usual) is not Granularity.ELEMENT:
        return True
    return _row(tensor.spec) == row and not segment.start % row and not segment.stop % row


def _row(spec: TensorSpec) -> int:
    return max(1, spec.shape[-1]) if spec.shape else 1
