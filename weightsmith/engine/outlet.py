"""Where finished units go: straight to the sink, or through a bounded buffer that keeps order."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from weightsmith.engine.units import KEPT, WorkUnit, page_aligned


@dataclass(frozen=True, slots=True)
class Finished:
    """A unit, its number in the order of the plan, and its result inside a page-aligned buffer.

    `room` is free once it is written.
    """

    number: int
    unit: WorkUnit
    data: memoryview
    buffer: memoryview
    room: int = 0


class Outlet:
    """Hands finished units to `write`, from whatever thread brings them.

    Args:
        write: writes one unit; called from one thread at a time if `ordered`.
        ordered: whether units must be written in the order of their numbers.
        limit: how many units may wait for those before them.
    """

    def __init__(self, write: Callable[[Finished], None], *, ordered: bool, limit: int) -> None:
        self._write = write
        self._ordered = ordered
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: dict[int, Finished] = {}
        self._next = 0
        self._draining = False
        self._stopped = False
        self._free: list[memoryview] = []

    def buffer(self, size: int) -> memoryview:
        """A page-aligned buffer for a result; its content is whatever it was used for before."""
        while self._free and size <= KEPT:
            try:
                buffer = self._free.pop()
            except IndexError:
                break
            if len(buffer) >= size:
                return buffer
        return page_aligned(size)

    def put(self, finished: Finished) -> None:
        """Write the unit, now or when its turn comes; waits while too many are before it."""
        if not self._ordered:
            self._write_one(finished)
            return
        number = finished.number
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or number < self._next + self._limit)
            self._waiting[number] = finished
            del finished  # or its buffer would be kept while this thread writes others
            if self._draining or self._stopped:
                return
            self._draining = True
        while (due := self._due()) is not None:
            self._write_one(due)
            with self._changed:
                self._next += 1
                self._changed.notify_all()

    def _due(self) -> Finished | None:
        with self._changed:
            due = None if self._stopped else self._waiting.pop(self._next, None)
            self._draining = due is not None
            return due

    def _write_one(self, finished: Finished) -> None:
        self._write(finished)
        if len(finished.buffer) <= KEPT:
            self._free.append(finished.buffer)

    def stop(self) -> None:
        """Let nobody wait any longer; nothing more will be written in order."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
