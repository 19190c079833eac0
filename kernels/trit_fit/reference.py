"""Ground truth of the trit fit, in numpy: the same operations in the same order as `cpu.cpp`.

Every group is fitted for itself, so all of them are worked on side by side; only sums over the
elements of a group run one by one, for their order decides the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Trits = NDArray[np.int8]

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
# Combinations of trits whose first one that is not zero is positive.
COMBINATIONS = [
    *((1, 0, 0), (0, 1, 0), (1, -1, 0), (1, 1, 0), (0, 0, 1), (0, 1, -1), (0, 1, 1)),
    *((1, 0, -1), (1, -1, -1), (1, -1, 1), (1, 0, 1), (1, 1, -1), (1, 1, 1)),
]
# The order in which Algorithm 1 tries the nine pairs.
PAIRS = [(0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


@dataclass
class Levels:
    """Magnitudes [M, n] that weights can take, rising; trits [M, K, n]; thresholds [M, n]."""

    value: Floats
    trit: Floats
    threshold: Floats


def levels_of(scales: Floats) -> Levels:
    """The levels of scales [K, n]."""
    planes = len(scales)
    codes = np.array(COMBINATIONS[: (3**planes - 1) // 2], np.float32)[:, :planes]
    value = codes[:, :1] * scales[0]
    for k in range(1, planes):
        value = value + codes[:, k : k + 1] * scales[k]
    sign = np.where(value < 0, np.float32(-1), np.float32(1))
    # Stable, as exchanging neighbours is: of equal magnitudes the earlier combination comes first.
    rank = np.argsort(np.abs(value), axis=0, kind="stable")
    trit = codes[:, :, None] * sign[:, None, :]
    value = np.take_along_axis(np.abs(value), rank, axis=0)
    trit = np.take_along_axis(trit, rank[:, None, :], axis=0)
    below = np.concatenate([np.zeros_like(value[:1]), value[:-1]])
    return Levels(value, trit, (below + value) * np.float32(0.5))


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


def _nearest(levels: Levels, weights: Floats) -> tuple[Floats, Floats]:
    """Level [n] and trits [K, n] next to weights [n]."""
    magnitude = np.abs(weights)
    value, trit = np.zeros_like(weights), np.zeros_like(levels.trit[0])
    for m, threshold in enumerate(levels.threshold):
        above = magnitude > threshold
        value = np.where(above, levels.value[m], value)
        trit = np.where(above, levels.trit[m], trit)
    negative = weights < 0
    return np.where(negative, -value, value), np.where(negative, -trit, trit)


def assign(trits: Trits, weights: Floats, scales: Floats, group: int) -> tuple[float, float, int]:
    """Trits [rows, planes, columns] of the level next to each weight.

    Returns:
        The squared error, the weights' own square, and how many trits are zero.
    """
    error = norm = 0.0
    for g in range(scales.shape[1]):
        levels = levels_of(np.ascontiguousarray(scales[:, g].T))
        for column in range(g * group, min((g + 1) * group, weights.shape[1])):
            value, trit = _nearest(levels, weights[:, column])
            trits[:, :, column] = trit.T
            off = (weights[:, column] - value).astype(np.float64)
            error += float(off @ off)
            norm += float(np.sum(weights[:, column].astype(np.float64) ** 2))
    return error, norm, int((trits == 0).sum())


def _ridge_solve(a11: float, a22: float, a12: float, b1: float, b2: float) -> tuple[float, float]:
    """Eq. 6, the ridge raised tenfold while the condition number is above 1e6 (version 3)."""
    ridge = 1e-8
    while True:
        d1, d2 = a11 + ridge, a22 + ridge
        determinant = d1 * d2 - a12 * a12
        square = d1 * d1 + d2 * d2 + 2.0 * a12 * a12
        if (determinant and square / abs(determinant) <= 1e6) or ridge >= 1.0:
            return (d2 * b1 - a12 * b2) / determinant, (d1 * b2 - a12 * b1) / determinant
        ridge *= 10.0


def algorithm1_step(scales: Doubles, trits: Trits, weights: Floats, group: int) -> float:
    """One iteration of Algorithm 1 of arXiv 2509.16989, in place: scales [.., 2], then trits.

    Returns:
        The largest Euclidean distance that the scales of a group moved.
    """
    farthest = 0.0
    for g in range(scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        w = weights[:, columns].astype(np.float64)
        t1, t2 = (trits[:, k, columns].astype(np.float64) for k in range(2))
        sums = ((x * y).sum(axis=1) for x, y in ((t1, t1), (t2, t2), (t1, t2), (t1, w), (t2, w)))
        fitted = np.array([_ridge_solve(*row) for row in zip(*sums, strict=True)])
        farthest = max(farthest, float(np.linalg.norm(fitted - scales[:, g], axis=1).max()))
        scales[:, g] = fitted
        off = np.stack([w - (c1 * fitted[:, :1] + c2 * fitted[:, 1:]) for c1, c2 in PAIRS])
        trits[:, :, columns] = np.moveaxis(np.array(PAIRS)[(off * off).argmin(axis=0)], 2, 1)
    return farthest


def feedback(
    trits: Trits,
    error: Floats,
    weights: Floats,
    factor: Floats,
    scales: Floats,
    group_of: NDArray[np.int32],
) -> None:
    """Quantise columns one by one and move what is lost onto those still to come (GPTQ's order).

    Args:
        trits: out: [rows, planes, columns].
        error: out: [rows, columns], (weight - level) / diagonal of the factor.
        weights: [rows, columns]; afterwards the levels.
        factor: [columns, columns], the upper Cholesky factor of the inverse Hessian.
        scales: [rows, groups, planes].
        group_of: [columns], the group of each column.
    """
    levels = [levels_of(np.ascontiguousarray(scales[:, g].T)) for g in range(scales.shape[1])]
    for j in range(weights.shape[1]):
        value, trit = _nearest(levels[group_of[j]], weights[:, j])
        lost = (weights[:, j] - value) / factor[j, j]
        weights[:, j + 1 :] -= lost[:, None] * factor[j, j + 1 :]
        error[:, j], weights[:, j], trits[:, :, j] = lost, value, trit.T


_POWERS = np.array([1, 3, 9, 27, 81], np.int32)


def pack(packed: NDArray[np.uint8], trits: Trits) -> None:
    """Bytes [rows, planes, ceil(columns / 5)] of trits [rows, planes, columns]."""
    digits = np.ones((*packed.shape, 5), np.int32).reshape(*packed.shape[:2], -1)
    digits[:, :, : trits.shape[2]] += trits
    packed[:] = digits.reshape(*packed.shape, 5) @ _POWERS


def unpack(trits: Trits, packed: NDArray[np.uint8]) -> int:
    """The reverse; returns how many bytes are no five trits."""
    digits = packed[..., None].astype(np.int32) // _POWERS % 3 - 1
    trits[:] = digits.reshape(*packed.shape[:2], -1)[:, :, : trits.shape[2]]
    return int((packed > 242).sum())


def expand(out: Floats, trits: Trits, scales: Floats, group: int) -> None:
    """Weights [rows, columns]: the sum over planes, in order, of scales times trits."""
    for g in range(scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        total = scales[:, g, :1] * trits[:, 0, columns]
        for k in range(1, scales.shape[2]):
            total = total + scales[:, g, k : k + 1] * trits[:, k, columns]
        out[:, columns] = total
