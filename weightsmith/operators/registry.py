"""All operators by name. Every module of this package is a candidate; `register` makes it one."""

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


def operators() -> dict[str, type[Operator]]:
    """Every registered operator by name, in alphabetical order."""
    package = importlib.import_module("weightsmith.operators")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"weightsmith.operators.{module.name}")
    return dict(sorted(_OPERATORS.items()))
