"""Sums by blocks: what they equal, and what they do not depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weightsmith.statistics import Moments, PairSums

FLOATS = st.floats(-100, 100, width=32)
PAIRS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[arrays(np.float32, n, elements=FLOATS)] * 2)
)


def sigma(a: np.ndarray, b: np.ndarray) -> float:
    return PairSums.of(np.ascontiguousarray(a), np.ascontiguousarray(b)).sigma


@given(PAIRS)
def test_sigma_is_a_symmetric_share(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert 0 <= sigma(a, b) <= 1 + 1e-12
    assert sigma(a, b) == sigma(b, a)
    assert sigma(a, a) == 0
    assert sigma(a, -a) == pytest.approx(1 if a.any() else 0)


@given(PAIRS, st.integers(-20, 20), st.randoms())
def test_sigma_keeps_under_scale_and_order(
    pair: tuple[np.ndarray, np.ndarray], power: int, random
) -> None:
    a, b = pair
    a, b = (np.where(np.abs(x) < 1e-20, 0, x).astype(np.float32) for x in (a, b))
    factor = np.float32(2.0**power)  # exact in float32
    assert sigma(a * factor, b * factor) == pytest.approx(sigma(a, b), rel=1e-14)
    order = random.sample(range(len(a)), len(a))
    assert sigma(a[order], b[order]) == pytest.approx(sigma(a, b), rel=1e-12)


def test_sigma_keeps_under_transposition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 17)).astype(np.float32)
    flat = sigma(a.reshape(-1), b.reshape(-1))
    assert sigma(a.T.reshape(-1), b.T.reshape(-1)) == pytest.approx(flat, rel=1e-13)
    expected = np.abs(a - b).sum() / (np.abs(a).sum() + np.abs(b).sum())
    assert flat == pytest.approx(expected, rel=1e-5)


@given(PAIRS, st.integers(0, 60))
def test_blocks_add_up(pair: tuple[np.ndarray, np.ndarray], cut: int) -> None:
    a, b = pair
    whole = PairSums.of(a, b)
    parts = PairSums.of(a[:cut], b[:cut]) + PairSums.of(a[cut:], b[cut:])
    assert (parts.elements, parts.unchanged) == (whole.elements, whole.unchanged)
    assert parts.sigma == pytest.approx(whole.sigma, rel=1e-12)
    assert parts.square_delta == pytest.approx(whole.square_delta, rel=1e-12)
    assert parts.dot == pytest.approx(whole.dot, rel=1e-9, abs=1e-9)


def test_unchanged_means_the_same_bits() -> None:
    a = np.array([1, 0.0, 2, 3], np.float32)
    b = np.array([1, -0.0, 2, 4], np.float32)
    assert PairSums.of(a, b).unchanged == 2


def test_what_is_zero_has_no_direction() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert PairSums.of(zero, one).cosine is None
    assert PairSums.of(zero, zero).sigma == 0
    assert PairSums.of(one, 2 * one).cosine == pytest.approx(1)
    assert PairSums().sigma == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_noticed(bad: float) -> None:
    a = np.array([1, bad], np.float32)
    assert not PairSums.of(a, a).finite
    assert not PairSums.of(np.ones(2, np.float32), a).finite
    moments = Moments.of(a)
    assert (moments.elements, moments.nonfinite, moments.mean) == (1, 1, 1.0)


def test_the_largest_float32_is_still_finite() -> None:
    large = np.full(70_000, np.finfo(np.float32).max)
    sums = PairSums.of(large, -large)
    assert sums.finite
    assert (sums.sigma, sums.cosine) == (1, pytest.approx(-1))


@given(PAIRS, st.integers(0, 60))
def test_moments_are_those_of_the_whole(pair: tuple[np.ndarray, np.ndarray], cut: int) -> None:
    values = pair[0]
    moments = Moments.of(values[:cut]) + Moments.of(values[cut:])
    wide = values.astype(np.float64)
    assert moments.mean == pytest.approx(wide.mean(), abs=1e-9)
    assert moments.std == pytest.approx(wide.std(), abs=1e-7)
    assert moments.square == pytest.approx((wide**2).sum(), rel=1e-12)
    assert (moments.largest, moments.zeros) == (np.abs(wide).max(), (wide == 0).sum())


def test_std_does_not_cancel() -> None:
    values = (1e6 + np.arange(4, dtype=np.float32)).astype(np.float32)
    assert Moments.of(values).std == pytest.approx(np.std([0, 1, 2, 3]), rel=1e-12)
