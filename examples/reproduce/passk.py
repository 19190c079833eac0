"""Pass@k: the chance that at least one of k answers is right."""

from collections.abc import Sequence
from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate for one problem, from `correct` right ones among `samples` answers.

    1 - C(n - c, k) / C(n, k): the share of all choices of k among the n answers that have a right
    one. 1 - (1 - c/n)^k would be biased downwards (Chen et al., arXiv 2107.03374, section 2.1).

    Raises:
        ValueError: k is not in 1 .. samples, or correct not in 0 .. samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must be 1 to {samples}, the number of samples; got {k}")
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be 0 to {samples}, the number of samples; got {correct}")
    return 1 - comb(samples - correct, k) / comb(samples, k)


def mean_pass_at_k(samples: int, correct: Sequence[int], k: int) -> float:
    """The mean over problems, each with as many samples."""
    return sum(pass_at_k(samples, count, k) for count in correct) / len(correct)
