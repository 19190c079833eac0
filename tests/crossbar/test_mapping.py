"""Weights to devices and back: the algebra, for any shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weightsmith import devices
from weightsmith.crossbar.cells import Mapping
from weightsmith.crossbar.device import Cell
from weightsmith.crossbar.scale import Range, tile_widths

NAMES = ["gaussian", "pcm", "pcm-hermes", "pcm-afm", "rram-wan", "rram-cmo"]
WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    elements=st.floats(-2.0, 2.0, width=32, allow_subnormal=False) | st.just(0.0),
)


def mapped(name: str, weights: np.ndarray, tile: int = 7, **options):
    mapping = Mapping(devices.load(name), **options)
    symmetric = mapping.device.cell is not Cell.SINGLE
    return mapping, Range.of(weights, tile, symmetric=symmetric)


def back(mapping: Mapping, scale: Range, weights: np.ndarray) -> np.ndarray:
    """The weights that perfectly programmed devices hold, in float64."""
    _, targets = mapping.targets(mapping.conductances(weights, scale))
    held = sum(t.factor * (t.g.astype(np.float64) - mapping.device.g_min) for t in targets)
    low = scale.spread(scale.low) if mapping.device.cell is Cell.SINGLE else 0.0
    return low + held * scale.spread(mapping.step(scale))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS)
def test_devices_hold_the_weights(name: str, weights: np.ndarray) -> None:
    """To 1e-6 of the largest weight of the tile; targets within the range of the device.

    A tile without a weight of 1e-30 is taken for zero.
    """
    mapping, scale = mapped(name, weights)
    size = np.maximum(scale.spread(scale.high), -scale.spread(scale.low))
    assert (np.abs(back(mapping, scale, weights) - weights) <= 1e-6 * size + 1e-30).all()
    _, targets = mapping.targets(mapping.conductances(weights, scale))
    device = mapping.device
    for target in targets:
        least = -device.g_max if device.cell is Cell.SIGNED else device.g_min
        assert (target.g >= least * (1 - 1e-6)).all() or least < 0
        assert (np.abs(target.g) <= device.g_max * (1 + 1e-6)).all()


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS)
def test_the_negative_weight_swaps_the_pair(weights: np.ndarray) -> None:
    mapping, scale = mapped("pcm", weights)
    _, (plus, minus) = mapping.targets(mapping.conductances(weights, scale))
    _, (other_plus, other_minus) = mapping.targets(mapping.conductances(-weights, scale))
    np.testing.assert_array_equal(plus.g, other_minus.g)
    np.testing.assert_array_equal(minus.g, other_plus.g)
    assert not (np.minimum(plus.g, minus.g)).any(), "one of the pair is idle"


@pytest.mark.parametrize(("levels", "slices"), [(2, 1), (4, 1), (16, 1), (2, 8), (3, 5), (16, 2)])
@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS)
def test_levels_and_digits(levels: int, slices: int, weights: np.ndarray) -> None:
    """Targets lie on the levels; the rest is at most half of a step of the whole number."""
    mapping, scale = mapped("pcm", weights, levels=levels, slices=slices)
    x = mapping.conductances(weights, scale)
    left, targets = mapping.targets(x)
    assert len(targets) == 2 * slices == mapping.per_weight
    span = mapping.device.g_max
    for target in targets:
        steps = target.g * (levels - 1) / span
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)
        assert (np.rint(steps) >= 0).all()
        assert (np.rint(steps) <= levels - 1).all()
    held = sum(t.factor * t.g.astype(np.float64) for t in targets)
    np.testing.assert_allclose(held + left, x, atol=1e-5 * span)
    assert (np.abs(left) <= span / (levels**slices - 1) / 2 + 1e-5 * span).all()


def test_halves_go_to_even() -> None:
    weights = np.array([[4.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    mapping, scale = mapped("gaussian", weights, tile=0, levels=5)
    left, (target,) = mapping.targets(mapping.conductances(weights, scale))
    np.testing.assert_array_equal(target.g * 4, [[4, 0, 2, 2, 0, -2]])
    np.testing.assert_array_equal(left * 4, [[0, 0.5, -0.5, 0.5, -0.5, 0.5]])


@pytest.mark.parametrize(
    ("columns", "tile", "widths"),
    [
        (1000, 512, [500, 500]),
        (576, 512, [288, 288]),
        (512, 512, [512]),
        (7, 3, [3, 2, 2]),
        (1, 512, [1]),
        (5000, 0, [5000]),
        (2048, 512, [512] * 4),
    ],
)
def test_tiles_are_spread_evenly(columns: int, tile: int, widths: list[int]) -> None:
    assert tile_widths(columns, tile) == widths


@given(columns=st.integers(1, 3000), tile=st.integers(1, 600))
def test_tiles_cover_a_row(columns: int, tile: int) -> None:
    widths = tile_widths(columns, tile)
    assert sum(widths) == columns
    assert 0 < min(widths) <= max(widths) <= min(tile, min(widths) + 1)


def test_ranges() -> None:
    weights = np.array([[1, -3, 2, 0.5], [0, 0, 0, -1]], np.float32)
    scale = Range.of(weights, 2, symmetric=True)
    assert scale.high.tolist() == [[3, 2], [0, 1]]
    assert scale.low.tolist() == [[-3, -2], [0, -1]]
    assert scale.spread(scale.high).tolist() == [[3, 3, 2, 2], [0, 0, 1, 1]]
    scale = Range.of(weights, 0, symmetric=False)
    assert (scale.low.tolist(), scale.high.tolist()) == ([[-3], [-1]], [[2], [0]])
    common = Range.common([scale, Range.of(weights * 2, 0, symmetric=False)])
    assert (common.low.tolist(), common.high.tolist()) == ([[-6]], [[4]])
    for bad in (np.nan, np.inf, -np.inf):
        weights[1, 2] = bad
        assert not Range.of(weights, 2, symmetric=True).finite
        assert not Range.of(weights, 2, symmetric=False).finite
