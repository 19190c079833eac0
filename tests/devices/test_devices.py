"""Every device's constants, as a table; and what its functions do with given draws."""

import json

import numpy as np
import pytest

from weightsmith import devices
from weightsmith.crossbar.device import Device
from weightsmith.crossbar.streams import Streams
from weightsmith.devices.rram_wan import DAY
from weightsmith.errors import UsageError

X = np.array([0, 0.1, 0.25, 0.5, 0.75, 1], np.float32)
# Standard deviation of programming at X, in the unit of g, from the published polynomials in
# float64. As a part of g_max, pcm has 1.05, 1.79, 2.73, 3.81, 4.31 and 4.22 %.
GOLDEN: dict[tuple[str, float | None], list[float]] = {
    ("bitflip", None): [0.0099995] * 6,
    ("gaussian", None): [0.02] * 6,
    ("pcm", None): [0.26348, 0.448249, 0.6814113, 0.952705, 1.0773613, 1.05538],
    ("pcm-afm", None): [2.5797411, 5.5828077, 7.8229287, 8.4346249, 9.890939, 19.198411],
    ("pcm-hermes", None): [0.1660322, 0.5577182, 0.8887603, 0.9910132, 0.9124422, 1.0926986],
    ("pcm-hermes-single", None): [0.1578182, 0.3693194, 0.6144902, 0.8653129, 0.9748255, 1.0075671],
    ("rram-cmo", None): [0.0008111, 0.0102378, 0.0243779, 0.0479447, 0.0715115, 0.0950783],
    ("rram-wan", None): [0.348, 1.5561815, 2.2582695, 2.0229375, 1.5329883, 1.103],
    ("rram-wan", DAY): [0.701, 2.4473192, 3.7207578, 3.909, 3.3664766, 2.651],
    ("rram-wan", 2 * DAY): [0.782, 2.4101986, 3.6637891, 3.929125, 3.3743516, 2.677],
}
DEVICES = sorted({name for name, _ in GOLDEN} - {"bitflip"})


@pytest.mark.parametrize(("name", "seconds"), GOLDEN)
def test_the_golden_table(name: str, seconds: float | None) -> None:
    """To 1e-6 of the value, or to 1e-7 of the range where large terms cancel in float32."""
    device = devices.load(name).at(seconds)
    found = device.sigma(X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN[name, seconds], rtol=1e-6, atol=1e-7 * device.g_max)


def test_constants_go_into_a_record() -> None:
    for name in devices.names():
        record = json.loads(json.dumps(devices.load(name).record(), allow_nan=False))
        assert record["name"] == name
        assert record["g_max"] > 0
    assert json.dumps(devices.load("rram-wan").at(DAY).record()).count("22.086") == 1


def test_every_device_is_in_the_table() -> None:
    assert {name for name, _ in GOLDEN} == set(devices.names())
    for name in devices.names():
        device = devices.load(name)
        assert device.name == name
        assert device.source
        assert (type(device).__doc__ or "").strip()


@pytest.mark.parametrize("name", DEVICES)
def test_programming_is_the_target_and_sigma_times_the_draw(name: str) -> None:
    device = devices.load(name)
    target = X[1:] * np.float32(device.g_max)
    for draw in (-1.0, 0.0, 0.5, 2.0):
        reached = device.program(target, np.full_like(target, draw))
        assert reached.dtype == np.float32
        expected = np.array(GOLDEN[name, None][1:]) * draw + target
        np.testing.assert_allclose(reached, expected, rtol=1e-6)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("x", [0.2, 0.6, 1.0])
def test_a_million_devices_spread_by_sigma(name: str, x: float) -> None:
    """With the draws that memristor makes: mean and standard deviation within 4 of their errors."""
    device, n = devices.load(name), 1_000_000
    target = np.full((1000, 1000), x * device.g_max, np.float32)
    reached = device.program(target, Streams(0, name).normals(0, "0+", "program", 0, (1000, 1000)))
    sigma = float(device.sigma(np.array([x], np.float32))[0])
    error = reached.astype(np.float64) - target
    assert abs(error.mean()) < 4 * sigma / n**0.5
    assert abs(error.std() / sigma - 1) < 4 / (2 * n) ** 0.5


def test_pcm_does_not_conduct_less_than_nothing() -> None:
    pcm = devices.load("pcm")
    zero = np.zeros(3, np.float32)
    np.testing.assert_allclose(
        pcm.program(zero, np.array([-3, 0, 1], np.float32)), [0, 0, 0.26348], rtol=1e-6
    )


def at(device: Device, x: float) -> np.ndarray:
    return np.array([x * device.g_max], np.float32)


