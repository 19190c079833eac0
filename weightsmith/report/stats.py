"""What the numbers of one checkpoint are like, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

from weightsmith.checkpoint.remote import read_all_ahead
from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import is_arithmetic
from weightsmith.header import TensorSpec
from weightsmith.report.blocks import Reader, cut
from weightsmith.statistics import Moments


def statistics(
    source: Source, *, spectrum: bool, tick: Callable[[int], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Read a checkpoint once and describe every tensor of an arithmetic dtype.

    Args:
        source: the checkpoint.
        spectrum: whether to decompose finite matrices too, in memory one at a time.
        tick: told the bytes of each tensor.

    Returns:
        By tensor name, with stable keys: mean, std, max_abs, zeros (a share) and norm of the finite
        elements, nonfinite (a count), and with `spectrum` erank (None where there is none).
    """
    reader = Reader(source)
    found = {}
    read_all_ahead(source, (s for s in source.header.tensors if is_arithmetic(s.dtype)))
    for spec in source.header.tensors:
        if is_arithmetic(spec.dtype):
            found[spec.name] = _matrix(reader, spec) if spectrum else _blocks(reader, spec)
        tick(spec.nbytes)
    source.finish()
    return found


def _blocks(reader: Reader, spec: TensorSpec) -> dict[str, Any]:
    return _facts(sum(map(Moments.of, reader.blocks(spec)), Moments()))


def _matrix(reader: Reader, spec: TensorSpec) -> dict[str, Any]:
    if len(spec.shape) < 2 or spec.numel == 0:
        return _blocks(reader, spec) | {"erank": None}
    from weightsmith.report.spectra import erank_of

    matrix = reader.matrix(spec)
    moments = sum(map(Moments.of, cut(matrix)), Moments())
    return _facts(moments) | {"erank": None if moments.nonfinite else erank_of(matrix)}


def _facts(moments: Moments) -> dict[str, Any]:
    elements = moments.elements
    return {
        "mean": moments.mean,
        "std": moments.std,
        "max_abs": moments.largest,
        "zeros": moments.zeros / elements if elements else 0.0,
        "norm": sqrt(moments.square),
        "nonfinite": moments.nonfinite,
    }
