"""Work through a plan: workers read, compute and write units, each in its own buffers.

Whoever takes the next unit reads its part of the streams before letting the next worker take one,
so streams are read in order. For an ordered sink, finished units wait in a bounded buffer until
those before them are written. Everything else happens in any order.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from weightsmith.checkpoint.remote import is_remote, read_ahead
from weightsmith.checkpoint.sink import Sink
from weightsmith.engine.cache import Cache
from weightsmith.engine.outlet import Finished, Outlet
from weightsmith.engine.plan import Plan
from weightsmith.engine.units import Arena, WorkUnit, cut, granularity_of, nbytes
from weightsmith.errors import WeightsmithError
from weightsmith.operators.operator import Function, Granularity, Slot, TensorPlan
from weightsmith.operators.unit import Block, Unit

# A tensor operator may hold about this many float32 copies of its matrix.
_TENSOR_COPIES = 10


class Run:
    """One pass over the units of a plan.

    Args:
        plan: what to do.
        sink: open, and laid out for the plan.
        workers: number of threads.
        memory: bound on all buffers together, in bytes.
        done: names of tensors that an earlier run has written.
        device: where operators on whole tensors compute.
        cache: for what they want to keep.
        tick: called with the bytes of each unit written.

    Attributes:
        done: as given.
        finished: tensors that are complete and free of overflow, in the order of completion.
        sums: what the operator reported of each tensor, added up.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        *,
        workers: int,
        memory: int,
        done: frozenset[str] = frozenset(),
        device: str = "cpu",
        cache: Cache | None = None,
        tick: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = done
        self.finished: list[str] = []
        self.sums: dict[str, dict[str, float]] = {}
        self._plan = plan
        self._sink = sink
        self._tick = tick
        self._device = device
        self._cache = cache
        far = [source for source in plan.sources if is_remote(source)]
        ahead = memory // 4 // max(1, len(far))
        memory -= ahead * len(far)
        self._workers = _thread_count(plan, workers, memory)
        # Each worker works in one set of buffers and may have one more result waiting.
        self._memory = memory // (2 * self._workers)
        tensors = [tensor for tensor in plan.tensors if tensor.spec.name not in done]
        self._left = Counter({t.spec.name: sum(1 for _ in self._cut(t)) for t in tensors})
        self._overflows: Counter[str] = Counter()
        self._last = sum(self._left.values()) - 1
        self._units = enumerate(unit for tensor in tensors for unit in self._cut(tensor))
        self._take = threading.Lock()
        self._drops: dict[str, list[tuple[int, str]]] = {}
        for source, waiting in plan.spooled.items():
            plan.sources[source].keep(waiting)
            for name, last in waiting.items():
                self._drops.setdefault(last, []).append((source, name))
        for index, given in enumerate(plan.sources):
            read_ahead(given, self._spans(index, tensors), ahead)
        self._counts = threading.Lock()
        self._outlet = Outlet(self._write, ordered=sink.ordered, limit=2 * self._workers)
        self._failure: BaseException | None = None
        self._stopped = False

    def _cut(self, tensor: TensorPlan) -> Iterator[WorkUnit]:
        return cut(tensor, self._plan.operator.granularity, self._memory)

    def _spans(self, source: int, tensors: Iterable[TensorPlan]) -> Iterator[tuple[str, int, int]]:
        """All reads of a source, in the order of the units: (tensor, start, nbytes)."""
        for unit in (unit for tensor in tensors for unit in self._cut(tensor)):
            for slot in unit.segment.slots:
                if slot.source == source:
                    yield slot.spec.name, *_bytes(unit, slot)

    def __call__(self) -> None:
        """Do it all.

        Raises:
            WeightsmithError: the first failure of any worker, or values that overflowed.
        """
        function = self._plan.operator.function()
        threads = [
            threading.Thread(target=self._work, args=(function,), daemon=True)
            for _ in range(self._workers)
        ]
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

    def _work(self, function: Function) -> None:
        arena = Arena()
        try:
            while (taken := self._take_unit(arena)) is not None:
                number, unit, streamed = taken
                inputs = self._read(unit, arena, streamed)
                # Written from the same offset within a page as it lands on, the copy is fastest.
                lead = self._sink.lead(unit.name, unit.out_start)
                buffer = self._outlet.buffer(lead + unit.out_bytes)
                out = buffer[lead : lead + unit.out_bytes]
                overflows = self._compute(function, unit, out, inputs)
                if self._stopped:
                    return
                self._outlet.put(Finished(number, unit, out, buffer, overflows))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._stop(error)

    def _stop(self, failure: BaseException | None = None) -> None:
        self._failure = self._failure or failure
        self._stopped = True
        self._outlet.stop()

    def _take_unit(self, arena: Arena) -> tuple[int, WorkUnit, dict[int, memoryview]] | None:
        with self._take:
            numbered = None if self._stopped else next(self._units, None)
            if numbered is None:
                return None
            number, unit = numbered
            streamed = {
                index: self._read_slot(unit, index, arena)
                for index, slot in enumerate(unit.segment.slots)
                if self._plan.sources[slot.source].sequential
            }
            if unit.stop == unit.tensor.spec.numel:
                for source, name in self._drops.get(unit.name, ()):
                    self._plan.sources[source].drop(name)
            return number, unit, streamed

    def _read(
        self, unit: WorkUnit, arena: Arena, streamed: dict[int, memoryview]
    ) -> list[memoryview]:
        return [
            streamed[index] if index in streamed else self._read_slot(unit, index, arena)
            for index in range(len(unit.segment.slots))
        ]

    def _read_slot(self, unit: WorkUnit, index: int, arena: Arena) -> memoryview:
        slot = unit.segment.slots[index]
        start, size = _bytes(unit, slot)
        area = arena.area(index, size)
        return self._plan.sources[slot.source].read(slot.spec.name, start, size, area)

    def _compute(
        self, function: Function, unit: WorkUnit, out: memoryview, inputs: list[memoryview]
    ) -> int:
        spec, slots = unit.tensor.spec, unit.segment.slots
        if unit.segment.parameters is None:
            return _copy(out, spec.dtype, inputs[0], slots[0].spec.dtype)
        blocks = tuple(
            Block(slot.spec.dtype, data, unit.span(slot).shape)
            for slot, data in zip(slots, inputs, strict=True)
        )
        target = Block(spec.dtype, out, unit.shape)
        given = Unit(
            spec.name,
            unit.start,
            target,
            blocks,
            unit.segment.parameters,
            self._device,
            report=lambda sums: self._add(spec.name, sums),
        )
        if self._cache is not None:
            cache = self._cache
            given = replace(given, remember=lambda kind, make: cache.remember(kind, blocks, make))
        return function(given) or 0

    def _add(self, name: str, sums: Mapping[str, float]) -> None:
        with self._counts:
            total = self.sums.setdefault(name, {})
            for key, value in sums.items():
                total[key] = total.get(key, 0.0) + value

    def _write(self, done: Finished) -> None:
        name = done.unit.name
        if done.overflows:
            with self._counts:
                self._overflows[name] += done.overflows
        if self._sink.ordered and done.number == self._last:
            # A stream must not be complete unless all is well: its reader takes it at its word.
            self._check_ends()
        self._sink.write(name, done.unit.out_start, done.data)
        with self._counts:
            self._left[name] -= 1
            if not self._left[name] and not self._overflows[name]:
                self.finished.append(name)
            self._tick(len(done.data))

    def _check_ends(self) -> None:
        """All inputs ended where their headers say, and no value has overflowed."""
        for source in self._plan.sources:
            source.finish()
        if not self._overflows:
            return
        name = next(iter(self._overflows))
        dtype = self._plan.header.by_name[name].dtype
        raise WeightsmithError(
            f"{self._overflows.total()} values in {len(self._overflows)} tensors are too large "
            f"for {dtype}",
            file=self._sink.label,
            tensor=name,
            remedy="--dtype bfloat16 or float32 has room for them",
        )


def _thread_count(plan: Plan, workers: int, memory: int) -> int:
    usual = plan.operator.granularity
    uncut = [t for t in plan.tensors if granularity_of(t, usual) is Granularity.TENSOR]
    largest = max((4 * _elements(tensor) for tensor in uncut), default=1)
    return max(1, min(workers, memory // max(1, _TENSOR_COPIES * largest)))


def _elements(tensor: TensorPlan) -> int:
    """Size of the largest array that a unit of an uncut tensor holds."""
    return max(
        max(segment.stop - segment.start, *(slot.spec.numel for slot in segment.slots), 0)
        for segment in tensor.segments
    )


def _bytes(unit: WorkUnit, slot: Slot) -> tuple[int, int]:
    """Where in a tensor the input of a unit begins, and its size."""
    span = unit.span(slot)
    dtype = slot.spec.dtype
    return nbytes(dtype, slot.start + span.start), nbytes(dtype, span.stop - span.start)


def _copy(out: memoryview, dtype: str, data: memoryview, data_dtype: str) -> int:
    if dtype == data_dtype:
        out[:] = data
        return 0
    from weightsmith.kernels import elementwise  # a plain copy needs no arithmetic

    return elementwise.cast(out, dtype, data, data_dtype)