@pytest.mark.parametrize(
    ("x", "mean", "std"),
    # clip(-0.0155 ln x + 0.0244, 0.049, 0.1) and clip(-0.0125 ln x - 0.0059, 0.008, 0.045)
    [(1.0, 0.049, 0.008), (0.5, 0.049, 0.008), (0.1, 0.0600901, 0.0228823), (1e-3, 0.1, 0.045)],
)
def test_drift_exponents_of_pcm(x: float, mean: float, std: float) -> None:
    pcm = devices.load("pcm")
    for draw in (0.0, 1.0, -1.0, -4.0):
        nu = pcm.exponent(at(pcm, x), np.array([draw], np.float32))
        np.testing.assert_allclose(nu, abs(mean + draw * std), rtol=0, atol=1e-7)


@pytest.mark.parametrize("seconds", [3600, 86400])
def test_drift_is_a_power_of_time(seconds: float) -> None:
    """At nu = 0.05."""
    left = (1 + seconds / 20) ** -0.05
    pcm = devices.load("pcm")
    draw = np.array([(0.05 - 0.049) / 0.008], np.float32)
    found = pcm.drift(at(pcm, 0.5), at(pcm, 0.5), seconds, draw)
    np.testing.assert_allclose(found, 12.5 * left, rtol=2e-6)
    stronger = pcm.drift(at(pcm, 0.5), at(pcm, 0.5), seconds, draw, strength=2.0)
    np.testing.assert_allclose(stronger, 12.5 * left**2, rtol=4e-6)


def test_read_noise_of_pcm() -> None:
    """q = 0.0088 / 0.5^0.65, and the square root of ln((20 + 250e-9) / 500e-9)."""
    pcm = devices.load("pcm")
    found = pcm.read(at(pcm, 0.5), at(pcm, 0.4), 0.0, np.ones(1, np.float32))
    expected = 10.0 * (1 + 0.0088 / 0.5**0.65 * np.log((20 + 250e-9) / 500e-9) ** 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_hermes_changes_its_law_at_a_knee() -> None:
    hermes = devices.load("pcm-hermes")
    zero = np.zeros(1, np.float32)
    for x, nu in ((0.01, 0.13), (0.09, -0.0387 * np.log(0.09) - 0.0182), (0.5, 0.0564)):
        np.testing.assert_allclose(hermes.exponent(at(hermes, x), zero), nu, rtol=2e-6)


def test_cmo_relaxes_by_the_logarithm_of_time() -> None:
    cmo = devices.load("rram-cmo")
    g = np.array([50.0], np.float32)
    for draw in (0.0, 1.0):
        moved = cmo.drift(g, g, DAY, np.array([draw], np.float32))
        ln_t = np.log(DAY)
        expected = 50 - 0.08900206 * ln_t + draw * (0.41183342 + 0.04201137 * ln_t)
        np.testing.assert_allclose(moved, expected, rtol=1e-6)
    assert cmo.limit(np.array([1.0, 99.0], np.float32)).tolist() == [9.0, np.float32(88.2)]


def test_afm_drops_what_is_nearly_zero() -> None:
    afm = devices.load("pcm-afm")
    found = afm.program(np.array([0.5, -0.5, 0.7, -0.7], np.float32), np.ones(4, np.float32))
    assert found[:2].tolist() == [0, 0]
    sigma = afm.sigma(np.array([0.7 / 180], np.float32))[0]
    np.testing.assert_allclose(found[2:], [0.7 + sigma, -0.7 + sigma], rtol=1e-6)


def test_two_fits_to_pcm_agree() -> None:
    """CrossSim's polynomial for the same kind of device (Joshi), within 2 % on 5 to 25 uS."""
    g = np.linspace(5, 25, 50, dtype=np.float32)
    joshi = -0.00178767 * g**2 + 0.07585724 * g + 0.28638599
    np.testing.assert_allclose(devices.load("pcm").sigma(g / 25), joshi, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "seconds", "said"),
    [
        ("rram-wan", 3600, "1s, 1d or 2d"),
        ("rram-wan", 0, "1s, 1d or 2d"),
        ("rram-cmo", 0.5, "between programming and 1 s"),
        ("gaussian", 60, "no data on time"),
        ("pcm-afm", 60, "no data on time"),
    ],
)
def test_times_without_data_are_refused(name: str, seconds: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        devices.load(name).at(seconds)


def test_the_error_for_an_unknown_device_names_all() -> None:
    with pytest.raises(UsageError, match=r"no such device; expected one of bitflip, .*NAME\.toml"):
        devices.load("flux-capacitor")
