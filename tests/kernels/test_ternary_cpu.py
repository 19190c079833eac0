"""The CPU's ternary kernels against the float64 reference, and every code path against the scalar."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support import environment
from trits import SHAPES, activations, close, planes
from weightsmith.kernels.ternary_gemm import Packed, PackedRows, reference

native = pytest.importorskip("weightsmith.kernels._native").ternary_gemm
TOKENS = [1, 3, 17, 65]


@pytest.fixture(params=native.paths())
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_path(request.param)
    yield request.param
    native.use_path(native.paths()[-1])


def product(x: np.ndarray, w: Packed, act: str, threads: int = 1) -> np.ndarray:
    """By the native kernel, into memory full of NaN."""
    y = np.full((len(x), w.out_features), np.nan, np.float32)
    native.linear(x, w.codes, w.scales, w.span, w.planes, y, act, threads)
    return y


def by_scalar(x: np.ndarray, w: Packed, act: str) -> np.ndarray:
    native.use_path("scalar")
    return product(x, w, act)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_the_reference_s(path: str, shape: tuple[int, ...], tokens: int) -> None:
    _, inputs, _, group = shape
    trits, scales = planes(1, *shape)
    w = Packed.of(trits, scales, group)
    x = activations(2, tokens, inputs)
    dense = np.abs(reference.dequantize(np.abs(trits), scales, group)).T
    for act in ("int8", "int16", "float32"):
        given = x if act == "float32" else reference.quantize(x, w.span, act)
        exact = reference.linear(given, trits, scales, group)
        magnitude = np.abs(given).astype(np.float64) @ dense
        assert close(product(x, w, act), exact, inputs, magnitude), act


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paths_and_threads_give_the_same_bits(path: str, shape: tuple[int, ...]) -> None:
    rows, inputs, _, group = shape
    # Many rows, so that threads have something to share.
    shape = (rows + 1600, *shape[1:])
    w = Packed.of(*planes(3, *shape), group)
    for tokens in (1, 2, 3, 5, 9):
        x = activations(4, tokens, inputs)
        for act in ("int8", "int16"):
            native.use_path(path)
            found = [product(x, w, act, threads).tobytes() for threads in (1, 2, 3)]
            assert set(found) == {by_scalar(x, w, act).tobytes()}
        native.use_path(path)
        assert len({product(x, w, "float32", t).tobytes() for t in (1, 2)}) == 1


def test_extreme_activations_do_not_overflow(path: str) -> None:
    """All codes 2 (or 0) and all activations at the limit: the largest sums there can be."""
    for trit in (1, -1):
        trits = np.full((8, 3, 256), trit, np.int8)
        scales = np.full((8, 2, 3), 1, np.float32)
        w = Packed.of(trits, scales, 128)
        x = np.repeat(np.float32([[127], [-127], [16319]]), 256, axis=1)
        for act in ("int8", "int16"):
            expected = trit * 3 * 256 * np.repeat(x[:, :1], 8, axis=1)
            np.testing.assert_array_equal(product(x, w, act), expected)


def test_rounding_errors_are_what_the_readme_says(path: str) -> None:
    trits, scales = planes(5, 64, 4096, 2, 128)
    w = Packed.of(trits, scales, 128)
    x = activations(6, 2, 4096)
    exact = reference.linear(x, trits, scales, 128)
    for act, bound in (("int8", 1e-2), ("int16", 1e-4), ("float32", 1e-6)):
        error = np.linalg.norm(product(x, w, act) - exact) / np.linalg.norm(exact)
        assert error <= bound, act


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spreads(path: str, bad: float) -> None:
    trits, scales = planes(7, 8, 256, 2, 128)
    trits[:], scales[:] = 1, 1
    w = Packed.of(trits, scales, 128)
    x = activations(8, 2, 256)
    x[1, 200] = bad
    for act in ("int8", "int16", "float32"):
        y = product(x, w, act)
        assert np.isfinite(y[0]).all()
        assert not np.isfinite(y[1]).any()


def test_tiny_and_huge_activations(path: str) -> None:
    trits, scales = planes(9, 8, 128, 2, 128)
    w = Packed.of(trits, scales, 128)
    x = activations(10, 1, 128)
    base = product(x, w, "int16").astype(np.float64)
    for exponent in (-60, 60):
        scaled = product(np.ldexp(x, exponent), w, "int16")
        np.testing.assert_array_equal(scaled, np.ldexp(base, exponent))
    assert (product(np.ldexp(x, -120), w, "int16") == 0).all()


@pytest.mark.parametrize("inputs", [1, 31, 32, 64, 100, 576, 1000])
def test_8_bit_rows(path: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    values = rng.integers(-128, 128, (37, inputs)).astype(np.int8)
    values[0], values[1] = -128, 127
    scales = rng.uniform(1e-3, 0.1, 37).astype(np.float16)
    wide = values * scales.astype(np.float64)[:, None]
    bits = torch.from_numpy(scales.view(np.int16))
    for tokens in (1, 3, 5):
        x = activations(11, tokens, inputs)
        x[0] = 127
        for act in ("int8", "int16", "float32"):
            given = x if act == "float32" else reference.quantize(x, 128, act)
            results = []
            for each, threads in (("scalar", 1), (path, 1), (path, 2)):
                native.use_path(each)
                y = np.full((tokens, 37), np.nan, np.float32)
                native.linear_rows(x, torch.from_numpy(values), bits, y, act, threads)
                results.append(y)
            magnitude = np.abs(given).astype(np.float64) @ np.abs(wide).T
            assert close(results[1], given.astype(np.float64) @ wide.T, inputs, magnitude)
            assert results[1].tobytes() == results[2].tobytes()
            if act != "float32":
                assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(path: str, shape: tuple[int, ...]) -> None:
    rows, inputs, count, group = shape
    trits, scales = planes(12, *shape)
    w = Packed.of(trits, scales, group)
    np.testing.assert_array_equal(w.codes.numpy(), reference.arrange(trits))
    laid = reference.arrange_scales(scales, inputs, group)
    np.testing.assert_array_equal(w.float_scales.numpy(), laid)
    for back in (
        w.rows(0, rows),
        (
            reference.restore(w.codes.numpy(), rows, inputs),
            reference.restore_scales(laid, rows, inputs, group),
        ),
    ):
        np.testing.assert_array_equal(back[0], trits)
        np.testing.assert_array_equal(back[1], scales)
    exact = reference.dequantize(trits, scales, group)
    np.testing.assert_allclose(w.dequantize().numpy(), exact, rtol=2.0**-22, atol=2.0**-30)
    first = rows // 16 * 8
    dense = np.full((rows - first, inputs), np.nan, np.float32)
    native.dequantize(w.codes, w.scales, rows, w.span, count, first, dense, 1)
    np.testing.assert_array_equal(dense, w.dequantize().numpy()[first:])


def test_a_matrix_is_filled_and_read_block_by_block() -> None:
    trits, scales = planes(13, 21, 300, 2, 96)
    w = Packed.empty(21, 300, 2, 96)
    for first in (16, 0, 8):
        w.fill(first, trits[first : first + 8], scales[first : first + 8])
    whole = Packed.of(trits, scales, 96)
    assert torch.equal(w.codes, whole.codes)
    assert torch.equal(w.scales, whole.scales)
    np.testing.assert_array_equal(w.rows(16, 5)[0], trits[16:])
    np.testing.assert_array_equal(w.rows(8, 8)[1], scales[8:16])


def test_scales_are_wide_only_where_they_must_be() -> None:
    trits, scales = planes(14, 8, 64, 2, 64)
    assert Packed.of(trits, scales, 64).scales.dtype is torch.int16
    scales[3, 0, 0] = np.float32(2049 * 3) / 2**14
    w = Packed.of(trits, scales, 64)
    assert w.scales.dtype is torch.int32
    np.testing.assert_array_equal(w.rows(0, 8)[1], scales)
    with pytest.raises(ValueError, match="multiple of 32"):
        Packed.of(trits, scales, 48)


def test_rows_of_bytes_split_and_join() -> None:
    rows = torch.from_numpy(np.random.default_rng(13).integers(0, 256, (9, 34), np.uint8))
    rows[:, -1] &= 0x3B
    w = PackedRows.split(rows)
    assert torch.equal(w.join(), rows)
    scales = rows[:, -2:].numpy().copy().view(np.float16).astype(np.float32)
    expected = rows[:, :-2].numpy().view(np.int8) * scales
    np.testing.assert_array_equal(w.dequantize().numpy(), expected)


def test_shapes_are_checked() -> None:
    w = Packed.of(*planes(15, 8, 64, 2, 64), 64)
    x, y = np.zeros((1, 64), np.float32), np.zeros((1, 8), np.float32)
    with pytest.raises(ValueError, match="codes do not fit"):
        native.linear(np.zeros((1, 128), np.float32), w.codes, w.scales, 64, 2, y, "int8", 1)
    with pytest.raises(ValueError, match="scales do not fit"):
        native.linear(x, w.codes, w.scales, 32, 2, y, "int8", 1)
    with pytest.raises(ValueError, match="y does not fit"):
        native.linear(x, w.codes, w.scales, 64, 2, np.zeros((2, 8), np.float32), "int8", 1)
    with pytest.raises(ValueError, match="not int4"):
        native.linear(x, w.codes, w.scales, 64, 2, y, "int4", 1)
    with pytest.raises(ValueError, match="cannot run"):
        native.use_path("mmx")


def test_many_threads_at_once() -> None:
    """Callers that find the pool busy do the work themselves; a forked child makes a new pool."""
    code = """
import os, threading, numpy as np
from trits import activations, planes
from weightsmith.kernels.ternary_gemm import Packed
from weightsmith.kernels._native import ternary_gemm as native
w = Packed.of(*planes(1, 4000, 256, 2, 128), 128)
x = activations(2, 1, 256)
def product():
    y = np.empty((1, 4000), np.float32)
    native.linear(x, w.codes, w.scales, 128, 2, y, "int8", 4)
    return y.tobytes()
expected = product()
wrong = []
def many():
    wrong.extend(1 for _ in range(50) if product() != expected)
threads = [threading.Thread(target=many) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not wrong
child = os.fork()
if child == 0:
    os._exit(product() != expected)
assert os.waitpid(child, 0)[1] == 0
"""
    env = environment() | {"PYTHONPATH": ":".join(p for p in sys.path if "tests" in p)}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr.decode()
