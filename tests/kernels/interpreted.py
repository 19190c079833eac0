"""The GPU's ternary kernels run by Triton's interpreter, against the float64 reference.

test_ternary_triton.py starts pytest on this file, with TRITON_INTERPRET=1.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from trits import SHAPES, activations, close, planes
from weightsmith.kernels.ternary_gemm import Packed, launch, reference

assert os.environ.get("TRITON_INTERPRET") == "1"

SMALL = {
    "add": {"HALVES": 4, "SPLITS": 2, "num_warps": 4, "num_stages": 2},
    "trits": {"BLOCK_M": 16, "BLOCK_N": 16, "SPLITS": 3, "num_warps": 4, "num_stages": 2},
    "expanded": {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2},
}


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write stays NaN."""
    original = torch.Tensor.new_empty

    def new_empty(*arguments: Any, **options: Any) -> torch.Tensor:
        made = original(*arguments, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


# gemv has a program for each token, and the interpreter takes its time: many tokens are for few shapes.
CASES = [
    (form, shape, tokens)
    for form in SMALL
    for shape in SHAPES
    for tokens in (1, 3, 17, 65)
    if form != "add" or tokens <= 3 or shape in SHAPES[:3]
]


@pytest.mark.parametrize(("form", "shape", "tokens"), CASES, ids=str)
def test_interpreted_kernels_are_the_reference(
    monkeypatch: pytest.MonkeyPatch, form: str, shape: tuple[int, ...], tokens: int
) -> None:
    _, inputs, _, group = shape
    trits, scales = planes(1, *shape)
    w = Packed.of(trits, scales, group)
    x = activations(2, tokens, inputs)
    given = torch.from_numpy(x)
    poisoned(monkeypatch)
    y = launch.run(given, w, form, SMALL[form]).numpy()
    exact = reference.linear(x, trits, scales, group)
    magnitude = np.abs(x) @ reference.dequantize(np.abs(trits), scales, group).T
    # Weights of several planes are rounded once more before they are multiplied.
    assert close(y, exact, inputs + 2, magnitude)


@pytest.mark.parametrize("form", SMALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_interpreted_half_precision(
    monkeypatch: pytest.MonkeyPatch, form: str, dtype: torch.dtype
) -> None:
    trits, scales = planes(3, 12, 200, 2, 64)
    w = Packed.of(trits, scales, 64)
    x = torch.from_numpy(activations(4, 5, 200)).to(dtype)
    if dtype is torch.bfloat16:  # where the interpreter computes garbage
        monkeypatch.setitem(launch._KINDS, dtype, tl.float32)
    y = launch.run(x, w, form, SMALL[form])
    assert y.dtype is dtype
    exact = reference.linear(x.float().numpy(), trits, scales, 64)
    unit = 2.0**-8 if dtype is torch.bfloat16 else 2.0**-11
    error = np.linalg.norm(y.double().numpy() - exact) / np.linalg.norm(exact)
    assert error <= 2 * unit
