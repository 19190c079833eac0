"""weightsmith: weight surgery on LLM checkpoints, as they stream by.

Every command is a function here too: `weightsmith.graft("base", "instruct", "tuned",
output="out", scale="0.5")`. Nothing heavy is imported before it is needed.
"""

from typing import TYPE_CHECKING

from weightsmith import autoload

if TYPE_CHECKING:
    from collections.abc import Callable

    from weightsmith.engine.outcome import Outcome

__version__ = "0.1.0"

autoload.register()


def __getattr__(name: str) -> "Callable[..., Outcome]":
    from weightsmith.operators.registry import operator_named

    operator = operator_named(name.replace("_", "-"))
    if operator is None:
        raise AttributeError(f"module 'weightsmith' has no attribute {name!r}")
    from weightsmith.engine.api import function_of

    return function_of(operator)


def __dir__() -> list[str]:
    from weightsmith.operators.registry import operators

    return sorted(["__version__", *(name.replace("-", "_") for name in operators())])
