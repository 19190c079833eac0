"""The ternary kernels on a GPU: against the reference, and a model that runs there."""

from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton")

import torch
from packed_models import write_pair
from trits import SHAPES, activations, planes
from weightsmith.kernels.ternary_gemm import (
    Packed,
    PackedRows,
    int8_linear,
    launch,
    reference,
    ternary_linear,
    tuning,
)

pytestmark = pytest.mark.gpu

UNIT = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def card() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("form", tuning.DEFAULTS)
@pytest.mark.parametrize("shape", [*SHAPES, (4096, 4096, 2, 128)], ids=str)
def test_kernels_are_the_reference(
    shape: tuple[int, ...], form: str, dtype: torch.dtype, card: torch.device
) -> None:
    _, inputs, _, group = shape
    trits, scales = planes(1, *shape)
    w = Packed.of(trits, scales, group).to(card)
    for tokens in (1, 3, 17, 65, 300):
        x = torch.from_numpy(activations(2, tokens, inputs)).to(card, dtype)
        exact = reference.linear(x.float().cpu().numpy(), trits, scales, group)
        y = launch.run(x, w, form, tuning.DEFAULTS[form]).double().cpu().numpy()
        assert np.isfinite(y).all()
        assert np.linalg.norm(y - exact) <= 3 * UNIT[dtype] * np.linalg.norm(exact)


def test_tuned_products_repeat_to_the_bit(card: torch.device) -> None:
    w = Packed.of(*planes(3, 512, 1024, 2, 128), 128).to(card)
    for tokens in (1, 8, 64, 512):
        x = torch.randn(tokens, 1024, device=card, dtype=torch.float16)
        first = ternary_linear(x, w)
        assert all(torch.equal(first, ternary_linear(x, w)) for _ in range(5))


def test_8_bit_rows(card: torch.device) -> None:
    values = torch.randint(-127, 128, (300, 96), dtype=torch.int8)
    scales = torch.full((300,), 0x2C00, dtype=torch.int16)
    rows = PackedRows(values, scales)
    x = torch.randn(3, 96)
    on_card = PackedRows(values.to(card), scales.to(card))
    found = int8_linear(x.to(card), on_card).cpu()
    torch.testing.assert_close(found, x @ rows.dequantize().T, rtol=1e-4, atol=1e-3)


def test_a_model_runs_and_is_captured_in_a_graph(tmp_path: Path, card: torch.device) -> None:
    from transformers import AutoModelForCausalLM

    packed, dense = write_pair(tmp_path)
    ids = torch.arange(5, 29, device=card)[None]
    with torch.inference_mode():
        found = AutoModelForCausalLM.from_pretrained(packed).to(card)(ids).logits
        expected = AutoModelForCausalLM.from_pretrained(dense).to(card)(ids).logits
    assert (found - expected).norm() <= 1e-3 * expected.norm()
    w = Packed.of(*planes(4, 64, 64, 2, 64), 64).to(card)
    x = torch.randn(1, 64, device=card)
    eager = ternary_linear(x, w)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ternary_linear(x, w)
    graph.replay()
    torch.testing.assert_close(captured, eager)
