"""Points of a sweep: every combination of the values that its axes name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product

from weightsmith.errors import UsageError, printable

_MOST = 100_000


@dataclass(frozen=True)
class Axis:
    """One option and the values it takes, as people would type them."""

    name: str
    values: tuple[str, ...]


def axes(texts: Sequence[str]) -> list[Axis]:
    """Read `NAME=A,B,C` and `NAME=FIRST:LAST:COUNT`.

    >>> axes(["sigma=0:0.05:6"])
    [Axis(name='sigma', values=('0', '0.01', '0.02', '0.03', '0.04', '0.05'))]

    Raises:
        UsageError: it is neither, or a name comes twice.
    """
    found: list[Axis] = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise UsageError(
                f"{printable(text)!r} is no axis of a sweep",
                expected="NAME=A,B,C or NAME=FIRST:LAST:COUNT",
            )
        if any(axis.name == name for axis in found):
            raise UsageError(f"{name} is swept twice")
        found.append(Axis(name, _values(values, text)))
    return found


def _values(values: str, text: str) -> tuple[str, ...]:
    if values.count(":") != 2:
        return tuple(part.strip() for part in values.split(","))
    first, last, count = values.split(":")
    try:
        low, high, number = Decimal(first), Decimal(last), int(count)
    except (InvalidOperation, ValueError):
        raise UsageError(f"{printable(text)!r}: not FIRST:LAST:COUNT") from None
    if not 2 <= number <= _MOST:
        raise UsageError(f"{printable(text)!r}: COUNT is at least 2")
    steps = [low + (high - low) * i / (number - 1) for i in range(number)]
    return tuple(format(step.normalize() or Decimal(0), "f") for step in steps)


def points(given: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Every combination; the last axis varies fastest."""
    for values in product(*(axis.values for axis in given)):
        yield {axis.name: value for axis, value in zip(given, values, strict=True)}
