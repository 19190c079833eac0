"""The arithmetic of ptqtp and unpack on one work unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.operators.unit import Block, Unit
from weightsmith.tritplanes import nibbles, rows
from weightsmith.tritplanes.encoding import Encoding, Int8Encoding, TritEncoding
from weightsmith.tritplanes.fit import Fit, algorithm1, search

if TYPE_CHECKING:
    from weightsmith.operators.ptqtp import Job


def quantize(unit: Unit) -> int:
    """Quantise what the unit holds and write the part of it that the job asks for."""
    job = unit.parameters
    if job.content == "shape":
        _write(unit.out, np.array(job.encoding.shape, "<i8"))
        return 0
    weights = _finite(unit)
    try:
        if isinstance(job.encoding, Int8Encoding):
            packed = rows.pack_int8(weights)
            if job.content == "packed":
                _write(unit.out, packed)
                return 0
            return unit.out.store(rows.decode(job.encoding, packed))
        fit = _fit(unit, weights)
    except OverflowError:
        raise WeightsmithError(
            "the weights are too large for float16 scales",
            tensor=unit.name,
            got=f"a magnitude of {np.abs(weights).max():.3g}",
            remedy=f"--exclude {unit.name} keeps it as it is",
        ) from None
    unit.report(_figures(unit, fit, weights.size))
    return _store(unit.out, job, fit)


def unpack(unit: Unit) -> int:
    """Make packed rows dense."""
    return unit.out.store(decode(unit.inputs[0], unit.parameters, unit.name))


def decode(block: Block, encoding: Encoding, name: str) -> NDArray[np.float32]:
    """The weights that a block of packed rows stands for, [rows, columns].

    Raises:
        InvalidFile: the bytes are not rows of this encoding.
    """
    packed = np.frombuffer(block.data, np.uint8).reshape(-1, encoding.row_bytes)
    try:
        return rows.decode(encoding, packed)
    except rows.InvalidRows as error:
        raise InvalidFile(f"{error}", tensor=name) from None


def _finite(unit: Unit) -> NDArray[np.float32]:
    """The weights as rows, none of them NaN or infinite."""
    weights = unit.inputs[0].float32().reshape(-1, unit.parameters.encoding.columns)
    if not np.isfinite(weights).all():
        raise WeightsmithError(
            "NaN or infinity among the weights would spread over their groups",
            tensor=unit.name,
            remedy=f"--exclude {unit.name} keeps it as it is",
        )
    return weights


def _fit(unit: Unit, weights: NDArray[np.float32]) -> Fit:
    job: Job = unit.parameters
    encoding = job.encoding
    assert isinstance(encoding, TritEncoding)
    if job.stats is None:
        if job.fit == "paper":
            return algorithm1(weights, encoding)
        return search(weights, encoding, starts=job.starts)
    from weightsmith.tritplanes import calibrated

    hessian = calibrated.damped(unit.inputs[1].float32(), job.damping)
    if job.stats == "diag":
        return search(weights, encoding, np.diagonal(hessian).copy(), job.starts)
    try:
        return calibrated.feedback(weights, hessian, encoding, job.starts, unit.device)
    except ArithmeticError:
        raise WeightsmithError(
            "the statistics of this tensor are not positive definite",
            tensor=unit.name,
            remedy="a larger --damping, or more --tokens in calibrate",
        ) from None


def _figures(unit: Unit, fit: Fit, weights: int) -> dict[str, float]:
    kind = "output " if unit.parameters.stats == "feedback" else ""
    trits = fit.planes.trits
    return {
        f"{kind}error": fit.error,
        f"{kind}norm": fit.norm,
        "iterations": fit.iterations,
        "groups": fit.planes.choice.size,
        "zeros": float(trits.size - np.count_nonzero(trits)),
        "trits": trits.size,
        "bytes": len(unit.out.data),
        "weights": weights,
    }


def _store(out: Block, job: Any, fit: Fit) -> int:
    encoding = job.encoding
    if job.content == "dense":
        return out.store(rows.expand(encoding, fit.planes))
    # Units hold some rows of the tensor; what is packed depends on the row alone.
    part = replace(encoding, shape=(len(fit.planes.trits), encoding.columns))
    if job.content == "packed":
        _write(out, rows.pack_trits(part, fit.planes))
    elif job.content == "words":
        _write(out, nibbles.words(nibbles.integers(part, fit.planes)))
    else:
        _write(out, nibbles.units(part, fit.planes))
    return 0


def _write(out: Block, array: NDArray[Any]) -> None:
    out.data[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
