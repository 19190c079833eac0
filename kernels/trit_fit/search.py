"""The search of scales in numpy: the same operations in the same order as `search.inl`.

Every group is fitted for itself, so all of them are worked on side by side; only sums over the
elements of a group run one by one, for their order decides the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from weightsmith.kernels.trit_fit.levels import Doubles, Floats, Levels, levels_of

MOST_ITERATIONS = 50
TRIAL = 4
STARTS: dict[int, list[tuple[float, ...]]] = {
    1: [(1.2,), (1.6,), (0.9,)],
    2: [
        *((1.50, 1.42), (1.20, 1.02), (2.30, 2.18), (1.50, 0.75)),
        *((1.80, 1.04), (1.40, 0.92), (1.80, 0.27), (1.10, 0.64)),
    ],
    3: [
        *((1.50, 0.98, 0.29), (1.20, 1.14, 0.80), (1.20, 1.14, 0.34)),
        *((1.50, 1.42, 1.00), (1.50, 0.75, 0.68), (1.50, 0.98, 0.68)),
        *((1.20, 0.78, 0.23), (1.50, 1.42, 0.43), (1.50, 0.52, 0.37)),
        *((1.80, 1.71, 1.20), (1.20, 0.78, 0.55), (1.80, 1.17, 0.35)),
    ],
}


@dataclass
class Groups:
    """Groups in columns [size, n]: weights; in unit scale their magnitudes, also weighted."""

    weight: Floats
    magnitude: Floats
    weighted: Floats
    importance: Floats
    to_unit: Floats
    total: Floats
    square: Floats
    importance_total: np.float32


def _groups(weights: Floats, importance: Floats) -> Groups:
    """Of columns [size, n] that are one group each."""
    magnitude = np.abs(weights)
    largest = magnitude.max(axis=0)
    _, exponent = np.frexp(largest)
    to_unit = np.where(largest >= 2.0**-40, np.ldexp(np.float32(1), -exponent), 0)
    magnitude = magnitude * to_unit.astype(np.float32)
    weighted = magnitude * importance[:, None]
    total, square = np.zeros_like(largest), np.zeros_like(largest)
    importance_total = np.float32(0)
    for x, y, h in zip(magnitude, weighted, importance, strict=True):
        importance_total = importance_total + h
        total = total + y
        square = square + y * x
    return Groups(
        weights,
        magnitude,
        weighted,
        importance,
        to_unit.astype(np.float32),
        total,
        square,
        importance_total,
    )


def _tally(groups: Groups, threshold: Floats) -> tuple[Floats, Floats]:
    """Importance and weighted magnitude above each threshold [M, n], with a row of zeros after."""
    count = np.zeros((len(threshold) + 1, threshold.shape[1]), np.float32)
    total = np.zeros_like(count)
    for x, y, h in zip(groups.magnitude, groups.weighted, groups.importance, strict=True):
        above = x > threshold
        count[:-1] += np.where(above, h, np.float32(0))
        total[:-1] += np.where(above, y, np.float32(0))
    return count, total


@dataclass
class Normal:
    """Normal equations: the lower triangle of matrix [K, K, n], and right [K, n]."""

    matrix: Doubles
    right: Doubles


def _normal_equations(levels: Levels, count: Floats, total: Floats) -> Normal:
    planes, n = levels.trit.shape[1:]
    normal = Normal(np.zeros((planes, planes, n)), np.zeros((planes, n)))
    counts = (count[:-1] - count[1:]).astype(np.float64)
    totals = (total[:-1] - total[1:]).astype(np.float64)
    for m, trit in enumerate(levels.trit.astype(np.float64)):
        for k in range(planes):
            normal.right[k] += trit[k] * totals[m]
            for j in range(k + 1):
                normal.matrix[k, j] += trit[k] * trit[j] * counts[m]
    return normal


def _stretch(scales: Floats, normal: Normal) -> Floats:
    """Least squares along the direction of the scales as they are."""
    a = scales.astype(np.float64)
    projection, square = np.zeros_like(a[0]), np.zeros_like(a[0])
    for k in range(len(a)):
        projection += a[k] * normal.right[k]
        for j in range(k + 1):
            square += (2.0 if j < k else 1.0) * a[k] * a[j] * normal.matrix[k, j]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(square > 0, projection / square, 1.0)
    return (a * factor).astype(np.float32)


def _solve(scales: Floats, normal: Normal) -> Floats:
    """Least squares; where the planes cannot be told apart, only the common factor is fitted."""
    a, b = normal.matrix, normal.right
    product = a[0, 0].copy()
    for k in range(1, len(b)):
        product *= a[k, k]
    if len(b) == 1:
        determinant, x = a[0, 0], [b[0]]
    elif len(b) == 2:
        determinant = a[0, 0] * a[1, 1] - a[1, 0] * a[1, 0]
        x = [a[1, 1] * b[0] - a[1, 0] * b[1], a[0, 0] * b[1] - a[1, 0] * b[0]]
    else:
        c00 = a[1, 1] * a[2, 2] - a[2, 1] * a[2, 1]
        c10 = a[2, 1] * a[2, 0] - a[1, 0] * a[2, 2]
        c20 = a[1, 0] * a[2, 1] - a[1, 1] * a[2, 0]
        c11 = a[0, 0] * a[2, 2] - a[2, 0] * a[2, 0]
        c21 = a[1, 0] * a[2, 0] - a[0, 0] * a[2, 1]
        c22 = a[0, 0] * a[1, 1] - a[1, 0] * a[1, 0]
        determinant = a[0, 0] * c00 + a[1, 0] * c10 + a[2, 0] * c20
        x = [
            c00 * b[0] + c10 * b[1] + c20 * b[2],
            c10 * b[0] + c11 * b[1] + c21 * b[2],
            c20 * b[0] + c21 * b[1] + c22 * b[2],
        ]
    regular = determinant > 1e-9 * product
    with np.errstate(divide="ignore", invalid="ignore"):
        solved = (np.stack(x) / determinant).astype(np.float32)
    found: Floats = np.where(regular, solved, _stretch(scales, normal))
    return found


def _explained(scales: Floats, normal: Normal) -> Floats:
    a = scales.astype(np.float64)
    total = np.zeros_like(a[0])
    for k in range(len(a)):
        total += 2.0 * a[k] * normal.right[k]
        for j in range(k + 1):
            total -= (2.0 if j < k else 1.0) * a[k] * a[j] * normal.matrix[k, j]
    gain: Floats = total.astype(np.float32)
    return gain


@dataclass
class Candidate:
    """Scales [K, n], and how much of each group's square they explain."""

    scales: Floats
    gain: Floats


