"""The sliced Gram product against float64, and the native kernel against the reference, bit for bit."""

from collections.abc import Callable

import numpy as np
import pytest
from weightsmith.kernels import sliced_gram
from weightsmith.kernels.sliced_gram import DEPTH, reference

# vectors, length: around tiles of 16 vectors and 64 elements, panels of 32, pieces of DEPTH
SHAPES = [(1, 1), (3, 70), (16, 64), (17, 15), (33, DEPTH), (40, DEPTH + 1), (65, 2 * DEPTH + 70)]
native = pytest.mark.skipif(not sliced_gram.available(), reason="this CPU has no matrix unit")
Kind = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape) * 1e-3


def ill_conditioned(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal((shape[0], 1)) @ rng.standard_normal((1, shape[1])) + noise(
        rng, shape
    )


def of_many_scales(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return noise(rng, shape) * 10.0 ** rng.integers(-20, 20, (shape[0], 1))


def with_zeros(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return noise(rng, shape) * (rng.random((shape[0], 1)) < 0.5) * (rng.random(shape) < 0.5)


def of_one_sign(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, -np.float32(1) + np.float32(2.0**-24)) + 0 * noise(rng, shape)


def denormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape) * 1e-40


def with_a_huge_value(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    found = noise(rng, shape)
    found[-1, shape[1] // 2] = 3e38
    return found


def differences(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """What timber sees: differences of bfloat16."""
    base = rng.standard_normal(shape) * 0.02
    low, high = (
        (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        for x in (base, base + noise(rng, shape))
    )
    return high - low


KINDS = [
    noise,
    ill_conditioned,
    of_many_scales,
    with_zeros,
    of_one_sign,
    denormal,
    with_a_huge_value,
    differences,
]


def made(kind: Kind, shape: tuple[int, int]) -> np.ndarray:
    with np.errstate(under="ignore"):
        return kind(np.random.default_rng(sum(shape)), shape).astype(np.float32)


def upper(
    vectors: np.ndarray, by_rows: bool, module=reference, threads: int = 1
) -> tuple[np.ndarray, float]:
    gram = np.zeros((len(vectors), len(vectors)))
    block = vectors if by_rows else np.ascontiguousarray(vectors.T)
    share = module.add(gram, block, by_rows, threads)
    return np.triu(gram), share


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_cut_off_bounds_the_error(kind: Kind, shape: tuple[int, int]) -> None:
    vectors = made(kind, shape)
    found, share = upper(vectors, by_rows=True)
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    squared = np.trace(exact)
    assert 0 <= share < 2.0**-56
    rounding = 2.0**-47  # of both sums
    bound = (2 * np.sqrt(share) + share + rounding) * squared
    assert np.linalg.norm(found - np.triu(exact)) <= bound


@pytest.mark.parametrize("kind", [differences, with_zeros, of_one_sign, denormal])
def test_nothing_is_cut_off_that_has_few_bits(kind: Kind) -> None:
    vectors = made(kind, (20, 300))
    if kind is with_zeros:
        vectors = np.sign(vectors)
    found, share = upper(vectors, by_rows=True)
    assert share == 0
    exact = np.triu(vectors.astype(np.float64) @ vectors.astype(np.float64).T)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-15 * exact.max())


@native
@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_the_reference(kind: Kind, shape: tuple[int, int], by_rows: bool) -> None:
    vectors = made(kind, shape)
    found, found_share = upper(vectors, by_rows, sliced_gram)
    expected, share = upper(vectors, by_rows)
    np.testing.assert_array_equal(found, expected)
    assert found_share == pytest.approx(share, rel=1e-4)


@native
def test_threads_change_no_bit() -> None:
    vectors = made(of_many_scales, (300, 1500))
    expected, _ = upper(vectors, False, sliced_gram, 1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(upper(vectors, False, sliced_gram, threads)[0], expected)


@native
def test_products_are_added() -> None:
    vectors = made(noise, (40, 3 * DEPTH))
    gram = np.zeros((40, 40))
    for first in range(0, 3 * DEPTH, DEPTH):
        block = np.ascontiguousarray(vectors[:, first : first + DEPTH])
        sliced_gram.add(gram, block, True, 1)
    np.testing.assert_array_equal(np.triu(gram), upper(vectors, True, sliced_gram)[0])


@pytest.mark.parametrize("module", [reference, pytest.param(sliced_gram, marks=native)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (36, DEPTH + 5)])
def test_what_is_not_finite_is_told(module, bad: float, place: tuple[int, int]) -> None:
    vectors = made(noise, (37, 2 * DEPTH))
    vectors[place] = bad
    for by_rows in (True, False):
        assert np.isnan(upper(vectors, by_rows, module)[1])


@pytest.mark.parametrize("module", [reference, pytest.param(sliced_gram, marks=native)])
def test_an_empty_block(module) -> None:
    gram = np.ones((5, 5))
    assert module.add(gram, np.zeros((5, 0), np.float32), True, 1) == 0
    assert (gram == 1).all()


@pytest.mark.parametrize("module", [reference, pytest.param(sliced_gram, marks=native)])
def test_shapes_that_do_not_fit(module) -> None:
    with pytest.raises(ValueError, match="shapes"):
        module.add(np.zeros((4, 4)), np.zeros((4, 5), np.float32), False, 1)
