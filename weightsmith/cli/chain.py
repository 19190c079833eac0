"""Commands joined by the word `then`: one process, no stream between them."""

from collections.abc import Sequence
from dataclasses import replace

from weightsmith.cli.app import build
from weightsmith.cli.command import Command, carry_out
from weightsmith.cli.options import run_parameters
from weightsmith.engine.chain import Step, link_label
from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.operators.registry import operators

THEN = "then"
# How the whole run goes is for the first command to say, where it goes for the last.
_FIRST_ONLY = ("jobs", "memory", "dry_run", "resume", "json", "quiet", "verbose")
_LAST_ONLY = ("output", "shard_size")


def is_chain(words: Sequence[str]) -> bool:
    """Whether a command line is a chain of operators."""
    return THEN in words and words[0] in operators()


def run_chain(words: Sequence[str]) -> None:
    """Carry out a chain.

    Raises:
        UsageError: a link is no operator, or has an option that belongs elsewhere.
    """
    commands = [_parse(link, number) for number, link in enumerate(_split(words))]
    carry_out(lambda: _steps(commands), commands)


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
    known = operators()
    if words[0] not in known and not words[0].startswith("-"):
        raise UsageError(
            f"{words[0]} cannot be linked",
            expected=f"one of {', '.join(known)}",
            remedy=f"join other commands by a pipe; a file called {THEN} is ./{THEN}",
        )
    taken: list[Command] = []
    try:
        build(taken.append)(words, prog_name="weightsmith")
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
    whole_run = replace(last, jobs=first.jobs, memory=first.memory, resume=first.resume)
    return [*steps[:-1], replace(steps[-1], settings=whole_run)]


def _check(command: Command, *, first: bool, last: bool) -> None:
    defaults = {each.name: each.default for each in run_parameters(command.operator.uses)}
    elsewhere = {
        **({} if first else dict.fromkeys(_FIRST_ONLY, "first")),
        **({} if last else dict.fromkeys(_LAST_ONLY, "last")),
    }
    for name, place in elsewhere.items():
        if command.given[name] != defaults[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is for the whole chain",
                remedy=f"give it to the {place} command",
            )
