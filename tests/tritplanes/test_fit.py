"""The search and Algorithm 1: against a plain form of the paper, and against each other."""

import numpy as np
import pytest
import torch

from weightsmith.tritplanes import rows
from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.fit import EPSILON, T_MAX, Fit, algorithm1, search


def encoding_of(weights: np.ndarray, planes: int = 2, group: int = 128) -> TritEncoding:
    return TritEncoding(weights.shape, "F32", planes, group)


def normal(count: int, seed: int = 0, size: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def errors(weights: np.ndarray, fit: Fit) -> np.ndarray:
    """The squared error of each row, which is one group."""
    off = weights - rows.expand(encoding_of(weights, fit.planes.trits.shape[1]), fit.planes)
    return (off.astype(np.float64) ** 2).sum(axis=1)


def plain_algorithm1(weights: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1 from the paper's text: scales [n, 2] and errors [n], float64."""
    w = torch.from_numpy(weights).double()
    t1 = torch.where(w < 0, -1.0, 1.0).double()
    t2, alpha = t1.clone(), torch.ones(len(w), 2, dtype=torch.float64)
    pairs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0]).double()] * 2)
    pairs = torch.cat([pairs[4:5], pairs])  # zero first; the paper gives no order
    for _ in range(T_MAX):
        s11, s22, s12 = (t1 * t1).sum(1), (t2 * t2).sum(1), (t1 * t2).sum(1)
        b1, b2 = (t1 * w).sum(1), (t2 * w).sum(1)
        ridge = torch.full_like(s11, 1e-8)
        while True:
            a11, a22 = s11 + ridge, s22 + ridge
            det = a11 * a22 - s12**2
            kappa = (a11**2 + a22**2 + 2 * s12**2) / det.abs()
            high = ~(kappa <= 1e6) & (ridge < 1)
            if not high.any():
                break
            ridge = torch.where(high, ridge * 10, ridge)
        fitted = torch.stack([(a22 * b1 - s12 * b2) / det, (a11 * b2 - s12 * b1) / det], 1)
        moved, alpha = (fitted - alpha).norm(dim=1).max(), fitted
        levels = alpha @ pairs.T
        nearest = ((w[:, :, None] - levels[:, None, :]) ** 2).argmin(2)
        t1, t2 = pairs[nearest].unbind(-1)
        if moved < EPSILON:
            break
    return alpha, ((w - alpha[:, :1] * t1 - alpha[:, 1:] * t2) ** 2).sum(1)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_algorithm1_is_the_papers(scale: float) -> None:
    heavy = np.random.default_rng(1).standard_t(4, (300, 128))
    weights = np.concatenate([normal(300), heavy.astype(np.float32)]) * np.float32(scale)
    fit = algorithm1(weights, encoding_of(weights))
    alpha, expected = plain_algorithm1(weights)
    # float16 holds 11 bits of a scale. The trits are those of the scales before they were rounded.
    np.testing.assert_allclose(fit.planes.scales[:, 0], alpha.abs(), rtol=2.0**-11, atol=1e-7)
    assert float(fit.error) == pytest.approx(float(expected.sum()), rel=1e-5)
    exact = weights - (alpha.numpy()[:, :, None] * signed(fit, alpha)).sum(axis=1)
    np.testing.assert_allclose((exact**2).sum(axis=1), expected, rtol=1e-6)


def signed(fit: Fit, alpha: torch.Tensor) -> np.ndarray:
    """The trits with the signs that they took from negative scales given back."""
    return fit.planes.trits * np.where(alpha.numpy() < 0, -1, 1)[:, :, None]


