"""Spectra against full SVDs in float64, and the invariances that the definitions promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightsmith import spectral
from weightsmith.spectral import damp_tail_, decompose, effective_rank, rank_for_energy, rank_of


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=generator(seed)) * 1e-3


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> Tensor:
    left = torch.randn(rows, rank, generator=generator(seed), dtype=torch.float64)
    right = torch.randn(rank, columns, generator=generator(seed + 1), dtype=torch.float64)
    return (left @ right * 1e-3).float()


def decaying(rows: int, columns: int, decades: int, seed: int = 0) -> Tensor:
    r = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, r, generator=generator(seed), dtype=torch.float64)).Q
    v = torch.linalg.qr(
        torch.randn(columns, r, generator=generator(seed + 1), dtype=torch.float64)
    ).Q
    return ((u * torch.logspace(0, -decades, r, dtype=torch.float64)) @ v.T).float()


FULL = {
    "square": noise(256, 256),
    "wide": noise(150, 700),
    "tall": noise(900, 130),
    "noise-and-spikes": noise(300, 300) + low_rank(300, 300, 8),
    "tall-embedding": noise(4000, 64),
    "one-row": noise(1, 50),
    "one-column": noise(50, 1),
    "five-decades": decaying(200, 300, 5),
}
DEFICIENT = {
    "lora": low_rank(512, 512, 8),
    "lora-wide": low_rank(200, 600, 16),
    "lora-and-dust": low_rank(200, 500, 8) + noise(200, 500) * 1e-6,
    "twelve-decades": decaying(300, 300, 12),
    "rank-one": low_rank(100, 60, 1),
    "a-row-of-zeros": torch.cat([noise(40, 90), torch.zeros(1, 90)]),
}


def svd_truncated(matrix: Tensor, gamma: float) -> tuple[Tensor, Tensor, int]:
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    k = rank_of(s)
    damped = s.clone()
    damped[k:] *= gamma
    return (u * damped) @ v, s, k


@pytest.mark.parametrize("name", [*FULL, *DEFICIENT])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_equals_the_full_svd(name: str, gamma: float) -> None:
    matrix = (FULL | DEFICIENT)[name]
    expected, s, k = svd_truncated(matrix, gamma)
    spectrum = decompose(matrix)
    tolerance = 1e-9 if name in FULL else 1e-6
    assert effective_rank(spectrum.values) == pytest.approx(effective_rank(s), rel=tolerance)
    assert rank_of(spectrum.values) == k
    found = matrix.clone()
    damp_tail_(found, spectrum, k, gamma)
    # Float32 products: a few units in the last place of the largest entries.
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("name", [*FULL, *DEFICIENT])
def test_vectors_are_orthonormal(name: str) -> None:
    vectors = decompose((FULL | DEFICIENT)[name]).vectors
    assert float((vectors.T @ vectors - torch.eye(len(vectors))).abs().max()) < 1e-12


def test_one_gram_matrix_is_not_enough_for_a_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look is needed: without it the effective rank is off by more than is allowed."""
    monkeypatch.setattr(spectral, "_certain", lambda *_: True)
    matrix = low_rank(1024, 1024, 8)
    exact = effective_rank(torch.linalg.svdvals(matrix.double()))
    assert effective_rank(decompose(matrix).values) != pytest.approx(exact, rel=1e-7)
    monkeypatch.undo()
    assert effective_rank(decompose(matrix).values) == pytest.approx(exact, rel=1e-9)


def test_a_second_look_is_not_taken_where_it_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    original = spectral._gram
    monkeypatch.setattr(spectral, "_gram", lambda *a, **k: calls.append(1) or original(*a, **k))
    decompose(FULL["noise-and-spikes"])
    assert len(calls) == 1


def test_a_zero_matrix() -> None:
    matrix = torch.zeros(30, 20)
    spectrum = decompose(matrix)
    assert effective_rank(spectrum.values) == 0.0
    assert rank_of(spectrum.values) == 0
    damp_tail_(matrix, spectrum, 0, 0.0)
    assert not matrix.any()


@pytest.mark.parametrize("k", [0, 1, 40, 41])
def test_any_k(k: int) -> None:
    matrix = noise(90, 41)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = matrix.clone()
    damp_tail_(found, decompose(matrix), k, 0.0)
    torch.testing.assert_close(found.double(), (u[:, :k] * s[:k]) @ v[:k], atol=1e-9, rtol=1e-4)
    if k == 41:
        assert torch.equal(found, matrix)


def test_effective_rank_of_equal_values_is_their_number() -> None:
    assert effective_rank(torch.ones(16)) == pytest.approx(16, rel=1e-6)
    assert effective_rank(torch.tensor([1.0, 0, 0])) == pytest.approx(1, rel=1e-6)
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert effective_rank(p * 7) == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-6)


@pytest.mark.parametrize(("share", "k"), [(0.5, 1), (0.79, 1), (0.81, 2), (0.99, 2), (1.0, 3)])
def test_rank_for_energy(share: float, k: int) -> None:
    assert rank_for_energy(torch.tensor([2.0, 1.0, 1e-3]), share) == k


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_effective_rank_is_invariant(shape: tuple[int, int], seed: int, scale: float) -> None:
    """Under scaling, transposition and rotation of either side."""
    matrix = noise(*shape, seed=seed)
    rotation = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=generator(seed))).Q
    value = effective_rank(decompose(matrix).values)
    assert 1 - 1e-6 <= value <= min(shape) + 1e-6
    for other in (matrix * scale, matrix.T.contiguous(), rotation @ matrix):
        assert effective_rank(decompose(other).values) == pytest.approx(value, rel=1e-4)
