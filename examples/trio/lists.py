"""The world of the tiny models: rows of four digits, and operations that change them.

A problem is a row and a few operations, done one after the other: `3857rs` is 3857 reversed (7583),
then with its neighbours swapped (5738). It can be answered at once or step by step, and a model of
a million weights learns both in minutes: single operations surely, steps surely, and several
operations in the head less and less surely the more they are.

Every tenth row is held out: no training text starts from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

LENGTH = 4
_ROWS = 10**LENGTH
_SPLIT_SEED = 20260607


def _digits(row: str, change: Callable[[int], int]) -> str:
    return "".join(str(change(int(digit)) % 10) for digit in row)


OPERATIONS: dict[str, Callable[[str], str]] = {
    "r": lambda row: row[::-1],  # reverse
    "t": lambda row: row[1:] + row[0],  # turn left
    "s": lambda row: row[1] + row[0] + row[3] + row[2],  # swap neighbours
    "i": lambda row: _digits(row, lambda digit: digit + 1),  # increment
    "d": lambda row: _digits(row, lambda digit: 2 * digit),  # double
    "n": lambda row: _digits(row, lambda digit: 9 - digit),  # nines' complement
}
KNOWN = "rtsid"  # what instruct and thinking are asked for
NEW = "n"  # the skill that is taught later: base has seen it in documents, but in no chat


@dataclass(frozen=True)
class Problem:
    """A row of digits and the operations to do on it, in order."""

    row: str
    operations: str

    @property
    def question(self) -> str:
        """As it is asked: `3857rs`."""
        return self.row + self.operations

    @property
    def steps(self) -> list[str]:
        """The row after each operation."""
        rows, row = [], self.row
        for operation in self.operations:
            row = OPERATIONS[operation](row)
            rows.append(row)
        return rows

    @property
    def worked(self) -> str:
        """Each operation and what it makes of the row: `r7583s5738`."""
        return "".join(a + b for a, b in zip(self.operations, self.steps, strict=True))

    @property
    def answer(self) -> str:
        """The row after the last operation."""
        return self.steps[-1]


@cache
def rows(held_out: bool) -> tuple[str, ...]:
    """All rows of one side of the split, shuffled."""
    everything = [f"{number:0{LENGTH}}" for number in range(_ROWS)]
    Random(_SPLIT_SEED).shuffle(everything)  # noqa: S311 - not for secrets
    cut = _ROWS // 10
    return tuple(everything[:cut] if held_out else everything[cut:])


def draw(random: Random, lengths: tuple[int, ...], among: str, must: str = "") -> Problem:
    """A training problem: as many operations as one of `lengths`; one of them is `must`."""
    operations = random.choices(among, k=random.choice(lengths))
    if must:
        operations[random.randrange(len(operations))] = must
    return Problem(random.choice(rows(held_out=False)), "".join(operations))


def held_out(length: int, count: int, among: str = KNOWN, must: str = "") -> list[Problem]:
    """`count` problems of `length` operations that no model was trained on, always the same."""
    return list(islice(_held_out(length, among, must), count))


def _held_out(length: int, among: str, must: str) -> Iterator[Problem]:
    random = Random(f"{length} {among} {must}")  # noqa: S311
    while True:
        for row in rows(held_out=True):
            operations = random.choices(among, k=length)
            if must:
                operations[random.randrange(length)] = must
            yield Problem(row, "".join(operations))
