"""Rules of --rename: what they change, what they refuse."""

import re

import pytest

from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header, TensorSpec
from weightsmith.renaming import Rule, renamed


def header(*names: str) -> Header:
    return Header(tuple(TensorSpec(name, "F32", (1,)) for name in names))


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        (r"s/^model\./model.language_model./", "model.norm.weight", "model.language_model.norm.weight"),
        (r"s/a/b/", "a.a", "b.a"),
        (r"s/a/b/g", "a.a", "b.b"),
        (r"s,^(x|y)\.,\1/,", "y.z", "y/z"),
        (r"s/\//./g", "a/b/c", "a.b.c"),
        (r"base:s/\.gamma$/.weight/", "norm.gamma", "norm.weight"),
        (r"s/nothing/x/", "a", "a"),
    ],
)  # fmt: skip
def test_a_rule_changes_a_name(rule: str, old: str, new: str) -> None:
    assert Rule.parse(rule)(old) == new
    assert str(Rule.parse(rule)) == rule


@pytest.mark.parametrize(
    "text",
    ["", "s", "s/a/b", "s/a", "a=b", "s//b/", "s/a/b/x", "s/(/b/", r"s/a/\1/", "B:s/a/b/", "sabac"],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="not "):
        Rule.parse(text)


def test_rules_follow_each_other_on_the_inputs_they_name() -> None:
    rules = [Rule.parse(each) for each in ("s/^a/b/", "s/^b/c/", "two:s/^c/d/")]
    inputs = [("one", header("a.w", "x")), ("two", header("a.w")), ("three", header("a.w"))]
    assert renamed(rules, inputs, ["one", "two"]) == [{"a.w": "c.w"}, {"a.w": "d.w"}, {}]


def test_names_may_be_exchanged() -> None:
    rules = [Rule.parse(each) for each in ("s/^a$/t/", "s/^b$/a/", "s/^t$/b/")]
    assert renamed(rules, [("one", header("a", "b"))], ["one"]) == [{"a": "b", "b": "a"}]


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (["s/q/x/"], UsageError, "changes no name.*names look like a.w"),
        (["two:s/a/x/"], UsageError, "names no input; expected one of one, got two"),
        (["s/^./x/"], Mismatch, "gives two tensors the name x.w .tensor b.w."),
        (["s/a/b/"], Mismatch, "it is the name of a.w too|it is the name of b.w too"),
        (["s/a.w//"], Mismatch, "leaves no name"),
    ],
)
def test_what_rules_may_not_do(rules: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        renamed([Rule.parse(each) for each in rules], [("one", header("a.w", "b.w"))], ["one"])