def _improve(scales: Floats, normal: Normal, *, tied: bool) -> Candidate:
    fitted = _stretch(scales, normal) if tied else _solve(scales, normal)
    # Largest first, none negative: the set of levels stays the same.
    return Candidate(-np.sort(-np.abs(fitted), axis=0), _explained(fitted, normal))


def _iterate(scales: Floats, groups: Groups, *, tied: bool) -> Candidate:
    levels = levels_of(scales)
    normal = _normal_equations(levels, *_tally(groups, levels.threshold))
    return _improve(scales, normal, tied=tied)


def _converge(candidate: Candidate, groups: Groups, *, tied: bool) -> tuple[Candidate, int]:
    iterations = 0
    for _ in range(MOST_ITERATIONS):
        before = candidate.scales
        candidate = _iterate(before, groups, tied=tied)
        moved = int((candidate.scales != before).any(axis=0).sum())
        iterations += moved
        if not moved:
            break
    return candidate, iterations


def _start_of_paper(groups: Groups) -> Candidate:
    """Algorithm 1 after its first trit step; see `search.inl`."""
    mean = groups.total / groups.importance_total
    middle, top = mean * np.float32(0.25), mean * np.float32(0.75)
    count, total = np.zeros((3, len(mean)), np.float32), np.zeros((3, len(mean)), np.float32)
    for w, x, y, h in zip(
        groups.weight, groups.magnitude, groups.weighted, groups.importance, strict=True
    ):
        both, negative = x > top, w < 0
        some = (x > middle) & ~both
        member = np.stack([both, some & negative, some & ~negative])
        count += np.where(member, h, np.float32(0))
        total += np.where(member, y, np.float32(0))
    counts, totals = count.astype(np.float64), total.astype(np.float64)
    normal = Normal(np.zeros((2, 2, len(mean))), totals[0] + totals[1:])
    normal.matrix[0, 0], normal.matrix[1, 1] = counts[0] + counts[1:]
    normal.matrix[1, 0] = counts[0]
    return _improve(np.stack([mean, mean]) * np.float32(0.5), normal, tied=False)


