"""Values of a mergekit recipe: numbers, gradients over depth, lists of filters; several scopes.

The rules were taken from the documentation and behaviour of mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from weightsmith.errors import UsageError, printable
from weightsmith.operators.numbers import decimal

_FILTER = {"filter", "value"}
Scope = Mapping[str, Any]


def number_for(name: str, scopes: Iterable[Scope], tensor: str, depth: Fraction) -> Decimal | None:
    """The value of parameter `name` for a tensor: of the first scope that has one for it.

    Args:
        name: the parameter.
        scopes: `parameters` mappings, the narrowest first.
        tensor: the name that filters look at.
        depth: where the tensor's layer stands, from 0 to 1.

    Raises:
        UsageError: a value cannot be read.
    """
    for scope in scopes:
        if name in scope:
            try:
                found = _at(scope[name], tensor, depth)
            except ValueError as error:
                raise UsageError(f"parameter {name}: {error}", tensor=tensor) from None
            if found is not None:
                return found
    return None


def flag(name: str, scopes: Iterable[Scope], default: bool) -> bool:
    """The value of a parameter that is true or false for all tensors alike."""
    for scope in scopes:
        if name in scope:
            value = scope[name]
            if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
                return bool(value)
            raise UsageError(
                f"parameter {name}: only one value for all tensors is supported",
                expected="true or false",
                got=printable(repr(value)),
            )
    return default


def _at(setting: Any, tensor: str, depth: Fraction) -> Decimal | None:
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return _number(setting)
    if not setting:
        return None
    if not any(isinstance(item, Mapping) for item in setting):
        return _on_gradient([_number(item) for item in setting], depth)
    for item in setting:
        if not isinstance(item, Mapping) or not item.keys() <= _FILTER or "value" not in item:
            raise ValueError(f"{printable(repr(item))} is not a filter with a value")
        wanted = item.get("filter")
        if wanted is None or wanted == "*" or str(wanted) in tensor:
            return _at(item["value"], tensor, depth)
    return None


def _on_gradient(anchors: list[Decimal], depth: Fraction) -> Decimal:
    """The anchors stand at equal distances; between them values change evenly."""
    position = depth * (len(anchors) - 1)
    below = int(position)
    above = min(below + 1, len(anchors) - 1)
    share = position - below
    value = (1 - share) * Fraction(anchors[below]) + share * Fraction(anchors[above])
    return Decimal(value.numerator) / Decimal(value.denominator)


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{printable(repr(value))} is not a number")
    return decimal(str(value))
