"""Work through a plan: workers read, compute and write units, each in its own buffers.

Whoever takes the next unit reads its part of the streams before letting the next worker take one,
so streams are read in order. For an ordered sink, finished units wait in a bounded buffer until
those before them are written. Everything else happens in any order.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from weightsmith.checkpoint.remote import is_remote, read_ahead
from weightsmith.checkpoint.sink import Writer
from weightsmith.engine.link import Ready, begin, link_of, links_of
from weightsmith.engine.maker import Maker
from weightsmith.engine.outlet import Finished, Outlet
from weightsmith.engine.plan import Plan
from weightsmith.engine.room import Room, memory_for_whole, uncut_memory
from weightsmith.engine.units import Arena, WorkUnit, cut
from weightsmith.operators.operator import TensorPlan

# Threads where a card computes: one sends what it has read while the other's matrix is worked on.
_ON_DEVICE = 2


class Run:
    """One pass over the units of a plan.

    Args:
        plan: what to do.
        sink: open, and laid out for the plan.
        workers: number of threads.
        memory: bound on all buffers together, in bytes.
        done: names of tensors that an earlier run has written.
        device: where operators on whole tensors compute.
        cache: directory for what they want to keep.
        tick: called with the bytes of each unit written.

    Attributes:
        done: as given.
        finished: tensors that are complete and free of overflow, in the order of completion.
        maker: of the plan's units; it knows what the operator reported of each tensor.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Writer,
        *,
        workers: int,
        memory: int,
        done: frozenset[str] = frozenset(),
        device: str = "cpu",
        cache: str | None = None,
        tick: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = done
        self.finished: list[str] = []
        self.maker = Maker(plan, device=device, cache=cache)
        self._plan = plan
        self._sink = sink
        self._tick = tick
        self._device = device
        self._links = tuple(links_of(plan))
        self._streams = any(source.sequential for source in plan.sources)
        far = [source for source in plan.sources if is_remote(source)]
        ahead = memory // 4 // max(1, len(far))
        memory -= ahead * len(far)
        # Whatever is asked of a link, it may need this.
        self._above = sum(
            uncut_memory(link.plan.tensors, link.plan.operator) for link in self._links
        )
        whole = memory_for_whole(memory)
        self._room = Room(whole)
        if self._above or uncut_memory(plan.tensors, plan.operator):
            memory -= whole
            workers = workers if device == "cpu" else min(workers, _ON_DEVICE)
        self._workers = workers
        plan.keep()
        # Each worker works in one set of buffers and may have one more result waiting.
        self._memory = memory // (2 * self._workers)
        if holding := sum(link.holds for link in self._links):
            # While it makes what is held, a worker works in one more set for each link that holds.
            self._memory //= 1 + holding
        for link in self._links:
            link.memory = self._memory
        tensors = [tensor for tensor in plan.tensors if tensor.spec.name not in done]
        self._left = Counter({t.spec.name: sum(1 for _ in self._cut(t)) for t in tensors})
        self._last = sum(self._left.values()) - 1
        self._batches = self._numbered(tensors)
        self._take = threading.Lock()
        for index, given in enumerate(plan.sources):
            read_ahead(given, self._spans(index, tensors), ahead)
        self._counts = threading.Lock()
        self._outlet = Outlet(self._write, ordered=sink.ordered, limit=2 * self._workers)
        self._failure: BaseException | None = None
        self._stopped = False

    def _cut(self, tensor: TensorPlan) -> Iterator[WorkUnit]:
        plan = self._plan
        return cut(tensor, plan.operator.granularity, self._memory, plan.upstream)

    def _numbered(self, tensors: list[TensorPlan]) -> Iterator[list[tuple[int, WorkUnit]]]:
        """What a worker takes at once: a unit, or all of a tensor that is made of a held one.

        Workers that each take a part of such a tensor would wait for the one who makes what is
        held.
        """
        number = 0
        for tensor in tensors:
            units = list(enumerate(self._cut(tensor), number))
            number += len(units)
            if _reads_held(self._plan, tensor):
                yield units
            else:
                yield from ([unit] for unit in units)

    def _spans(self, source: int, tensors: Iterable[TensorPlan]) -> Iterator[tuple[str, int, int]]:
        """All reads of a source, in the order of the units: (tensor, start, nbytes)."""
        for unit in (unit for tensor in tensors for unit in self._cut(tensor)):
            for slot in unit.segment.slots:
                if slot.source == source:
                    yield slot.spec.name, *unit.place(slot)

    def __call__(self) -> None:
        """Do it all.

        Raises:
            WeightsmithError: the first failure of any worker, or values that overflowed.
        """
        for maker in (self.maker, *(link.maker for link in self._links)):
            maker.load()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop()
            for thread in threads:
                # One may be stuck in the read of a silent pipe; it will not write any more.
                thread.join(1.0)
            raise
        if self._failure is not None:
            raise self._failure
        self._check_ends()

    def _work(self) -> None:
        try:
            with _stream(self._device):
                self._take_and_make()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._stop(error)

    def _take_and_make(self) -> None:
        arena = Arena()
        while batch := self._take_batch(arena):
            while batch and not self._stopped:
                self._make(*batch.popleft(), arena)

    def _make(
        self, number: int, unit: WorkUnit, feeds: list[Ready], room: int, arena: Arena
    ) -> None:
        inputs = [ready() for ready in feeds]
        # Written from the same offset within a page as it lands on, the copy is fastest.
        lead = self._sink.lead(unit.name, unit.out_start)
        buffer = self._outlet.buffer(lead + unit.out_bytes)
        out = buffer[lead : lead + unit.out_bytes]
        self.maker(unit, out, inputs)
        finished = [Finished(number, unit, out, buffer, room)]
        # Nothing of it may be left when another tensor gets its room.
        del inputs, out, buffer
        feeds.clear()
        arena.trim()
        if not self._stopped:
            self._outlet.put(finished.pop())

    def _stop(self, failure: BaseException | None = None) -> None:
        self._failure = self._failure or failure
        self._stopped = True
        self._outlet.stop()
        self._room.stop()

    def _take_batch(self, arena: Arena) -> deque[tuple[int, WorkUnit, list[Ready], int]]:
        """Units with what they are made of, and the room that is free once each is written."""
        with self._take:
            batch = [] if self._stopped else next(self._batches, [])
            room = self._needs(batch)
            # Taken in the order of the units: the next to be written never waits for a later one.
            self._room.take(room)
            taken: deque[tuple[int, WorkUnit, list[Ready], int]] = deque()
            for place, (number, unit) in enumerate(batch):
                if self._stopped:
                    break
                feeds = self._begin(unit, arena.below(-place) if self._streams else arena)
                taken.append((number, unit, feeds, room if place == len(batch) - 1 else 0))
            return taken

    def _needs(self, batch: Sequence[tuple[int, WorkUnit]]) -> int:
        """What a batch takes of the room; on a card, what is there is not counted."""
        if not batch or self._device != "cpu":
            return 0
        return self._above + uncut_memory([unit.tensor for _, unit in batch], self._plan.operator)

    def _begin(self, unit: WorkUnit, arena: Arena) -> list[Ready]:
        feeds = begin(self._plan, unit, arena)
        if unit.stop == unit.tensor.spec.numel:
            self._plan.release(unit.name)
        return feeds

    def _write(self, done: Finished) -> None:
        name = done.unit.name
        if self._sink.ordered and done.number == self._last:
            # A stream must not be complete unless all is well: its reader takes it at its word.
            self._check_ends()
        self._sink.write(name, done.unit.out_start, done.data)
        self._room.give(done.room)
        with self._counts:
            self._left[name] -= 1
            sound = name not in self.maker.overflows
            sound &= not any(link.maker.overflows for link in self._links)
            if not self._left[name] and sound:
                self.finished.append(name)
            self._tick(len(done.data))

    def _check_ends(self) -> None:
        """All inputs ended where their headers say, and no value has overflowed."""
        for source in self._plan.sources:
            source.finish()
        self.maker.refuse_overflows(self._sink.label)

    @property
    def sums(self) -> Mapping[str, Mapping[str, float]]:
        """What the operator reported of each tensor, added up."""
        return self.maker.sums

    @property
    def overflows(self) -> Counter[str]:
        """How many values of each tensor were too large for its dtype."""
        return self.maker.overflows


def _reads_held(plan: Plan, tensor: TensorPlan) -> bool:
    """Whether a part of a tensor is made of a part of something that a link makes as a whole."""
    found = (
        link_of(plan, slot)
        for segment in tensor.segments
        for slot in segment.slots
        if not slot.whole
    )
    return any(link is not None and link.is_held(name) for link, name in found)


def require_device(device: str) -> None:
    """Raise UsageError unless this machine has the device."""
    if device != "cpu":
        from weightsmith.staging import require  # needs torch

        require(device)


def _stream(device: str) -> AbstractContextManager[None]:
    if device == "cpu":
        return nullcontext()
    from weightsmith.staging import own_stream  # needs torch

    return own_stream(device)
