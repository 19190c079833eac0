"""Numbers with a meaning, as people type them: times, probabilities, factors, ranges of layers."""

import re

from weightsmith.operators.numbers import decimal

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
_TIME = re.compile(r"([0-9.eE+-]+)\s*([smhdy]?)")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def factor(text: str) -> float:
    """A number that is not negative."""
    number = float(decimal(text))
    if number < 0:
        raise ValueError("not a number from 0 on")
    return number


def probability(text: str) -> float:
    """A number in [0, 1]."""
    number = float(decimal(text))
    if not 0 <= number <= 1:
        raise ValueError("not a probability")
    return number


def seconds(text: str) -> float:
    """A time as 90, 90s, 5m, 1h, 30d or 1y (365 days), in seconds.

    >>> seconds("1h")
    3600.0
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a time such as 20s, 1h, 30d or 1y")
    return factor(match[1]) * _SECONDS[match[2]]


def layer_ranges(text: str) -> str:
    """Ranges of layers, in one normal form.

    >>> layer_ranges("0-7,12")
    '0-7,12-12'
    """
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    ranges = [(int(m[1]), int(m[2] or m[1])) for m in parts if m is not None]
    if len(ranges) < len(parts) or any(first > last for first, last in ranges):
        raise ValueError("not ranges of layers such as 0-7,12")
    return ",".join(f"{first}-{last}" for first, last in ranges)
