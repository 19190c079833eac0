"""Tell transformers of packed checkpoints once it is imported, without importing it.

transformers finds no quantizers by itself: without ours it would warn, leave the quantization out,
and fail on the shape of every packed tensor.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_WHERE = "transformers.quantizers.auto"
_OURS = "weightsmith.inference.transformers"


class _Finder(MetaPathFinder):
    """Finds what others find, and lets our module follow."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        if name != _WHERE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(_OURS)

            loader.exec_module = execute_and_register
        return spec


def register() -> None:
    """Register now if transformers is there, else when it comes."""
    if _WHERE in sys.modules:
        importlib.import_module(_OURS)
    else:
        sys.meta_path.insert(0, _Finder())
