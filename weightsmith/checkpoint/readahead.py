"""Fetch the pieces of far-away files before they are asked for, several at a time.

One request costs a round trip whatever it brings, so what will be read is cut into pieces that
hold what lies together, and some of them are always under way. Which bytes are fetched follows
from what was announced: nothing else is, but gaps too small for a request of their own.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

CONNECTIONS = 16
_LARGEST_PIECE = 8 << 20
_SMALLEST_PIECE = 1 << 18
# About what the head of one request and its answer take.
_GAP = 2 << 10


@dataclass(slots=True)
class Piece:
    """Bytes [begin, end) of a file; `left` of them have not been taken yet."""

    file: int
    begin: int
    end: int
    left: int = 0


class ReadAhead:
    """What will be read of some files, and what of it is here or under way.

    Args:
        spans: (file, begin, end) of every read to come, in about that order.
        fetch: gets bytes [begin, end) of a file, in whatever thread calls it.
        memory: bound on what is kept, in bytes.
    """

    def __init__(
        self,
        spans: Iterable[tuple[int, int, int]],
        fetch: Callable[[int, int, int], memoryview],
        memory: int,
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor  # not at every start of the program

        # Half of the memory is in pieces that the connections are at, when all are large.
        size = min(_LARGEST_PIECE, max(_SMALLEST_PIECE, memory // (2 * CONNECTIONS)))
        self._pieces = _cut(spans, size)
        self._memory = memory
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(CONNECTIONS, "weightsmith-fetch")
        self._lock = threading.Lock()
        self._futures: dict[int, Future[memoryview]] = {}
        self._held = 0
        self._next = 0
        self._index: dict[int, tuple[list[int], list[int]]] = {}
        for number in sorted(range(len(self._pieces)), key=lambda n: self._pieces[n].begin):
            begins, numbers = self._index.setdefault(self._pieces[number].file, ([], []))
            begins.append(self._pieces[number].begin)
            numbers.append(number)

    def parts(self, file: int, begin: int, end: int) -> Iterator[memoryview] | None:
        """The bytes [begin, end) of a file, part by part; None where they were not announced.

        A part's memory is free again as soon as nobody holds it.
        """
        numbers, reached = [], begin
        while reached < end:
            number = self._find(file, reached)
            if number is None:
                return None
            numbers.append(number)
            reached = self._pieces[number].end
        return (self._take(number, begin, end) for number in numbers)

    def _take(self, number: int, begin: int, end: int) -> memoryview:
        piece = self._pieces[number]
        first, stop = max(begin, piece.begin), min(end, piece.end)
        data = self._demand(number).result()
        with self._lock:
            piece.left -= stop - first
            if piece.left <= 0:
                self._drop(number)
        return data[first - piece.begin : stop - piece.begin]

    def _find(self, file: int, position: int) -> int | None:
        begins, numbers = self._index.get(file, ([], []))
        at = bisect_right(begins, position) - 1
        if at < 0 or position >= self._pieces[numbers[at]].end:
            return None
        return numbers[at]

    def _demand(self, number: int) -> "Future[memoryview]":
        """The piece; those after it get under way."""
        with self._lock:
            wanted = self._start(number)
            self._next = max(self._next, number + 1)
            # What was passed over, if anything ever is, must not take the room for good.
            if self._held > self._memory:
                for old in sorted(held for held in self._futures if held < number):
                    self._drop(old)
            while self._held < self._memory and self._next < len(self._pieces):
                self._start(self._next)
                self._next += 1
            return wanted

    def _start(self, number: int) -> "Future[memoryview]":
        future = self._futures.get(number)
        if future is None:
            piece = self._pieces[number]
            future = self._pool.submit(self._fetch, piece.file, piece.begin, piece.end)
            self._futures[number] = future
            self._held += piece.end - piece.begin
        return future

    def _drop(self, number: int) -> None:
        if self._futures.pop(number, None) is not None:
            self._held -= self._pieces[number].end - self._pieces[number].begin

    def close(self) -> None:
        """Start nothing more, and wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)


def _cut(spans: Iterable[tuple[int, int, int]], size: int) -> list[Piece]:
    """Pieces of at most `size` bytes that cover the spans; a span that comes again is covered."""
    pieces: list[Piece] = []
    made: dict[tuple[int, int, int], tuple[int, int]] = {}
    for span in spans:
        file, begin, end = span
        if span in made:
            for piece in pieces[slice(*made[span])]:
                piece.left += max(0, min(end, piece.end) - max(begin, piece.begin))
            continue
        first = len(pieces)
        last = pieces[-1] if pieces else None
        near = last is not None and last.file == file and last.begin <= begin <= last.end + _GAP
        if last is not None and near and end - last.begin <= size:
            first -= 1
            last.left += end - begin
            last.end = max(last.end, end)
        else:
            for start in range(begin, end, size):
                stop = min(start + size, end)
                pieces.append(Piece(file, start, stop, stop - start))
        made[span] = first, len(pieces)
    return pieces
