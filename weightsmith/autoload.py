"""Tell transformers of packed checkpoints once it is imported, without importing it.

transformers finds no quantizers by itself: without ours it would warn, leave the quantization out,
and fail on the shape of every packed tensor.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_WHERE = "transformers.quantizers.auto"
_OURS = "weightsmith.inference.transformers"


class _Finder:
    """Finds what others find, and lets our module follow.

    It has what a MetaPathFinder needs; importing that class takes longer than all else here.
    """

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
                _import()

            loader.exec_module = execute_and_register
        return spec


def _import() -> None:
    try:
        importlib.import_module(_OURS)
    except ImportError as error:
        # Who imports transformers for something else must not fail for our sake.
        warnings.warn(f"packed checkpoints will not load: {error}", stacklevel=2)


def register() -> None:
    """Register now if transformers is there, else when it comes."""
    if _WHERE in sys.modules:
        _import()
    else:
        sys.meta_path.insert(0, _Finder())
