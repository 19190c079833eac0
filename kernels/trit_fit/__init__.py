"""Sums of scaled trit planes: fit, assign, pack and expand them, on numpy arrays.

The native module is used where it was built, else the numpy reference with the same results;
WEIGHTSMITH_REFERENCE=1 asks for the reference. See README.md for the method.
"""

import os
from typing import TYPE_CHECKING

from weightsmith.kernels import elementwise
from weightsmith.kernels.trit_fit import reference

__all__ = [
    "MOST_STARTS",
    "algorithm1_step",
    "assign",
    "expand",
    "feedback",
    "fit",
    "native",
    "pack",
    "unpack",
]

# How many starts there are for one, two and three planes.
MOST_STARTS = {planes: len(starts) for planes, starts in reference.STARTS.items()}

# Where the native module is missing, elementwise has warned already.
native = elementwise.native and not os.environ.get("WEIGHTSMITH_REFERENCE")

# Both have the same signatures; type checkers read those of the reference.
if TYPE_CHECKING or not native:
    from weightsmith.kernels.trit_fit.reference import (
        algorithm1_step,
        assign,
        expand,
        feedback,
        fit,
        pack,
        unpack,
    )
else:
    from weightsmith.kernels._native.trit_fit import (
        algorithm1_step,
        assign,
        expand,
        feedback,
        fit,
        pack,
        unpack,
    )
