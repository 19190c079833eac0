"""The native kernels against the numpy reference, bit for bit, on every instruction set."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support import environment, to_bf16
from weightsmith.kernels.elementwise import reference

native = pytest.importorskip("weightsmith.kernels._native")

WIDTH = {"BF16": 2, "F16": 2, "F32": 4}
SIZES = [0, 1, 2, 7, 63, 511, 512, 513, 2047, 2048, 2049, 5000]
FORMULAS: dict[str, tuple[int, Callable[..., int]]] = {
    "cast": (1, lambda k, out, a: k.cast(*out, *a)),
    "difference": (2, lambda k, out, a, b: k.difference(*out, *a, *b)),
    "axpy": (2, lambda k, out, a, b: k.axpy(*out, *a, 0.3, *b)),
    "graft": (3, lambda k, out, a, b, c: k.graft(*out, *a, -1.7, *b, *c)),
    "lerp": (2, lambda k, out, a, b: k.lerp(*out, 0.2, *a, 0.8, *b)),
}


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    yield request.param
    native.use_isa(native.isas()[-1])


def patterns(seed: int, dtype: str, n: int) -> np.ndarray:
    """Random bits, thus every kind of number; a third of them ordinary weights."""
    rng = np.random.default_rng([seed, n])
    bits = rng.integers(0, 256, n * WIDTH[dtype], dtype=np.uint8)
    weights = np.empty(n * WIDTH[dtype], np.uint8)
    values = rng.standard_normal(n).astype(np.float32)
    reference.cast(weights, dtype, values.view(np.uint8), "F32")
    ordinary = np.repeat(rng.random(n) < 1 / 3, WIDTH[dtype])
    return np.where(ordinary, weights, bits)


def at_offset(data: np.ndarray, offset: int) -> memoryview:
    """The same bytes, `offset` bytes after an aligned address."""
    room = np.empty(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64 + offset
    room[start : start + len(data)] = data
    return room[start : start + len(data)].data


def same(formula: str, out: str, dtypes: tuple[str, ...], n: int, offset: int = 0) -> None:
    _, call = FORMULAS[formula]
    inputs = [patterns(seed, dtype, n) for seed, dtype in enumerate(dtypes)]
    expected, found = (at_offset(np.full(n * WIDTH[out], 0xA5, np.uint8), offset) for _ in "ab")
    operands: list[Any] = [(at_offset(x, offset), d) for x, d in zip(inputs, dtypes, strict=True)]
    counted = call(reference, (expected, out), *operands)
    assert call(native, (found, out), *operands) == counted
    assert bytes(found) == bytes(expected)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("n", SIZES)
def test_sizes(isa: str, formula: str, n: int) -> None:
    for dtype in WIDTH:
        same(formula, dtype, (dtype,) * FORMULAS[formula][0], n)


@pytest.mark.parametrize("out", WIDTH)
@pytest.mark.parametrize("second", WIDTH)
@pytest.mark.parametrize("first", WIDTH)
def test_mixed_dtypes(isa: str, first: str, second: str, out: str) -> None:
    for formula, (arity, _) in FORMULAS.items():
        same(formula, out, (first, second, first)[:arity], 5000)


@pytest.mark.parametrize("offset", [1, 2, 3, 7, 16])
def test_unaligned_buffers(isa: str, offset: int) -> None:
    for formula, (arity, _) in FORMULAS.items():
        same(formula, "F16", ("BF16", "F32", "F16")[:arity], 3000, offset)
        same(formula, "BF16", ("BF16",) * arity, 3000, offset)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_half_widens_and_narrows(isa: str, dtype: str) -> None:
    every = np.arange(65536, dtype=np.uint16)
    wide = np.empty(65536, np.float32)
    native.cast(wide.view(np.uint8), "F32", every.view(np.uint8), dtype)
    with np.errstate(invalid="ignore"):
        exact = (
            every.view(np.float16).astype(np.float32)
            if dtype == "F16"
            else (every.astype(np.uint32) << 16).view(np.float32)
        )
    np.testing.assert_array_equal(wide, exact)
    back = np.empty(65536, np.uint16)
    native.cast(back.view(np.uint8), dtype, wide.view(np.uint8), "F32")
    number = ~np.isnan(exact)
    assert (back[number] == every[number]).all()
    assert (back[~number] == (0x7E00 if dtype == "F16" else 0x7FC0)).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("start", [0, 0x1000, 0x7FFF, 0x8000, 0x8001, 0xF000])
def test_narrowing_agrees_with_torch(isa: str, dtype: str, start: int) -> None:
    """Every upper half of a float32, with a low half at, beside and away from the ties."""
    bits = (np.arange(65536, dtype=np.uint32) << 16) + np.uint32(start)
    values = bits.view(np.float32)
    half = torch.bfloat16 if dtype == "BF16" else torch.float16
    expected = torch.from_numpy(values).to(half).view(torch.int16).numpy().view(np.uint16)
    found = np.empty(65536, np.uint16)
    native.cast(found.view(np.uint8), dtype, bits.view(np.uint8), "F32")
    number = ~np.isnan(values)
    np.testing.assert_array_equal(found[number], expected[number])


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_ties_round_to_even(isa: str, dtype: str) -> None:
    """At, just below and just above the middle of neighbours, against numpy and the formula."""
    halves = np.arange(0x7C00 if dtype == "F16" else 0x7F80, dtype=np.uint16)
    low, high = (
        (h.view(np.float16).astype(np.float64) if dtype == "F16" else _bf16_as_float64(h))
        for h in (halves[:-1], halves[1:])
    )
    middle = ((low + high) / 2).astype(np.float32)
    for values in (
        middle,
        np.nextafter(middle, np.float32(0)),
        np.nextafter(middle, np.float32(9e9)),
    ):
        found = np.empty(len(values), np.uint16)
        native.cast(found.view(np.uint8), dtype, values.view(np.uint8), "F32")
        expected = values.astype(np.float16).view(np.uint16) if dtype == "F16" else to_bf16(values)
        np.testing.assert_array_equal(found, expected)


def _bf16_as_float64(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    ("dtype", "largest", "least_overflow"),
    [("F16", 65519.996, 65520.0), ("BF16", 3.3961773e38, 3.3961775e38)],
)
def test_overflow_is_counted(isa: str, dtype: str, largest: float, least_overflow: float) -> None:
    values = np.array(
        [largest, -largest, least_overflow, -least_overflow, np.inf, np.nan], np.float32
    )
    out = np.empty(12, np.uint8)
    for kernel in (native, reference):
        assert kernel.cast(out, dtype, values.view(np.uint8), "F32") == 2


@pytest.mark.parametrize("second", WIDTH)
@pytest.mark.parametrize("first", WIDTH)
def test_products_are_added_up_in_one_order(isa: str, first: str, second: str) -> None:
    for n in [*SIZES, 15, 16, 17]:
        a, b = patterns(1, first, n), patterns(2, second, n)
        values = [reference._widen(x.data, d) for x, d in ((a, first), (b, second))]
        for sane in (False, True):
            if sane:  # else nearly every sum is NaN
                for x, v, d in ((a, values[0], first), (b, values[1], second)):
                    x[np.repeat(~(np.abs(v) < 1e4), WIDTH[d])] = 0
            for offset in (0, 3):
                operands = (at_offset(a, offset), first, at_offset(b, offset), second)
                expected = reference.products(*operands)
                assert np.array_equal(native.products(*operands), expected, equal_nan=True)
        x, y = (
            reference._widen(x.data, d).astype(np.float64) for x, d in ((a, first), (b, second))
        )
        exact = [math.fsum(x * x), math.fsum(x * y), math.fsum(y * y)]
        room = 1e-15 * n * math.fsum(np.abs(x * y))
        assert expected == pytest.approx(exact, rel=1e-13, abs=room)


def test_xor(isa: str) -> None:
    a, b = patterns(1, "F32", 999), patterns(2, "F32", 999)
    out = np.empty_like(a)
    native.xor(out, a, b)
    assert bytes(out) == bytes(x ^ y for x, y in zip(a, b, strict=True))


COUNTED = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@pytest.mark.parametrize("dtype", COUNTED)
def test_nonfinite_elements_are_counted_as_torch_counts_them(isa: str, dtype: str) -> None:
    stored = COUNTED[dtype]
    values = torch.tensor([1.0, -0.0, np.nan, np.inf, -np.inf], dtype=torch.float64)
    special = values.repeat(9999)[: 5 * 9999 - 3].to(stored).view(torch.uint8).numpy()
    random = np.random.default_rng(7).integers(0, 256, 8 * 5001, dtype=np.uint8)
    for data in (special, random):
        # torch has no isinf for the 8-bit floats; widening them is exact
        wide = torch.frombuffer(bytearray(data), dtype=stored).to(torch.float64)
        expected = (int(wide.isnan().sum()), int(wide.isinf().sum()))
        for kernel in (native, reference):
            for offset in (0, 1):
                assert kernel.count_nonfinite(at_offset(data, offset), dtype) == expected
    assert native.count_nonfinite(special, dtype)[0] > 0
    assert native.count_nonfinite(b"", dtype) == reference.count_nonfinite(b"", dtype) == (0, 0)


@pytest.mark.parametrize("kernel", [native, reference], ids=["native", "reference"])
def test_only_whole_elements_of_known_dtypes_are_counted(kernel: Any) -> None:
    with pytest.raises(ValueError, match="end on an element"):
        kernel.count_nonfinite(bytes(12), "F64")
    with pytest.raises(ValueError, match="known of dtype I64"):
        kernel.count_nonfinite(bytes(8), "I64")


@pytest.mark.parametrize("kernel", [native, reference], ids=["native", "reference"])
def test_sizes_must_agree(kernel: Any) -> None:
    out, short, long = bytearray(8), bytes(2), bytes(8)
    with pytest.raises(ValueError, match="different"):
        kernel.lerp(out, "F32", 1.0, long, "F32", 1.0, short, "BF16")
    with pytest.raises(ValueError, match="different"):
        kernel.cast(bytearray(7), "F32", long, "F32")
    with pytest.raises(ValueError, match="different"):
        kernel.xor(out, long, short)
    with pytest.raises(ValueError, match="different"):
        kernel.products(long, "F32", short, "BF16")
    with pytest.raises(ValueError, match="no arithmetic on dtype I64"):
        kernel.cast(out, "F32", long, "I64")


def test_the_native_path_imports_no_numpy() -> None:
    code = "import sys, weightsmith.kernels.elementwise as e; sys.exit(e.native != ('numpy' not in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_native_module_the_reference_runs_and_says_so() -> None:
    code = (
        "import sys, warnings; sys.modules['weightsmith.kernels._native'] = None\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import weightsmith.kernels.elementwise as e\n"
        "assert 'compiler' in str(seen[0].message) and len(seen) == 1\n"
        "assert e.lerp.__module__.endswith('reference')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, env=environment()
    )
    assert done.returncode == 0, done.stderr.decode()
