"""Devices from programming to the end: faults, redundancy, compensation."""

import numpy as np
import pytest

from weightsmith import devices
from weightsmith.crossbar.bits import flip_bits
from weightsmith.crossbar.cells import Mapping
from weightsmith.crossbar.chip import Chip, Place
from weightsmith.crossbar.device import Cell
from weightsmith.crossbar.faults import Stuck
from weightsmith.crossbar.readback import Copies, Holding, ReadBack, factors
from weightsmith.crossbar.redundancy import Combine
from weightsmith.crossbar.scale import Range
from weightsmith.crossbar.streams import Streams

NAMES = ["gaussian", "pcm", "pcm-hermes", "pcm-afm", "rram-wan", "rram-cmo"]
DAY = 86400.0


def weights(rows: int = 64, columns: int = 512, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.02 * rng.standard_normal((rows, columns))).astype(np.float32)


ONCE = Copies()


def run(name: str, values: np.ndarray, copies: Copies = ONCE, seed: int = 0, **options) -> ReadBack:
    device = devices.load(name)
    chip = Chip(Mapping(device), **options)
    scale = Range.of(values, 512, symmetric=device.cell is not Cell.SINGLE)
    return Holding(chip, Streams(seed, "w"), 0, copies).read_back(values, scale)


@pytest.mark.parametrize("name", NAMES)
def test_without_any_effect_every_bit_stays(name: str) -> None:
    values = weights()
    values[0, :3] = 0.0, -0.0, np.float32(1e-42)
    values[1] = 0
    values[2] = -0.0
    found = run(name, values, program=0.0)
    result = found.weights - found.final
    np.testing.assert_array_equal(result.view(np.uint32), values.view(np.uint32))
    if devices.load(name).drifts:
        found = run(name, values, program=0.0, drift=0.0, seconds=DAY, copies=Copies(3))
        result = found.weights - found.final
        np.testing.assert_array_equal(result.view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seconds", [0.0, DAY])
def test_scale_equivariance(name: str, seconds: float) -> None:
    """f(c W) = c f(W) for c a power of two."""
    if seconds and not devices.load(name).drifts:
        seconds = 0.0
    values = weights()
    for c in (np.float32(8), np.float32(0.25)):
        one, other = (run(name, v, seconds=seconds).final for v in (values, c * values))
        np.testing.assert_array_equal(c * one, other)


def test_faults_happen_as_often_as_asked_and_never_both() -> None:
    """Counted within 4 standard deviations of a binomial; both of the pair, every copy."""
    on, off, shape = 0.0175, 0.0904, (500, 2000)
    pcm, n = devices.load("pcm"), 500 * 2000
    g = np.full(shape, 10, np.float32)
    patterns = []
    for copy, role in ((0, "0+"), (0, "0-"), (1, "0+")):
        bits = Streams(0, "w").bits(copy, role, "stuck", 0, shape)
        found = Stuck(on, off).apply(g, pcm, bits)
        for p, end in ((on, 25), (off, 0)):
            assert abs(np.count_nonzero(found == end) - n * p) < 4 * (n * p * (1 - p)) ** 0.5
        assert np.count_nonzero(found == 10) + np.count_nonzero(np.isin(found, (0, 25))) == n
        patterns.append(found)
    assert (patterns[0] != patterns[1]).any()
    assert (patterns[0] != patterns[2]).any()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_faults(p: float) -> None:
    pcm = devices.load("pcm")
    bits = np.array([[0, 1, 2**31, 2**32 - 1]], np.uint32)
    g = np.full((1, 4), 7, np.float32)
    assert set(Stuck(on=p).apply(g, pcm, bits).ravel()) == {25 if p else 7}
    assert set(Stuck(off=p).apply(g, pcm, bits).ravel()) == {0 if p else 7}


def test_a_stuck_device_knows_no_time() -> None:
    """All devices are stuck: the same weights now and in a year, with 1/f noise or without."""
    values = weights(8, 100)
    stuck = Stuck(on=0.5, off=0.5)
    now = run("pcm", values, stuck=stuck)
    later = run("pcm", values, stuck=stuck, seconds=365 * DAY, read=1.0)
    np.testing.assert_array_equal(now.final, later.final)
    np.testing.assert_array_equal(later.fresh, later.final)


def spread(found: list[np.ndarray]) -> tuple[float, float]:
    """Mean error, and standard deviation over chips, of all weights."""
    errors = np.stack(found).astype(np.float64)
    return errors.mean(), np.sqrt(errors.var(axis=0, ddof=1).mean())


@pytest.mark.parametrize("name", ["gaussian", "pcm"])
def test_fluctuation_falls_as_one_over_the_root_of_copies(name: str) -> None:
    """Over 16 chips, within 2 %; the bias of the clamp at zero stays.

    16 chips times 32,768 weights have a relative standard error of 0.1 % in this deviation.
    """
    values = np.abs(weights())
    once = spread([run(name, values, seed=seed).final for seed in range(16)])
    for copies in (2, 4, 8):
        bias, fluctuation = spread(
            [run(name, values, Copies(copies), seed).final for seed in range(16)]
        )
        assert abs(fluctuation * copies**0.5 / once[1] - 1) < 0.02
        if name == "pcm":
            assert abs(bias / once[0] - 1) < 0.05
            assert bias > 0


def test_the_bias_of_the_clamp_is_reported() -> None:
    """An idle device of pcm is half of a normal distribution: its mean is sigma / sqrt(2 pi)."""
    values = weights(256)
    expected = 0.26348 / np.sqrt(2 * np.pi) / 25
    for copies in (1, 4):
        found = run("pcm", values, Copies(copies))
        assert abs(found.shrinkage / values.size / expected - 1) < 0.1
    assert run("gaussian", values).shrinkage == 0


def test_the_median_drops_stuck_devices_and_the_mean_spreads_them() -> None:
    values, stuck = weights(), Stuck(on=0.01, off=0.01)
    clean = np.linalg.norm(run("pcm", values, Copies(5)).final)
    mean = np.linalg.norm(run("pcm", values, Copies(5), stuck=stuck).final)
    median = np.linalg.norm(run("pcm", values, Copies(5, Combine.MEDIAN), stuck=stuck).final)
    assert median < 1.5 * clean
    assert mean > 2 * median


def test_on_faults_hurt_more_than_off_faults() -> None:
    values = weights()
    norms = [
        np.linalg.norm(run("pcm", values, stuck=stuck).final)
        for stuck in (Stuck(on=0.01), Stuck(off=0.01))
    ]
    assert norms[0] > 2 * norms[1]


def test_compensation_takes_away_the_error_of_gain() -> None:
    values = weights()
    found = run("pcm", values, seconds=30 * DAY)
    aged = found.weights - found.final
    alpha = factors(*found.sizes)
    assert alpha.shape == (64, 1)
    fresh = found.weights - found.fresh
    np.testing.assert_allclose(
        np.abs(alpha * aged).mean(axis=1), np.abs(fresh).mean(axis=1), rtol=1e-5
    )
    assert np.linalg.norm(values - alpha * aged) < 0.6 * np.linalg.norm(values - aged)
    assert factors(np.array([[0.0]]), np.array([[0.0]])) == 1


def test_a_known_case_by_hand() -> None:
    """One weight of a pair, with draws of our own."""

    class One:
        def normals(self, copy, role, effect, first_row, shape):
            drawn = {"0+": 1.0, "0-": 2.0}[role]
            return np.full(shape, drawn, np.float32)

    values = np.array([[0.5]], np.float32)
    chip = Chip(Mapping(devices.load("pcm")))
    found = Holding(chip, One(), 0, ONCE).read_back(values, Range.of(values, 0, symmetric=True))
    held = (25 + 1.05538) - 2 * 0.26348
    np.testing.assert_allclose(found.weights - found.final, 0.5 * held / 25, rtol=1e-6)


def test_flipped_bits() -> None:
    stored = np.zeros((400, 500), np.uint16)
    place = Place(Streams(0, "w"), 0, 0)
    found = flip_bits(stored, 0.01, place)
    n = stored.size
    for bit in range(16):
        count = np.count_nonzero(found & (1 << bit))
        assert abs(count - 0.01 * n) < 5 * (0.01 * n) ** 0.5
    assert (flip_bits(stored, 0.0, place) == stored).all()
    assert (flip_bits(stored, 1.0, place) == 0xFFFF).all()
    assert (flip_bits(stored[7:9], 0.01, Place(place.streams, 0, 7)) == found[7:9]).all()
