"""Spectra against full SVDs in float64, and the invariances that the definitions promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weightsmith.kernels import sliced_gram
from weightsmith.kernels.sliced_gram import reference

from weightsmith import spectral
from weightsmith.spectral import (
    NotFinite,
    Spectrum,
    add_damped,
    decompose,
    effective_rank,
    rank_for_energy,
    rank_of,
    singular_values,
)


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


def refined(
    base: Tensor, matrix: Tensor, spectrum: Spectrum, k: int, gamma: float, exact: bool
) -> Tensor:
    found = torch.full(matrix.shape, torch.nan)
    for cut, part in add_damped(base, matrix, spectrum, k, gamma, exact=exact):
        assert found[cut].isnan().all(), "every element once"
        found[cut] = part
    return found


@pytest.mark.parametrize("name", [*FULL, *DEFICIENT])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_equals_the_full_svd(name: str, gamma: float) -> None:
    matrix = (FULL | DEFICIENT)[name]
    expected, s, k = svd_truncated(matrix, gamma)
    spectrum = decompose(matrix)
    tolerance = 1e-9 if name in FULL else 1e-6
    assert effective_rank(spectrum.values) == pytest.approx(effective_rank(s), rel=tolerance)
    assert rank_of(spectrum.values) == k
    nothing = torch.zeros_like(matrix)
    for exact, error in ((True, 2.0**-24), (False, 1e-6)):
        found = refined(nothing, matrix, spectrum, k, gamma, exact)
        assert float((found - expected).norm() / expected.norm()) < error


def bfloat16_steps(first: Tensor, second: Tensor) -> int:
    """How many steps lie between elements at most."""
    # Two's complement of the magnitude where the sign bit is set: in the order of the values.
    a, b = (x.float().bfloat16().view(torch.int16).int() for x in (first, second))
    a, b = (torch.where(x < 0, -(x & 0x7FFF), x) for x in (a, b))
    return int((a - b).abs().max())


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_sums_that_nearly_cancel_are_done_again(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = noise(*shape)
    expected, _, k = svd_truncated(matrix, 0.0)
    spectrum = decompose(matrix)
    # Twelve magnitudes of what is left, from a thousandth of delta down to nothing.
    left = 2.0 ** -torch.randint(10, 22, shape, generator=generator(3)).double()
    base = (expected * (left - 1)).float()
    exact = expected + base.double()
    found = refined(base, matrix, spectrum, k, 0.0, exact=False)
    assert bfloat16_steps(found, exact) <= 1
    monkeypatch.setattr(spectral, "_CANCELLED", 0.0)
    found = refined(base, matrix, spectrum, k, 0.0, exact=False)
    assert bfloat16_steps(found, exact) > 1


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


@pytest.mark.parametrize("name", [*FULL, *DEFICIENT])
def test_values_without_vectors(name: str) -> None:
    matrix = (FULL | DEFICIENT)[name]
    exact = torch.linalg.svdvals(matrix.double())
    values = singular_values(matrix)
    tolerance = 1e-9 if name in FULL else 1e-6
    assert effective_rank(values) == pytest.approx(effective_rank(exact), rel=tolerance)
    assert rank_of(values) == rank_of(exact)


def test_values_of_a_lora_need_vectors_and_those_of_noise_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    original = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a, **k: calls.append("") or original(*a, **k))
    singular_values(FULL["noise-and-spikes"])
    assert not calls
    singular_values(DEFICIENT["lora"])
    assert len(calls) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_what_is_not_finite_is_refused(bad: float, shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    matrix[-1, 0] = bad
    with pytest.raises(NotFinite):
        decompose(matrix)
    with pytest.raises(NotFinite):
        singular_values(matrix)


def test_the_range_of_float32_is_no_bound() -> None:
    """Squares of the largest and the least float32 are neither infinite nor zero in float64."""
    matrix = noise(30, 20)
    value = effective_rank(decompose(matrix).values)
    # Powers of two: the same matrix, exactly; 2**-9 is near the largest element of the noise.
    for scale in (2.0**135, 2.0**-100):
        scaled = (matrix.double() * scale).float()
        assert effective_rank(decompose(scaled).values) == pytest.approx(value, rel=1e-9)


def of_bfloat16(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Base and instruct - base, as checkpoints have them: with few bits."""
    base = (noise(rows, columns, seed=1) * 20).bfloat16()
    instruct = (base + noise(rows, columns)).bfloat16()
    return base.float(), instruct.float() - base.float()


@pytest.fixture(params=["float64", "slices", "slices on the matrix unit"])
def gram_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways to a Gram matrix; in slices also where the CPU has no unit for them."""
    if request.param == "slices on the matrix unit" and not sliced_gram.available():
        pytest.skip("this CPU has none")
    monkeypatch.setattr(sliced_gram, "available", lambda: request.param != "float64")
    if request.param == "slices":
        monkeypatch.setattr(sliced_gram, "add", reference.add)
    return request.param


@pytest.mark.parametrize("shape", [(2500, 130), (130, 2500), (250, 250), (40, 1), (1, 40)])
def test_every_way_to_a_gram_matrix(shape: tuple[int, int], gram_by: str) -> None:
    base, delta = of_bfloat16(*shape)
    assert (spectral._sliced_gram(delta) is None) == (gram_by == "float64")
    expected, s, k = svd_truncated(delta, 0.0)
    spectrum = decompose(delta)
    assert effective_rank(spectrum.values) == pytest.approx(effective_rank(s), rel=1e-9)
    assert effective_rank(singular_values(delta)) == pytest.approx(effective_rank(s), rel=1e-9)
    assert rank_of(spectrum.values) == k
    found = refined(base, delta, spectrum, k, 0.0, exact=False)
    assert bfloat16_steps(found, base.double() + expected) <= 1
    turned = decompose(delta.T.contiguous())
    if gram_by != "float64" and shape[0] != shape[1]:
        assert torch.equal(turned.values, spectrum.values)
        assert torch.equal(turned.vectors, spectrum.vectors)


@pytest.mark.parametrize("name", ["tall", "five-decades", "lora"])
def test_what_slices_do_not_hold_is_multiplied_in_float64(name: str, gram_by: str) -> None:
    matrix = (FULL | DEFICIENT)[name].clone()
    matrix[0, 0] = 1e6  # beside which the others have too many bits
    assert spectral._sliced_gram(matrix) is None
    exact = torch.linalg.svdvals(matrix.double())
    assert effective_rank(decompose(matrix).values) == pytest.approx(effective_rank(exact), 1e-6)


def test_a_zero_matrix() -> None:
    matrix = torch.zeros(30, 20)
    spectrum = decompose(matrix)
    assert effective_rank(spectrum.values) == 0.0
    assert rank_of(spectrum.values) == 0
    assert not refined(matrix, matrix, spectrum, 0, 0.0, exact=False).any()


@pytest.mark.parametrize("k", [0, 1, 40, 41])
def test_any_k(k: int) -> None:
    matrix = noise(90, 41)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    base = noise(90, 41, seed=1)
    found = refined(base, matrix, decompose(matrix), k, 0.0, exact=True)
    expected = base + (u[:, :k] * s[:k]) @ v[:k]
    torch.testing.assert_close(found, expected.float(), atol=0.0, rtol=2.0**-23)
    if k == 41:
        assert torch.equal(found, base + matrix)


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
