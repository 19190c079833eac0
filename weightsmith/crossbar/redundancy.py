"""Several copies of a weight, each on devices of its own, read as one."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


class Combine(StrEnum):
    """How copies become one: their mean, which a crossbar's currents give, or their median."""

    MEAN = "mean"
    MEDIAN = "median"


def combine(errors: Iterator[Float], how: Combine) -> Float:
    """One error of each weight from those of its copies."""
    if how is Combine.MEDIAN:
        copies = list(errors)
        return copies[0] if len(copies) == 1 else np.median(np.stack(copies), axis=0)
    total = next(errors)
    number = 1
    for number, error in enumerate(errors, start=2):  # noqa: B007 - it is read after the loop
        total = total + error
    return total if number == 1 else total * np.float32(1 / number)
