"""Commands joined by the word `then`: one process, no stream between them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weightsmith.cli.app import build
from weightsmith.cli.command import Command, carry_out
from weightsmith.cli.options import (
    FIRST_ONLY,
    FIRST_SETTINGS,
    LAST_ONLY,
    run_parameters,
    settings_from,
)
from weightsmith.cli.screen import Screen
from weightsmith.engine.chain import Step, link_label
from weightsmith.engine.execute import execute_chain
from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.operators.registry import operator_named, operators

THEN = "then"


def is_chain(words: Sequence[str]) -> bool:
    """Whether a command line is a chain of operators."""
    return THEN in words and operator_named(words[0]) is not None


def run_chain(words: Sequence[str]) -> None:
    """Carry out a chain.

    Raises:
        UsageError: a link is no operator, or has an option that belongs elsewhere.
    """
    commands = [_parse(link, number) for number, link in enumerate(_split(words))]
    carry_out(lambda: _steps(commands), commands)


def run_steps(steps: Sequence[tuple[list[str], str | None]], given: Mapping[str, Any]) -> None:
    """Carry out the steps of a recipe.

    Args:
        steps: the words of each command, and the name of its result.
        given: the options of the whole run.
    """
    commands = [_parse(words, number) for number, (words, _) in enumerate(steps)]
    whole = settings_from(dict(given))
    parsed = []
    for number, (command, (_, name)) in enumerate(zip(commands, steps, strict=True)):
        try:
            _check(command, first=False, last=False)
            parsed.append(replace(command.step(), name=name))
        except WeightsmithError as error:
            error.within(link_label(number, command.operator.name, name))
            raise
    settings = {key: getattr(whole, key) for key in (*FIRST_SETTINGS, *LAST_ONLY)}
    settings["force"] = whole.force or parsed[-1].settings.force
    last = replace(parsed[-1], settings=replace(parsed[-1].settings, **settings))
    screen = Screen("run", dict(given))
    try:
        outcome = execute_chain([*parsed[:-1], last], screen.observer, dry_run=given["dry_run"])
    finally:
        screen.close()
    screen.report(outcome, dry_run=given["dry_run"])


def _split(words: Sequence[str]) -> list[list[str]]:
    links: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            links.append([])
        else:
            links[-1].append(word)
    if not all(links):
        raise UsageError(
            f"{THEN} stands between two commands",
            remedy=f"a file of that name is ./{THEN}",
        )
    return links


def _parse(words: list[str], number: int) -> Command:
    if not words or (operator_named(words[0]) is None and not words[0].startswith("-")):
        raise UsageError(
            f"{words[0] if words else 'nothing'} cannot be linked",
            expected=f"one of {', '.join(operators())}",
            remedy=f"join other commands by a pipe; a file called {THEN} is ./{THEN}",
        )
    taken: list[Command] = []
    try:
        build(words[0], taken.append)(words, prog_name="weightsmith")
    except SystemExit as end:
        if end.code or not taken:
            raise  # its usage was wrong, or it was asked for help
    except WeightsmithError as error:
        error.within(link_label(number, words[0]))
        raise
    return taken[0]


def _steps(commands: Sequence[Command]) -> list[Step]:
    steps = []
    for number, command in enumerate(commands):
        try:
            _check(command, first=number == 0, last=number == len(commands) - 1)
            steps.append(command.step())
        except WeightsmithError as error:
            error.within(link_label(number, command.operator.name))
            raise
    first, last = steps[0].settings, steps[-1].settings
    whole_run = replace(last, **{name: getattr(first, name) for name in FIRST_SETTINGS})
    return [*steps[:-1], replace(steps[-1], settings=whole_run)]


def _check(command: Command, *, first: bool, last: bool) -> None:
    defaults = {each.name: each.default for each in run_parameters(command.operator.uses)}
    elsewhere = {
        **({} if first else dict.fromkeys(FIRST_ONLY, "first")),
        **({} if last else dict.fromkeys(LAST_ONLY, "last")),
    }
    for name, place in elsewhere.items():
        if command.given[name] != defaults[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is for the whole chain",
                remedy=f"give it to the {place} command, or to run where a recipe has the steps",
            )
