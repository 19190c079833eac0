"""Low-rank factors, ranks, and what effective rank does not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightsmith.errors import UsageError
from weightsmith.report.lowrank import RankRule, factorise
from weightsmith.report.spectra import erank_of, pair_spectra


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (17, 17), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("rank", [1, 5, 100])
def test_the_product_is_the_truncated_matrix(shape: tuple[int, int], rank: int) -> None:
    matrix = noise(0, *shape)
    found = factorise(torch.from_numpy(matrix), RankRule("fixed", rank))
    kept = min(rank, *shape)
    assert found.b.shape == (shape[0], kept)
    assert found.a.shape == (kept, shape[1])
    assert found.a.dtype == found.b.dtype == torch.float32
    product = found.b.double().numpy() @ found.a.double().numpy()
    expected = truncated(matrix, rank)
    assert np.abs(product - expected).max() < 1e-6 * np.linalg.norm(matrix)
    share = (expected**2).sum() / (matrix.astype(np.float64) ** 2).sum()
    assert found.energy == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_directions_without_length_stay_small(shape: tuple[int, int]) -> None:
    matrix = noise(1, shape[0], 3) @ noise(2, 3, shape[1])
    found = factorise(torch.from_numpy(matrix), RankRule("fixed", 16))
    product = (found.b.double() @ found.a.double()).numpy()
    assert found.rank == 16
    assert np.abs(product - matrix).max() < 1e-5
    assert found.a.isfinite().all()
    assert found.b.isfinite().all()


def test_a_zero_matrix_has_rank_0() -> None:
    zero = torch.zeros(5, 7)
    assert [factorise(zero, r).rank for r in (RankRule("fixed", 4), RankRule("erank"))] == [0, 0]


def test_ranks_by_rule() -> None:
    values = torch.tensor([2.0, 1.0, 1.0])
    assert RankRule.parse("2").of(values) == 2
    assert RankRule.parse("9").of(values) == 3
    assert RankRule.parse("erank").of(values) == 3
    assert RankRule.parse("energy=0.6").of(values) == 1
    assert RankRule.parse("energy=0.7").of(values) == 2
    assert RankRule.parse("energy=1").of(values) == 3


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "rank", "energy", "energy=", "energy=0", "energy=1.1", "energy=x"],
)
def test_not_ranks(text: str) -> None:
    with pytest.raises(UsageError, match="--rank"):
        RankRule.parse(text)


def rotation(seed: int, size: int) -> np.ndarray:
    return np.linalg.qr(noise(seed, size, size).astype(np.float64))[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 10**6), st.integers(-20, 20))
def test_erank_keeps_under_what_keeps_the_spectrum(
    rows: int, columns: int, seed: int, power: int
) -> None:
    matrix = noise(seed, rows, columns)
    expected = erank_of(matrix)
    assert 1 <= expected <= min(rows, columns) + 1e-6
    rng = np.random.default_rng(seed)
    turned = rotation(seed, rows) @ matrix.astype(np.float64) @ rotation(seed + 1, columns)
    exact = {
        "transposed": matrix.T,
        "scaled": matrix * np.float32(2.0**power),
        "permuted": matrix[rng.permutation(rows)][:, rng.permutation(columns)],
        "signs": -matrix,
    }
    for how, other in exact.items():
        assert erank_of(np.ascontiguousarray(other)) == pytest.approx(expected, rel=1e-7), how
    # A rotated matrix has to be rounded to float32 again.
    assert erank_of(turned.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_spectra_of_a_pair() -> None:
    a, b = noise(3, 20, 30), noise(4, 20, 30)
    expected = np.linalg.svd(a.astype(np.float64) - b, compute_uv=False)
    found = pair_spectra(a.copy(), b)
    assert found.values == pytest.approx(expected, rel=1e-5)
    assert found.erank_a == erank_of(a)
    assert found.energy(4) == pytest.approx((expected[:4] ** 2).sum() / (expected**2).sum())
    assert found.energy(64) == 1
    same = pair_spectra(a.copy(), a)
    assert (same.erank_delta, same.energy(1)) == (0, None)
