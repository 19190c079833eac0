"""What the operators that blend models share: one coefficient for each model, by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Generic, TypeVar

from weightsmith.errors import UsageError
from weightsmith.operators.numbers import decimal, float32
from weightsmith.operators.operator import InputView
from weightsmith.selection import Values

T = TypeVar("T")


class Numbers(tuple[Decimal, ...]):
    """A number for each model, or one for all."""

    __slots__ = ()

    def __str__(self) -> str:
        return ",".join(map(str, self))

    def spread(self, count: int, option: str, tensor: str) -> tuple[Decimal, ...]:
        """One for each of `count` models.

        Raises:
            UsageError: there are neither one nor `count`.
        """
        if len(self) == 1:
            return self * count
        if len(self) != count:
            raise UsageError(
                f"{option} {self}",
                tensor=tensor,
                expected=f"one number, or one for each of {count} models",
                got=len(self),
            )
        return self


def numbers(text: str) -> Numbers:
    """Read `0.5,0.3`.

    >>> str(numbers("0.50,1"))
    '0.5,1'
    """
    return Numbers(decimal(each.strip()) for each in text.split(","))


def shares(text: str) -> Numbers:
    """Read numbers in [0, 1].

    Raises:
        ValueError: one lies outside.
    """
    given = numbers(text)
    if not all(0 <= number <= 1 for number in given):
        raise ValueError("not between 0 and 1")
    return given


def rounded(number: Decimal | Fraction, option: str) -> float:
    """The nearest float32.

    Raises:
        UsageError: it is too large.
    """
    try:
        return float32(number)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def numbered(inputs: Sequence[InputView]) -> list[InputView]:
    """The inputs, those that are called "model" as "model1", "model2" and so on, for --vocab."""
    count = 0
    views = []
    for view in inputs:
        count += view.role == "model"
        views.append(replace(view, role=f"model{count}") if view.role == "model" else view)
    return views


@dataclass(frozen=True)
class Resolved(Values[T], Generic[T]):
    """Values that are known by tensor, such as those of a recipe.

    Attributes:
        by_name: the value of each tensor.
        written: how the recipe has them, for provenance.
    """

    rules: tuple[tuple[str, T], ...] = ()
    option: str = ""
    by_name: Mapping[str, T] = field(default_factory=dict)

    def resolve(self, names: Sequence[str]) -> dict[str, T]:
        """See Values; every tensor has one."""
        return {name: self.by_name[name] for name in names}
