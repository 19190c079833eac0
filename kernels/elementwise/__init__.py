"""Elementwise arithmetic on raw bf16, fp16 and fp32 buffers, without torch.

The native module is used where it was built, else the numpy reference with the same bits;
WEIGHTSMITH_REFERENCE=1 asks for the reference.
"""

import os
import warnings

__all__ = [
    "axpy",
    "cast",
    "count_nonfinite",
    "difference",
    "graft",
    "lerp",
    "native",
    "products",
    "xor",
]

native = not os.environ.get("WEIGHTSMITH_REFERENCE")

if native:
    try:
        from weightsmith.kernels._native import (
            axpy,
            cast,
            count_nonfinite,
            difference,
            graft,
            lerp,
            products,
            xor,
        )
    except ImportError:
        native = False
        warnings.warn(
            "weightsmith was installed without its native kernels: results are the same bits, but "
            "several times slower; install a C++17 compiler, then reinstall weightsmith",
            stacklevel=2,
        )

if not native:
    from weightsmith.kernels.elementwise.reference import (
        axpy,
        cast,
        count_nonfinite,
        difference,
        graft,
        lerp,
        products,
        xor,
    )
