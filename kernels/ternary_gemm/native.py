"""The native functions, or None: where they were not built, or WEIGHTSMITH_REFERENCE=1 says so."""

import os
import warnings
from typing import Any

native: Any = None

if not os.environ.get("WEIGHTSMITH_REFERENCE"):
    try:
        from weightsmith.kernels import _native

        native = _native.ternary_gemm
    except ImportError:
        warnings.warn(
            "weightsmith was installed without its native kernels: packed models run as dense "
            "ones, in as much memory; install a C++17 compiler, then reinstall weightsmith",
            stacklevel=2,
        )