def _neighbours(x: Floats) -> tuple[Floats, Floats]:
    """The float16 neighbours of positive numbers, themselves twice if they are such."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        nearest = x.astype(np.float16)
        value = nearest.astype(np.float32)
        bits = nearest.view(np.uint16)
        below = (bits - np.uint16(1)).view(np.float16).astype(np.float32)
        above = (bits + np.uint16(1)).view(np.float16).astype(np.float32)
    odd = (value != x) & np.isfinite(value)
    return np.where(odd & (value > x), below, value), np.where(odd & (value < x), above, value)


def _rounded(scales: Floats, groups: Groups, ratio: Floats | None) -> Floats:
    """Scales that float16 holds in the units of the weights: up or down, whichever costs least."""
    levels = levels_of(scales)
    normal = _normal_equations(levels, *_tally(groups, levels.threshold))
    factor, planes = groups.to_unit, len(scales)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if ratio is None:
            sides = [_neighbours(scale / factor) for scale in scales]
            choices = [
                np.stack([side[number >> k & 1] for k, side in enumerate(sides)]) * factor
                for number in range(2**planes)
            ]
        else:
            units = _neighbours(scales[0] / ratio[0] / factor)
            choices = [unit * ratio[:, None] * factor for unit in units]
        best, least = choices[0], np.full(scales.shape[1], np.inf)
        for number, tried in enumerate(choices):
            cost = np.zeros(scales.shape[1])
            a = tried.astype(np.float64)
            for k in range(planes):
                cost -= 2.0 * a[k] * normal.right[k]
                for j in range(k + 1):
                    cost += (2.0 if j < k else 1.0) * a[k] * a[j] * normal.matrix[k, j]
            better = (cost < least) | (number == 0)
            best, least = np.where(better, tried, best), np.where(better, cost, least)
    return np.where(factor == 0, np.float32(0), best)


def _error(scales: Floats, groups: Groups) -> Doubles:
    with np.errstate(invalid="ignore"):
        levels = levels_of(scales)
    error = np.zeros(scales.shape[1])
    for x, h in zip(groups.magnitude, groups.importance, strict=True):
        nearest = np.zeros_like(x)
        for value, threshold in zip(levels.value, levels.threshold, strict=True):
            nearest = np.where(x > threshold, value, nearest)
        off = (x - nearest).astype(np.float64)
        error += np.float64(h) * (off * off)
    return error


def _fit_groups(
    groups: Groups, planes: int, ratios: Floats, starts: int
) -> tuple[Floats, Doubles, NDArray[np.uint8], int]:
    n = groups.magnitude.shape[1]
    rms = np.sqrt(groups.square / groups.importance_total)
    best, error = np.zeros((planes, n), np.float32), np.full(n, np.inf)
    chosen = np.zeros(n, np.uint8)
    iterations = 0

    def keep_better(scales: Floats, ratio: Floats | None, number: int) -> None:
        rounded = _rounded(scales, groups, ratio)
        found = _error(rounded, groups)
        better = (found < error) & np.isfinite(rounded[0])
        best[:, better], error[better], chosen[better] = rounded[:, better], found[better], number

    for number, ratio in enumerate(ratios if len(ratios) else [None]):
        leader: Candidate | None = None
        for start in STARTS[planes][:starts]:
            given = np.array(start, np.float32)
            relative = given if ratio is None else given[0] * ratio / ratio[0]
            candidate = Candidate(rms * relative[:, None], rms)
            for _ in range(TRIAL):
                candidate = _iterate(candidate.scales, groups, tied=ratio is not None)
            if leader is None:
                leader = candidate
                continue
            first = leader.gain >= candidate.gain
            leader = Candidate(
                np.where(first, leader.scales, candidate.scales),
                np.where(first, leader.gain, candidate.gain),
            )
        assert leader is not None
        leader, more = _converge(leader, groups, tied=ratio is not None)
        iterations += TRIAL * n + more
        keep_better(leader.scales, ratio, number)
    if planes == 2 and not len(ratios):
        keep_better(_converge(_start_of_paper(groups), groups, tied=False)[0].scales, None, 0)
    return best, error, chosen, iterations


def fit(
    scales: Floats,
    ratio: NDArray[np.uint8],
    weights: Floats,
    importance: Floats,
    group: int,
    ratios: Floats,
    starts: int,
) -> tuple[int, int]:
    """Fit scales [rows, groups, planes] to weights [rows, columns]; see README.md.

    Args:
        scales: out: float32 that float16 holds, not negative, falling.
        ratio: out: [rows, groups], which row of `ratios` was taken.
        weights: finite.
        importance: [columns], the weight of each column's squared error; positive.
        group: columns that share scales; the last group may be shorter.
        ratios: [n, planes], small integers that scales are tied to; no rows for free scales.
        starts: how many starts are tried.

    Returns:
        Iterations, summed over groups, and how many groups need scales beyond float16.
    """
    iterations = overflows = 0
    for g in range(scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        groups = _groups(weights[:, columns].T, importance[columns])
        best, error, chosen, counted = _fit_groups(groups, scales.shape[2], ratios, starts)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(groups.to_unit == 0, np.float32(0), best / groups.to_unit)
        scales[:, g], ratio[:, g] = found.T, chosen
        iterations += counted
        overflows += int(np.isinf(error).sum())
    return iterations, overflows
