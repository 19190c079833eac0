"""A user's own device: constants in a TOML file, nothing that runs.

name = "mine"                  # in reports and provenance
source = "measured by us"      # optional
cell = "pair"                  # or "single"
g_max = 25.0                   # microsiemens; g_min = 0.0, devices = 1 if left out
program = [0.26, 1.97, -1.17]  # sigma in microsiemens, of x^0, x^1, ... with x = g / g_max
[drift]                        # optional: g (t / t_0)^-nu
t_0 = 20.0                     # seconds
mean = 0.05                    # of nu: a number or a curve
std = { slope = -0.0125, offset = -0.0059, low = 0.008, high = 0.045 }
[read]                         # optional: |g| q sqrt(ln((t + t_read) / (2 t_read)))
t_read = 250e-9                # seconds
q = { scale = 0.0088, power = 0.65, most = 0.2 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from weightsmith.crossbar.curves import Constant, Curve, InversePower, Logarithmic
from weightsmith.crossbar.device import Cell
from weightsmith.crossbar.powerlaw import PowerLaw
from weightsmith.errors import UsageError

_CURVES: dict[frozenset[str], Callable[..., Curve]] = {
    frozenset({"slope", "offset", "low", "high"}): Logarithmic,
    frozenset({"scale", "power", "most"}): InversePower,
}


def read_device(path: str) -> PowerLaw:
    """The device that a file describes.

    Raises:
        UsageError: it cannot be read, or has keys or values that mean nothing.
    """
    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--device: {error.strerror}", file=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--device: not TOML: {error}", file=path) from None
    return _Reader(path).device(given)


class _Reader:
    """Takes tables apart; every key is looked at once, and none may be left."""

    def __init__(self, path: str) -> None:
        self._path = path

    def device(self, given: dict[str, Any]) -> PowerLaw:
        drift = self._table(given, "drift")
        read = self._table(given, "read")
        constants: dict[str, Any] = {
            "name": self._text(given, "name"),
            "source": self._text(given, "source", "a user's own constants"),
            "cell": self._cell(given),
            "g_max": self._number(given, "g_max"),
            "g_min": self._number(given, "g_min", 0.0),
            "devices": int(self._number(given, "devices", 1)),
            "coefficients": self._numbers(given, "program"),
        }
        if drift is not None:
            constants["t_0"] = self._number(drift, "t_0")
            constants["nu_mean"] = self._curve(drift, "mean")
            constants["nu_std"] = self._curve(drift, "std") if "std" in drift else None
            self._nothing_left(drift, "[drift]")
        if read is not None:
            constants["t_read"] = self._number(read, "t_read")
            constants["q"] = self._curve(read, "q")
            self._nothing_left(read, "[read]")
        self._nothing_left(given, "the file")
        if not 0 <= constants["g_min"] < constants["g_max"]:
            raise self._error("g_min and g_max", "0 <= g_min < g_max")
        return PowerLaw(**constants)

    def _table(self, given: dict[str, Any], key: str) -> dict[str, Any] | None:
        value = given.pop(key, None)
        if value is not None and not isinstance(value, dict):
            raise self._error(key, f"a table [{key}]")
        return value

    def _text(self, given: dict[str, Any], key: str, default: str | None = None) -> str:
        value = given.pop(key, default)
        if not isinstance(value, str):
            raise self._error(key, "a string")
        return value

    def _cell(self, given: dict[str, Any]) -> Cell:
        value = given.pop("cell", "pair")
        if value not in (Cell.PAIR, Cell.SINGLE):
            raise self._error("cell", '"pair" or "single"')
        return Cell(value)

    def _number(self, given: dict[str, Any], key: str, default: float | None = None) -> float:
        value = given.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
            raise self._error(key, "a number from 0 on")
        return value

    def _numbers(self, given: dict[str, Any], key: str) -> tuple[float, ...]:
        value = given.pop(key, None)
        if not isinstance(value, list) or not value or not all(map(_is_finite, value)):
            raise self._error(key, "a list of numbers")
        return tuple(value)

    def _curve(self, given: dict[str, Any], key: str) -> Curve:
        value = given.pop(key, None)
        if _is_finite(value):
            return Constant(value)
        kind = _CURVES.get(frozenset(value)) if isinstance(value, dict) else None
        if kind is None or not all(map(_is_finite, value.values())):
            raise self._error(
                key,
                "a number, { slope, offset, low, high } for clip(slope ln x + offset, low, high), "
                "or { scale, power, most } for min(scale / x^power, most)",
            )
        return kind(**value)

    def _nothing_left(self, given: dict[str, Any], where: str) -> None:
        if given:
            raise UsageError(f"--device: {where} has an unknown key {min(given)}", file=self._path)

    def _error(self, key: str, expected: str) -> UsageError:
        return UsageError(
            f"--device: {key} is missing or wrong", file=self._path, expected=expected
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
