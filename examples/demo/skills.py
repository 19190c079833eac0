"""Two small skills to teach a model, as generated problems with one right answer each.

Every problem of a skill is listed, shuffled with a fixed seed and divided once, so the held-out
problems are never trained on, whatever the seed of the training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from random import Random

HELD_OUT_PER_KIND = 100
_SPLIT_SEED = 20240607

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclass(frozen=True)
class Problem:
    """A question and the whole of its right answer."""

    question: str
    answer: str


def held_out(skill: str, count: int) -> list[Problem]:
    """The first `count` held-out problems, the kinds taking turns."""
    tests = [kind[:HELD_OUT_PER_KIND] for kind in _shuffled_kinds(skill)]
    problems = list(islice(chain.from_iterable(zip(*tests, strict=True)), count))
    if len(problems) < count:
        raise ValueError(f"{skill}: {len(problems)} held-out problems, {count} wanted")
    return problems


def training(skill: str, seed: int) -> Iterator[Problem]:
    """Training problems without end: every kind equally often, each in its own random order."""
    random = Random(seed)  # noqa: S311 - not for secrets
    kinds = [kind[HELD_OUT_PER_KIND:] for kind in _shuffled_kinds(skill)]
    queues = [_endless(kind, Random(random.random())) for kind in kinds]  # noqa: S311
    while True:
        yield from (next(queue) for queue in random.sample(queues, len(queues)))


def in_words(number: int) -> str:
    """A number below 10,000 in English words.

    >>> in_words(4207)
    'four thousand two hundred seven'
    >>> in_words(21)
    'twenty-one'
    """
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[rest]}" if rest else "")
    size, unit = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, size)
    return f"{_ONES[count]} {unit}" + (f" {in_words(rest)}" if rest else "")


def _arithmetic() -> list[list[Problem]]:
    """Sums and differences of two-digit numbers, products of one digit and two digits."""
    two_digits, digits = range(10, 100), range(2, 10)
    return [
        [Problem(f"What is {a} + {b}?", str(a + b)) for a, b in product(two_digits, two_digits)],
        [
            Problem(f"What is {a} - {b}?", str(a - b))
            for a, b in product(two_digits, two_digits)
            if a >= b
        ],
        [Problem(f"What is {a} * {b}?", str(a * b)) for a, b in product(digits, two_digits)],
    ]


def _words() -> list[list[Problem]]:
    """Numbers of three and of four digits, to be written in words."""
    return [
        [Problem(f"Write {number} in words.", in_words(number)) for number in numbers]
        for numbers in (range(100, 1000), range(1000, 10000))
    ]


SKILLS: dict[str, Callable[[], list[list[Problem]]]] = {"arithmetic": _arithmetic, "words": _words}


def _shuffled_kinds(skill: str) -> list[list[Problem]]:
    kinds = SKILLS[skill]()
    for kind in kinds:
        Random(_SPLIT_SEED).shuffle(kind)  # noqa: S311
    return kinds


def _endless(problems: list[Problem], random: Random) -> Iterator[Problem]:
    while True:
        yield from random.sample(problems, len(problems))
