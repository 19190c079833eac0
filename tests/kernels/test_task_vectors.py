"""The kernels of ties and dare against the numpy reference, bit for bit."""

from collections.abc import Iterator

import numpy as np
import pytest
from weightsmith.kernels.task_vectors import reference

native = pytest.importorskip("weightsmith.kernels._native").task_vectors
SIZES = [0, 1, 7, 1023, 1024, 1025, 5000]
F = np.float32


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    yield request.param
    native.use_isa(native.isas()[-1])


def coarse(seed: int, size: int) -> np.ndarray:
    """Numbers of which many have one magnitude, zeros of both signs among them."""
    return np.round(np.random.default_rng(seed).standard_normal(size) * 4).astype(F) / F(8)


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("upper", [-1, 0, 0x3F00, 0x3E80])
def test_count(size: int, upper: int) -> None:
    bins = np.zeros((2, 1 << 16), np.int64)
    vector = np.random.default_rng(0).standard_normal(size).astype(F)
    for module, own in zip((native, reference), bins, strict=True):
        module.count(own, vector, upper)
        module.count(own, coarse(1, size), upper)
    np.testing.assert_array_equal(*bins)
    assert upper >= 0 or bins[0].sum() == 2 * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.375, 9.0])
@pytest.mark.parametrize("equal", [0, 1, 100, 1 << 40])
def test_trim(isa: str, size: int, threshold: float, equal: int) -> None:
    bits = int(F(threshold).view(np.uint32))
    ours, theirs = coarse(2, size), coarse(2, size)
    assert native.trim(ours, bits, equal) == reference.trim(theirs, bits, equal)
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("elect", "normalize"), [(True, True), (True, False), (False, False)])
def test_combine(isa: str, size: int, count: int, elect: bool, normalize: bool) -> None:
    vectors = np.stack([coarse(number, size) for number in range(count)])
    weights = np.array([0.3, -0.7, 1, -1, 0.1], F)[:count]
    results = np.zeros((2, size), F)
    found = [
        module.combine(out, vectors, weights, elect, normalize)
        for module, out in zip((native, reference), results, strict=True)
    ]
    assert found == [0, 0]
    assert_same_bits(*results)


def test_combine_counts_what_is_not_finite(isa: str) -> None:
    vectors = np.array([[1, np.inf, np.nan, 3e38, -np.inf], [1, 1, 1, 3e38, np.inf]], F)
    for module in (native, reference):
        out = np.zeros(5, F)
        assert module.combine(out, vectors, np.ones(2, F), True, True) == 4


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="65536"):
        native.count(np.zeros(10, np.int64), np.zeros(3, F), -1)
    with pytest.raises(ValueError, match="fit"):
        native.combine(np.zeros(3, F), np.zeros((2, 4), F), np.zeros(2, F), True, True)
