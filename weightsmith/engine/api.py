"""The Python functions: one for each operator."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from weightsmith.engine.execute import Observer, execute
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.settings import Settings, parse_dtype, parse_size
from weightsmith.errors import UsageError
from weightsmith.operators.operator import Operator
from weightsmith.selection import Selection

_SIZES = ("memory", "shard_size")


def function_of(operator: type[Operator]) -> Callable[..., Outcome]:
    """The function `weightsmith.NAME(*inputs, output=..., **options)` of an operator.

    Options have the names of the command's, with underscores; sizes may be text ("2GB") or bytes.
    """
    own = {item.name for item in fields(operator)}
    shared = {item.name for item in fields(Settings)} - {"output", "selection"}
    by_option = [each.role for each in operator.inputs if each.flag]
    known = own | shared | {"select", "exclude", *by_option}

    def call(*inputs: object, output: object, dry_run: bool = False, **options: Any) -> Outcome:
        if unknown := options.keys() - known:
            raise UsageError(
                f"{operator.name} has no option {min(unknown)}", expected=", ".join(sorted(known))
            )
        parameters = {key: options.pop(key) for key in own & options.keys()}
        selection = Selection(*(_texts(options.pop(key, ())) for key in ("select", "exclude")))
        for key in _SIZES & options.keys():
            options[key] = options[key] and parse_size(str(options[key]), key)
        if "dtype" in options:
            options["dtype"] = parse_dtype(options["dtype"])
        named = [options.pop(role) for role in by_option if role in options]
        settings = Settings(output=str(output), selection=selection, **options)
        asked = operator(**parameters)
        addresses = _addresses(asked, [str(address) for address in inputs])
        addresses += [str(address) for address in named if address is not None]
        return execute(asked, addresses, settings, Observer(), dry_run=dry_run)

    call.__name__ = call.__qualname__ = operator.name.replace("-", "_")
    call.__doc__ = inspect.getdoc(operator)
    return call


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _addresses(operator: Operator, given: list[str]) -> list[str]:
    inputs = [each for each in operator.inputs if not each.flag]
    last = inputs[-1]
    if len(given) == len(inputs) - 1 and last.stdin:
        return [*given, "-"] if operator.reads_stdin else given
    too_many = len(given) > len(inputs) and not last.many
    if len(given) < len(inputs) or too_many:
        names = ", ".join(each.role for each in inputs)
        raise UsageError(f"{operator.name} takes {names}", got=f"{len(given)} inputs")
    return given
