"""All operators by name. Each lives in the module that has its name, so that one is found alone."""

import importlib
import pkgutil
from typing import TypeVar

from weightsmith.operators.operator import Operator

_OPERATORS: dict[str, type[Operator]] = {}
T = TypeVar("T", bound=type[Operator])


def register(operator: T) -> T:
    """Class decorator: make an operator a command and a function of the Python API."""
    _OPERATORS[operator.name] = operator
    return operator


def operator_named(name: str) -> type[Operator] | None:
    """The operator of this name, None if there is none; others are imported only to be sure."""
    module = name.replace("-", "_")
    if name not in _OPERATORS and module in _modules():
        importlib.import_module(f"weightsmith.operators.{module}")
    return _OPERATORS.get(name) or operators().get(name)


def operators() -> dict[str, type[Operator]]:
    """Every registered operator by name, in alphabetical order."""
    for module in _modules():
        importlib.import_module(f"weightsmith.operators.{module}")
    return dict(sorted(_OPERATORS.items()))


def _modules() -> list[str]:
    package = importlib.import_module("weightsmith.operators")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]
