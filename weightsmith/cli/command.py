"""Derive a command from an operator: its inputs, its fields, and the shared options."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from weightsmith.cli.options import run_parameters, settings_from
from weightsmith.cli.screen import Screen
from weightsmith.engine.chain import Step
from weightsmith.engine.execute import execute_chain
from weightsmith.errors import NoInput, UsageError
from weightsmith.operators.operator import OPTION, Input, Operator, Option


@dataclass(frozen=True)
class Command:
    """An operator's command as it was given.

    Attributes:
        operator: the class.
        given: the values of all arguments and options, by parameter.
    """

    operator: type[Operator]
    given: Mapping[str, Any]

    def step(self) -> Step:
        """What it asks for.

        Raises:
            UsageError: a value cannot be read.
        """
        own = _own_options(self.operator)
        # An option left out keeps the field's default.
        parameters = {n: self.given[n] for n in own if self.given[n] not in (None, [])}
        # An operator's own --device is no setting of the engine.
        shared = {name: value for name, value in self.given.items() if name not in own}
        asked = self.operator(**parameters)
        return Step(asked, _addresses(asked, self.given), settings_from(shared))

    def carry_out(self) -> None:
        """Run it and report."""
        carry_out(lambda: [self.step()], [self])


def carry_out(steps: Callable[[], Sequence[Step]], commands: Sequence[Command]) -> None:
    """Run the steps that commands ask for, and report; the first says how, the last where to."""
    first, last = commands[0], commands[-1]
    dry_run = first.given["dry_run"]
    screen = Screen(last.operator.name, {**first.given, "output": last.given["output"]})
    try:
        outcome = execute_chain(steps(), screen.observer, dry_run=dry_run)
    except NoInput as error:
        raise UsageError(str(error), remedy=_forms(first.operator)) from None
    finally:
        screen.close()
    screen.report(outcome, dry_run=dry_run)


def _own_options(operator: type[Operator]) -> list[str]:
    return [item.name for item in fields(operator) if OPTION in item.metadata]


def command_of(
    operator: type[Operator], take: Callable[[Command], None] = Command.carry_out
) -> Callable[..., None]:
    """A function that typer turns into the operator's command.

    Args:
        operator: the class.
        take: what is done with the command once it is parsed.
    """
    by_option = [given for given in operator.inputs if given.flag]

    def command(**given: Any) -> None:
        take(Command(operator, given))

    parameters = [
        *(_argument(given) for given in operator.inputs if not given.flag),
        *(_named_input(given) for given in by_option),
        *(
            option_parameter(item.name, item.metadata[OPTION], item.default)
            for item in fields(operator)
            if OPTION in item.metadata
        ),
        *run_parameters(operator.uses),
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = _help(operator)
    return command


def _help(operator: type[Operator]) -> str:
    text = textwrap.dedent(f"{operator.__doc__ or ''}").strip()
    head, _, body = text.partition("\n")
    paragraphs = [head, *re.split(r"\n\s*\n", textwrap.dedent(body).strip())]
    examples = textwrap.dedent(operator.examples).strip()
    if examples:
        # \b keeps typer from joining the lines.
        paragraphs.append("\b\nExamples:\n" + textwrap.indent(examples, "  "))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _forms(operator: type[Operator]) -> str:
    names = [given.role.upper() for given in operator.inputs if not given.flag]
    full = f"weightsmith {operator.name} {' '.join(names)}"
    piped = f"... | weightsmith {' '.join([operator.name, *names[:-1]])}"
    return f"the forms are: {full}, or {piped}"


def _argument(given: Input) -> Parameter:
    kind: Any = list[str] if given.many else str
    shown = given.role.upper()
    help_text = f"{given.help}" + (" [default: - (standard input)]" if given.stdin else "")
    default: Any = Parameter.empty
    if given.stdin:
        default = ["-"] if given.many else None
        kind = kind if given.many else str | None
    argument = typer.Argument(
        metavar=f"[{shown}]" if given.stdin else shown, help=help_text, show_default=False
    )
    return Parameter(
        given.role,
        Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[kind, argument],
    )


def _named_input(given: Input) -> Parameter:
    option = typer.Option(given.flag, help=f"{given.help}.", metavar="SOURCE", show_default=False)
    return Parameter(
        given.role,
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def option_parameter(name: str, described: Option, default: Any) -> Parameter:
    """The parameter of a command's signature for a field of an operator."""
    many = described.per_tensor or described.repeated
    if described.convert is None:
        kind: Any = bool
    else:
        kind = list[str] if many else str | None
    text = described.help[0].upper() + described.help[1:]
    if described.convert is not None and default not in (None, ()):
        text += f" [default: {default}]"
    option = typer.Option(
        described.flag,
        help=text + ".",
        metavar=None if described.convert is None else _metavar(described),
        show_default=False,
    )
    empty: Any = False if described.convert is None else ([] if many else None)
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[kind, option]
    )


def _metavar(described: Option) -> str:
    return f"[GLOB=]{described.metavar}" if described.per_tensor else described.metavar


def _addresses(operator: Operator, given: Mapping[str, Any]) -> list[str]:
    addresses: list[str] = []
    for each in operator.inputs:
        value = given[each.role]
        if value is None and each.stdin and operator.reads_stdin:
            value = "-"
        if value is not None:
            addresses += value if each.many else [value]
    return addresses
