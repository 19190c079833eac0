"""run: carry out a recipe file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from weightsmith.cli.command import option_parameter
from weightsmith.cli.options import FIRST_ONLY, LAST_ONLY, run_parameters, settings_from
from weightsmith.cli.screen import Screen
from weightsmith.errors import InvalidFile, UsageError, WeightsmithError, printable
from weightsmith.operators.operator import OPTION
from weightsmith.operators.policies import JoiningOperator

# Names are not changed in a recipe: it does not call its models by roles.
_POLICIES = [
    item for item in fields(JoiningOperator) if OPTION in item.metadata and item.name != "rename"
]
_LARGEST = 1 << 20


def run(**given: Any) -> None:
    """Carry out a recipe: a YAML file with steps, or one of mergekit's, as it is.

    A step is an operator's command; - or a name is the result of an earlier step. Of mergekit's,
    the merge methods linear, slerp, task_arithmetic, ties, dare_linear, dare_ties and passthrough;
    what is not supported is refused by its name. Policies and options are those of the operators.

    \b
    Examples:
      weightsmith run recipe.yaml -o merged/
      weightsmith run recipe.yaml --dry-run
    """
    from dataclasses import replace

    from weightsmith.engine.execute import execute
    from weightsmith.recipes import mergekit

    screen = Screen("run", given)
    document = read_document(given["recipe"])
    if "steps" in document:
        _run_steps(document, given)
        return
    if "merge_method" not in document:
        raise UsageError(
            "not a recipe of a known kind",
            file=given["recipe"],
            expected="steps, or a merge_method",
        )
    policies = {p.name: given[p.name] for p in _POLICIES if given[p.name] is not None}
    recipe = mergekit.read(document, policies, given["seed"])
    for notice in recipe.notices:
        screen.notice(notice)
    settings = settings_from(given)
    if settings.dtype is None:
        settings = replace(settings, dtype=recipe.dtype)
    try:
        outcome = execute(
            recipe.operator, recipe.addresses, settings, screen.observer, dry_run=given["dry_run"]
        )
    finally:
        screen.close()
    screen.report(outcome, dry_run=given["dry_run"])


def _run_steps(document: Mapping[str, Any], given: dict[str, Any]) -> None:
    from weightsmith.cli.chain import run_steps

    belongs = {"recipe", "force", *FIRST_ONLY, *LAST_ONLY}
    for parameter in _parameters():
        name = parameter.name
        if name not in belongs and given[name] != parameter.default:
            raise UsageError(f"--{name.replace('_', '-')} is for the steps of this recipe")
    steps = document["steps"]
    if document.keys() != {"steps"} or not isinstance(steps, list) or not steps:
        raise UsageError("a recipe of steps has a list of steps, and nothing else")
    run_steps([_step(each) for each in steps], given)


def _step(each: object) -> tuple[list[str], str | None]:
    """The words of a step's command, and its name."""
    name, command = None, each
    if isinstance(each, dict) and each.keys() == {"name", "run"}:
        name, command = each["name"], each["run"]
    if not isinstance(command, str) or not isinstance(name, str | None):
        raise UsageError(
            "a step is a command, or has a name and a command to run", got=printable(repr(each))
        )
    try:
        return shlex.split(command), name
    except ValueError as error:
        raise UsageError(f"a step cannot be read: {error}", got=printable(command)) from None


def read_document(path: str) -> Mapping[str, Any]:
    """Parse a recipe file.

    Raises:
        UsageError: it is no YAML mapping, or holds several documents.
        WeightsmithError: it cannot be read.
    """
    import yaml

    try:
        with Path("/dev/stdin" if path == "-" else path).open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise WeightsmithError(f"cannot open: {error.strerror}", file=path) from None
    if len(text) > _LARGEST:
        raise UsageError("too long for a recipe", file=path, expected=f"{_LARGEST:,} bytes")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidFile(f"not valid YAML: {error}", file=path) from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UsageError("a recipe is a YAML mapping", file=path, got=type(document).__name__)
    return document


def _parameters() -> list[Parameter]:
    recipe = Annotated[
        str, typer.Argument(metavar="RECIPE", help="a YAML file, or -", show_default=False)
    ]
    seed = Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of the random draws of dare.")
    ]
    return [
        Parameter("recipe", Parameter.POSITIONAL_OR_KEYWORD, annotation=recipe),
        *(option_parameter(p.name, p.metadata[OPTION], p.default) for p in _POLICIES),
        Parameter("seed", Parameter.KEYWORD_ONLY, annotation=seed, default=0),
        *run_parameters(frozenset()),
    ]


run.__signature__ = Signature(_parameters())  # type: ignore[attr-defined]
run.__annotations__ = {each.name: each.annotation for each in _parameters()}
