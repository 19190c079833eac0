"""The products as torch operators: dtypes, regimes, torch.compile, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support import environment
from trits import activations, planes
from weightsmith.kernels.ternary_gemm import (
    ACTIVATIONS,
    Packed,
    PackedRows,
    int8_linear,
    op,
    reference,
    ternary_linear,
)

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
FLOAT32 = 1e-6


def seen(x: np.ndarray, act: str, span: int) -> np.ndarray:
    """The activations that the products are made of."""
    whole = act == "float32" or len(x) >= op.BLAS_FROM
    return x if whole else reference.quantize(x, span, act)


def relative(found: torch.Tensor, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found.double().numpy() - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
def test_each_dtype_and_regime(tokens: int, act: str, dtype: torch.dtype) -> None:
    trits, scales = planes(1, 40, 576, 2, 128)
    w = Packed.of(trits, scales, 128)
    x = torch.from_numpy(activations(2, tokens, 576)).to(dtype)
    y = ternary_linear(x.view(1, tokens, 576), w, act=act)
    assert y.shape == (1, tokens, 40)
    assert y.dtype is dtype
    exact = reference.linear(seen(x.float().numpy(), act, 128), trits, scales, 128)
    # The result is rounded once, and from 65 tokens on so is every weight.
    assert relative(y[0], exact) <= FLOAT32 + 2 * UNIT[dtype]


def test_a_bias_is_added_and_nothing_in_gives_nothing_out() -> None:
    w = Packed.of(*planes(3, 16, 64, 1, 32), 32)
    x, bias = torch.randn(2, 3, 64), torch.randn(16)
    plain = ternary_linear(x, w)
    assert torch.equal(ternary_linear(x, w, bias=bias), plain + bias)
    assert ternary_linear(x[:0], w).shape == (0, 3, 16)


@pytest.mark.parametrize("tokens", [1, 65])
def test_8_bit_rows(tokens: int) -> None:
    rng = np.random.default_rng(4)
    values = torch.from_numpy(rng.integers(-127, 128, (70, 96)).astype(np.int8))
    scales = torch.from_numpy(rng.uniform(1e-3, 0.1, 70).astype(np.float16).view(np.int16))
    w = PackedRows(values, scales)
    x = torch.from_numpy(activations(5, tokens, 96))
    wide = w.dequantize().double().numpy()
    for act in ACTIVATIONS:
        exact = seen(x.numpy(), act, 128) @ wide.T
        assert relative(int8_linear(x, w, act=act), exact) <= FLOAT32


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Packed.of(*planes(6, 100, 64, 2, 64), 64)
    x = torch.randn(70, 64)
    whole = ternary_linear(x, w)
    monkeypatch.setattr(op, "_TILE", 64 * 24)
    torch.testing.assert_close(ternary_linear(x, w), whole)


def test_torch_compile_and_export_see_operators() -> None:
    w = Packed.of(*planes(7, 16, 64, 2, 64), 64)
    rows = PackedRows(torch.ones(9, 16, dtype=torch.int8), torch.full((9,), 0x3C00).short())

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return int8_linear(ternary_linear(x, w), rows)

    x = torch.randn(3, 64)
    exported = torch.export.export(Model(), (x,))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert {"weightsmith.ternary_linear.default", "weightsmith.int8_linear.default"} <= targets
    assert torch.equal(exported.module()(x), Model()(x))
    compiled = torch.compile(Model(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), Model()(x))
    for name, arguments in (
        ("ternary_linear", (x, w.codes, w.scales, 16, 64, "int8")),
        ("int8_linear", (torch.randn(2, 16), rows.values, rows.scales, "int8")),
    ):
        operator = getattr(torch.ops.weightsmith, name).default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_does_not_fit_is_refused() -> None:
    w = Packed.of(*planes(8, 16, 64, 2, 64), 64)
    with pytest.raises(ValueError, match="int8, int16, float32"):
        ternary_linear(torch.zeros(1, 64), w, act="int4")
    with pytest.raises(ValueError, match="96 inputs"):
        ternary_linear(torch.zeros(1, 96), w)
    with pytest.raises(ValueError, match="float dtype"):
        ternary_linear(torch.zeros(1, 64, dtype=torch.int64), w)
    with pytest.raises(ValueError, match="on meta"):
        op._ternary(torch.zeros(1, 64, device="meta"), w.codes, w.scales, 16, 64, "int8")


def test_without_the_native_module_the_same_products() -> None:
    code = (
        "import numpy as np, torch\n"
        "from trits import activations, planes\n"
        "from weightsmith.kernels.ternary_gemm import Packed, native, reference, ternary_linear\n"
        "assert native is None\n"
        "trits, scales = planes(9, 20, 100, 2, 64)\n"
        "w = Packed.of(trits, scales, 64)\n"
        "x = activations(10, 3, 100)\n"
        "exact = reference.linear(x, trits, scales, 64)\n"
        "y = ternary_linear(torch.from_numpy(x), w).numpy()\n"
        "assert np.linalg.norm(y - exact) <= 1e-6 * np.linalg.norm(exact)\n"
        "assert (w.rows(0, 20)[0] == trits).all() and (w.rows(0, 20)[1] == scales).all()\n"
    )
    env = environment() | {
        "WEIGHTSMITH_REFERENCE": "1",
        "PYTHONPATH": ":".join(p for p in sys.path if "tests" in p),
    }
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr.decode()
