"""Error feedback: a plain form of it gives the same, and outputs change less."""

import numpy as np
import pytest
import torch
from weightsmith.kernels.trit_fit.levels import levels_of, nearest

from weightsmith.tritplanes import rows
from weightsmith.tritplanes.calibrated import damped, feedback, inverse_factor, output_error
from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.fit import fit_scales, search


def problem(out: int = 24, columns: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs of which some are strong and most go together."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 12)) @ rng.standard_normal((12, columns))
    x = (x + rng.standard_normal((600, columns))) * np.exp(rng.standard_normal(columns))
    weights = rng.standard_normal((out, columns)).astype(np.float32)
    return weights, (x.T @ x / len(x)).astype(np.float32)


def plain(weights: np.ndarray, hessian: np.ndarray, encoding: TritEncoding) -> np.ndarray:
    """GPTQ by the book, one column after the other, float64."""
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    importance = np.empty(len(hessian), np.float32)
    for count, j in enumerate(order):
        # What the columns after j, which are free, cannot make up for.
        rest = hessian[np.ix_(order[count:], order[count:])].astype(np.float64)
        importance[j] = 1 / np.linalg.inv(rest)[0, 0]
    scales = fit_scales(weights, encoding, importance)[0]
    inverse = np.linalg.inv(hessian.astype(np.float64))
    left, result = weights.astype(np.float64), np.empty_like(weights)
    for j in order:
        levels = levels_of(np.ascontiguousarray(scales[:, j // encoding.group].T))
        result[:, j] = nearest(levels, left[:, j].astype(np.float32))[0]
        left -= np.outer((left[:, j] - result[:, j]) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = 1  # done with
    return result


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_it_is_gptq(planes: int) -> None:
    weights, hessian = problem()
    encoding = TritEncoding(weights.shape, "F32", planes, 64)
    raised = damped(hessian, 0.01)
    fit = feedback(weights, raised, encoding)
    found, expected = rows.expand(encoding, fit.planes), plain(weights, raised, encoding)
    # Where a weight lies between two levels, the last bit of float32 decides, and what follows moves.
    assert (found == expected).mean() > 0.99
    assert fit.error == pytest.approx(
        output_error(expected - weights, torch.from_numpy(raised)), rel=0.01
    )


def test_outputs_change_less_than_without() -> None:
    weights, hessian = problem()
    encoding = TritEncoding(weights.shape, "F32", 2, 64)
    raised = damped(hessian, 0.01)
    fits = (
        search(weights, encoding),
        search(weights, encoding, np.diagonal(raised).copy()),
        feedback(weights, raised, encoding),
    )
    moments = torch.from_numpy(raised)
    costs = [output_error(rows.expand(encoding, f.planes) - weights, moments) for f in fits]
    assert costs[2] < 0.5 * costs[1] < costs[1] < costs[0]
    assert fits[2].error == pytest.approx(costs[2], rel=1e-5)


def test_the_factor_is_that_of_the_inverse() -> None:
    _, hessian = problem()
    factor = inverse_factor(torch.from_numpy(damped(hessian, 0.01))).double().numpy()
    assert np.array_equal(factor, np.triu(factor))
    product = factor.T @ factor @ damped(hessian, 0.01)
    np.testing.assert_allclose(product, np.eye(len(hessian)), atol=1e-4)


def test_singular_statistics() -> None:
    with pytest.raises(ArithmeticError):
        inverse_factor(torch.ones(3, 3) - 2 * torch.eye(3))
    unseen = damped(np.zeros((3, 3), np.float32), 0.01)
    assert np.array_equal(unseen, np.eye(3, dtype=np.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_card() -> None:
    weights, hessian = problem()
    encoding = TritEncoding(weights.shape, "F32", 2, 64)
    raised = damped(hessian, 0.01)
    card, cpu = (feedback(weights, raised, encoding, device=d) for d in ("cuda", "cpu"))
    # Another factor in the last bit moves single weights to another level, and what follows.
    assert card.error == pytest.approx(cpu.error, rel=0.01)
    assert card.norm == pytest.approx(cpu.norm, rel=1e-5)
