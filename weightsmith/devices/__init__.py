"""The device models: one file each, named as the command line names it, with a `DEVICE` in it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from weightsmith.errors import UsageError

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Device


def names() -> list[str]:
    """All devices that come with weightsmith; no model is imported."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Device:
    """The device of that name, or the one that a TOML file describes.

    Raises:
        UsageError: there is none, or the file is not right.
    """
    if name.endswith(".toml"):
        from weightsmith.crossbar.custom import read_device

        return read_device(name)
    if name not in names():
        expected = f"one of {', '.join(names())}, or a file NAME.toml"
        raise UsageError(f"--device {name}: no such device", expected=expected)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    device: Device = module.DEVICE
    return device
