"""Axes of a sweep, and their combinations."""

import pytest

from weightsmith.errors import UsageError
from weightsmith.report.grid import Axis, axes, points


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1", ("1",)),
        ("a=1,2, 4", ("1", "2", "4")),
        ("a=0:0.05:6", ("0", "0.01", "0.02", "0.03", "0.04", "0.05")),
        ("a=0:2:3", ("0", "1", "2")),
        ("a=1:-1:5", ("1", "0.5", "0", "-0.5", "-1")),
        ("a=0-9,10-19", ("0-9", "10-19")),
        ("a=x=y", ("x=y",)),
    ],
)
def test_values(text: str, values: tuple[str, ...]) -> None:
    assert axes([text]) == [Axis("a", values)]


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=1:2:1", "a=1:2:x", "a=:1:3", "a=1:2:1e9"])
def test_errors(text: str) -> None:
    with pytest.raises(UsageError):
        axes([text])


def test_a_name_comes_once() -> None:
    with pytest.raises(UsageError, match="a is swept twice"):
        axes(["a=1", "a=2"])


def test_every_combination_the_last_fastest() -> None:
    found = list(points(axes(["a=1,2", "b=x,y"])))
    assert found == [{"a": a, "b": b} for a in "12" for b in "xy"]
