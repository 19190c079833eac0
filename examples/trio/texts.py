"""What the tiny models are trained on: endless texts about problems that are not held out."""

from collections.abc import Iterator
from random import Random

from language import BEGIN, END, Example, asked
from lists import KNOWN, NEW, draw


def documents(random: Random, among: str = KNOWN) -> Iterator[Example]:
    """Operations worked off, results at once, and questions with their working, by chance."""
    while True:
        problem = draw(random, (1, 1, 2, 3, 4), among)
        worked = f"{problem.row}{problem.worked}"
        at_once = f"{problem.question}={problem.answer}"
        explained = f"{problem.question}:{problem.worked}"
        yield Example(BEGIN, f"{random.choice((worked, at_once, explained))}{END}")


def direct(random: Random) -> Iterator[Example]:
    """Chats with answers at once."""
    while True:
        yield asked(draw(random, (1, 2, 3, 4), KNOWN), thinking=False)


def thoughtful(random: Random) -> Iterator[Example]:
    """Chats with steps before the answer."""
    while True:
        yield asked(draw(random, (1, 2, 3, 4), KNOWN), thinking=True)


def everything(random: Random) -> Iterator[Example]:
    """Documents, half as many chats of either kind; the new operation stands in documents only."""
    kinds = (documents(random, KNOWN + NEW), direct(random), thoughtful(random))
    while True:
        (kind,) = random.choices(kinds, weights=(2, 1, 1))
        yield next(kind)


def new_skill(random: Random) -> Iterator[Example]:
    """Chats about the new operation, alone or with a known one; a third are about known ones only.

    Without that third, a model learns to do the new operation whatever it is asked for.
    """
    while True:
        must = random.choice((NEW, NEW, ""))
        yield asked(draw(random, (1, 2), KNOWN, must), thinking=False)
