"""Pass@k: against its definition, and against a simulation that it must not be biased from."""

from itertools import combinations
from math import comb

import pytest
from passk import mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_it_is_the_share_of_choices_with_a_right_answer(samples: int) -> None:
    for correct in range(samples + 1):
        answers = [index < correct for index in range(samples)]
        for k in range(1, samples + 1):
            choices = list(combinations(answers, k))
            expected = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_is_unbiased(chance: float, k: int) -> None:
    samples = 10
    expected = sum(
        comb(samples, c) * chance**c * (1 - chance) ** (samples - c) * pass_at_k(samples, c, k)
        for c in range(samples + 1)
    )
    assert expected == pytest.approx(1 - (1 - chance) ** k, abs=1e-12)


def test_the_plug_in_estimate_would_be_lower() -> None:
    assert pass_at_k(8, 2, 4) > 1 - (1 - 2 / 8) ** 4


def test_the_ends() -> None:
    assert pass_at_k(16, 0, 16) == 0
    assert pass_at_k(16, 16, 1) == 1
    assert pass_at_k(16, 5, 1) == 5 / 16
    assert pass_at_k(16, 1, 16) == 1


def test_the_mean_is_over_problems() -> None:
    assert mean_pass_at_k(4, [0, 4, 1], 2) == pytest.approx((0 + 1 + 0.5) / 3)


@pytest.mark.parametrize(("correct", "k"), [(1, 0), (1, 5), (-1, 1), (5, 1)])
def test_impossible_counts_are_refused(correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        pass_at_k(4, correct, k)
