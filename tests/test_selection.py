"""Globs and per-tensor values."""

import pytest

from weightsmith.errors import UsageError
from weightsmith.operators.numbers import decimal
from weightsmith.selection import Selection, Values, compile_glob

NAMES = [f"model.layers.{i}.{part}.weight" for i in (0, 1, 2, 11) for part in ("mlp", "attn")]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("*", 8),
        ("*.mlp.*", 4),
        ("model.layers.?.mlp.weight", 3),
        ("*.layers.{0..2}.*", 6),
        ("*.layers.{2..11}.*", 4),
        ("*.{mlp,attn}.weight", 8),
        ("*.{m*,nothing}.weight", 4),
        ("model.layers.1", 0),
        ("*layers.1.mlp.weight", 1),
        ("*layersX1*", 0),
    ],
)
def test_globs(pattern: str, count: int) -> None:
    assert sum(bool(compile_glob(pattern).fullmatch(name)) for name in NAMES) == count


def test_a_dot_is_only_a_dot() -> None:
    assert not compile_glob("a.b").fullmatch("axb")


@pytest.mark.parametrize("pattern", ["{5..1}", "{0..1000000}"])
def test_impossible_ranges(pattern: str) -> None:
    with pytest.raises(UsageError, match="range"):
        compile_glob(pattern)


def test_exclude_wins_over_select() -> None:
    selection = Selection(("*.mlp.*",), ("*.0.*",))
    assert [name for name in NAMES if name in selection] == NAMES[2::2]


def test_a_pattern_without_a_match_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"--exclude 'x\*' matches no tensor"):
        Selection(exclude=("x*",)).check(NAMES)


def test_the_last_match_wins() -> None:
    values = Values.parse(["0.8", "*.mlp.*=0.2", "*.1.mlp.*=1"], "--lambda", decimal)
    assert [str(v) for v in values.resolve(NAMES).values()] == [
        *("0.2", "0.8", "1", "0.8"),
        *("0.2", "0.8", "0.2", "0.8"),
    ]


def test_a_tensor_without_a_value_is_an_error() -> None:
    values = Values.parse(["*.mlp.*=0.2"], "--lambda", decimal)
    with pytest.raises(UsageError, match=r"--lambda gives no value[\s\S]*attn"):
        values.resolve(NAMES)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "*=", "*.mlp.*=0.1.2"])
def test_values_that_are_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--lambda"):
        Values.parse([text], "--lambda", decimal)
