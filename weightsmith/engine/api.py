"""The Python functions: one for each operator."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from weightsmith.dtypes import ALIASES
from weightsmith.engine.execute import Observer, execute
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.settings import Settings
from weightsmith.errors import UsageError
from weightsmith.operators.operator import Operator
from weightsmith.selection import Selection


def function_of(operator: type[Operator]) -> Callable[..., Outcome]:
    """The function `weightsmith.NAME(*inputs, output=..., **options)` of an operator."""
    own = {item.name for item in fields(operator)}

    def call(*inputs: str, output: str, dry_run: bool = False, **options: Any) -> Outcome:
        parameters = {key: value for key, value in options.items() if key in own}
        rest = {key: value for key, value in options.items() if key not in own}
        if "dtype" in rest:
            rest["dtype"] = ALIASES[rest["dtype"].lower()]
        selection = Selection(tuple(rest.pop("select", ())), tuple(rest.pop("exclude", ())))
        settings = Settings(output=str(output), selection=selection, **rest)
        addresses = [str(address) for address in inputs]
        if len(addresses) < len(operator.inputs):
            raise UsageError(f"{operator.name} takes {len(operator.inputs)} inputs")
        return execute(operator(**parameters), addresses, settings, Observer(), dry_run=dry_run)

    call.__name__ = operator.name
    call.__doc__ = operator.__doc__
    return call
