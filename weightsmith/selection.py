"""Globs on tensor names, and values that differ from tensor to tensor.

`*` crosses dots, `?` is one character, `{0..11}` a range of numbers, `{a,b}` a list.
A pattern that matches nothing is an error everywhere: a typing mistake must not pass for a choice.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from weightsmith.errors import UsageError, printable

_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_RANGE = 100_000

T = TypeVar("T")


@cache
def compile_glob(pattern: str) -> re.Pattern[str]:
    """Translate one glob into a regular expression that matches whole names.

    >>> bool(compile_glob("*.layers.{0..2}.*").fullmatch("model.layers.1.mlp.weight"))
    True
    """
    parts = _BRACE.split(pattern)
    # Every second part is the inside of braces.
    return re.compile(
        "".join(_braces(p, pattern) if i % 2 else _plain(p) for i, p in enumerate(parts)), re.DOTALL
    )


def _plain(text: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in text)


def _braces(inside: str, pattern: str) -> str:
    if interval := _RANGE.fullmatch(inside):
        first, last = map(int, interval.groups())
        if not first <= last <= first + _MAX_RANGE:
            raise UsageError(f"the range in {printable(pattern)!r} is empty or too long")
        return "(?:" + "|".join(map(str, range(first, last + 1))) + ")"
    return "(?:" + "|".join(map(_plain, inside.split(","))) + ")"


def require_match(patterns: Iterable[str], names: Sequence[str], option: str) -> None:
    """Raise UsageError for the first pattern that matches none of the names."""
    for pattern in patterns:
        if not any(map(compile_glob(pattern).fullmatch, names)):
            example = f"names look like {printable(names[0])}" if names else "there are no tensors"
            raise UsageError(f"{option} {printable(pattern)!r} matches no tensor", remedy=example)


@dataclass(frozen=True)
class Selection:
    """Which tensors an operator works on: those selected and not excluded (default: all)."""

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def check(self, names: Sequence[str]) -> None:
        """Raise UsageError if a pattern matches none of the names."""
        require_match(self.select, names, "--select")
        require_match(self.exclude, names, "--exclude")

    def __contains__(self, name: str) -> bool:
        selected = not self.select or any(compile_glob(p).fullmatch(name) for p in self.select)
        return selected and not any(compile_glob(p).fullmatch(name) for p in self.exclude)

    def record(self) -> dict[str, list[str]]:
        """For provenance: only what was given."""
        given = {"select": list(self.select), "exclude": list(self.exclude)}
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True)
class Values(Generic[T]):
    """One value for each tensor: a default and patterns, of which the last match wins.

    Attributes:
        rules: (pattern, value) in the order given; the default has the pattern "*".
        option: how the user spells it, for messages.
    """

    rules: tuple[tuple[str, T], ...]
    option: str

    @classmethod
    def parse(
        cls, given: str | float | Sequence[str], option: str, convert: Callable[[str], T]
    ) -> "Values[T]":
        """Read `VALUE` and `PATTERN=VALUE` texts.

        Raises:
            UsageError: where a value cannot be read by `convert` (which raises ValueError).
        """
        texts = [str(given)] if isinstance(given, str | int | float) else list(given)
        rules = []
        for text in texts:
            pattern, equals, value = text.rpartition("=")
            try:
                rules.append((pattern if equals else "*", convert(value)))
            except ValueError as error:
                raise UsageError(f"{option} {printable(text)}: {error}") from None
        return cls(tuple(rules), option)

    def resolve(self, names: Sequence[str]) -> dict[str, T]:
        """The value of each name.

        Raises:
            UsageError: for a pattern that matches nothing, and for a tensor without a value.
        """
        if names:
            require_match((pattern for pattern, _ in self.rules), names, self.option)
        result = {}
        for name in names:
            matches = [v for p, v in self.rules if compile_glob(p).fullmatch(name)]
            if not matches:
                raise UsageError(
                    f"{self.option} gives no value",
                    tensor=name,
                    remedy=f"give a default: {self.option} VALUE, or leave it out: --exclude",
                )
            result[name] = matches[-1]
        return result

    def record(self) -> str | list[list[str]]:
        """For provenance: the value alone, or every rule in its order."""
        if len(self.rules) == 1 and self.rules[0][0] == "*":
            return str(self.rules[0][1])
        return [[pattern, str(value)] for pattern, value in self.rules]