def test_the_anchors_of_normal_weights() -> None:
    """Relative Frobenius errors that several ports of the paper agree on, group 128."""
    weights = normal(4096)
    fit = algorithm1(weights, encoding_of(weights))
    assert np.sqrt(fit.error / fit.norm) == pytest.approx(0.1662, abs=0.001)
    from weightsmith.kernels import trit_fit

    signs = np.where(weights < 0, -1, 1).astype(np.int8)
    trits = np.ascontiguousarray(np.repeat(signs[:, None], 2, axis=1))
    scales = np.ones((len(weights), 1, 2))
    trit_fit.algorithm1_step(scales, trits, weights, 128)
    off = weights - (scales.transpose(0, 2, 1) * trits).sum(axis=1)
    relative = np.sqrt((off**2).sum() / (weights.astype(np.float64) ** 2).sum())
    assert relative == pytest.approx(0.4875, abs=0.002)


def test_the_search_beats_the_paper_on_normal_weights() -> None:
    weights = normal(4096, seed=1)
    found = search(weights, encoding_of(weights))
    assert found.error <= 0.94 * algorithm1(weights, encoding_of(weights)).error


@pytest.mark.slow
def test_the_search_is_never_worse_than_the_paper() -> None:
    rng = np.random.default_rng(2)
    for weights in (normal(50_000, seed=3), rng.standard_t(4, (50_000, 128)).astype(np.float32)):
        small = weights * np.float32(0.02)
        ours = errors(small, search(small, encoding_of(small)))
        paper = errors(small, algorithm1(small, encoding_of(small)))
        # float32 arithmetic of 128 terms cannot tell less apart.
        assert (ours <= paper * (1 + 1e-7)).all()


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_scaling_by_powers_of_two_changes_nothing_else(planes: int) -> None:
    weights = normal(64) * np.float32(0.02)
    expected = search(weights, encoding_of(weights, planes))
    # The scales are between 2^-9 and 2^-4: all of them stay normal numbers of float16.
    for exponent in (-5, 3, 19):
        factor = np.float32(2.0**exponent)
        found = search(weights * factor, encoding_of(weights, planes))
        assert np.array_equal(found.planes.trits, expected.planes.trits)
        assert np.array_equal(found.planes.scales, expected.planes.scales * factor)


def test_weights_below_float16s_scales() -> None:
    """The stated rule: scales are multiples of 2^-24, below 2^-40 a group is zero."""
    weights = normal(8)
    tiny = search(weights * np.float32(2.0**-22), encoding_of(weights))
    assert np.array_equal(tiny.planes.scales * 2.0**24, np.rint(tiny.planes.scales * 2.0**24))
    assert (search(weights * np.float32(2.0**-50), encoding_of(weights)).planes.scales == 0).all()


def test_degenerate_groups() -> None:
    zero = np.zeros((1, 128), np.float32)
    constant = np.full((1, 128), 0.75, np.float32)
    one = np.zeros((1, 128), np.float32)
    one[0, 17] = -3
    for planes in (1, 2, 3):
        for weights in (zero, constant, one):
            found = search(weights, encoding_of(weights, planes))
            dense = rows.expand(encoding_of(weights, planes), found.planes)
            np.testing.assert_allclose(dense, weights, rtol=2.0**-11)
    with pytest.raises(OverflowError):
        search(np.full((1, 128), 1e6, np.float32), encoding_of(zero))


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_more_planes_and_more_starts_cost_nothing(planes: int) -> None:
    weights = normal(256)
    encoding = encoding_of(weights, planes)
    few, many = (search(weights, encoding, starts=n).error for n in (1, 99))
    assert many <= few
    if planes > 1:
        assert many < search(weights, encoding_of(weights, planes - 1)).error


def test_importance_moves_the_error_where_it_counts_little() -> None:
    weights = normal(64)
    importance = np.where(np.arange(128) < 16, 100, 1).astype(np.float32)
    plain = search(weights, encoding_of(weights))
    weighted = search(weights, encoding_of(weights), importance)

    def cost(fit: Fit) -> float:
        off = weights - rows.expand(encoding_of(weights), fit.planes)
        return float((off**2 * importance).sum())

    assert cost(weighted) < cost(plain)
    assert weighted.error > plain.error
