"""A user's own device is a table of constants; what is wrong with it is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from weightsmith import devices
from weightsmith.crossbar.custom import read_device
from weightsmith.errors import UsageError

# The constants of pcm, as a user would write them.
PCM = """
name = "mine"
g_max = 25.0
program = [0.26348, 1.9650, -1.1731]
[drift]
t_0 = 20.0
mean = { slope = -0.0155, offset = 0.0244, low = 0.049, high = 0.1 }
std = { slope = -0.0125, offset = -0.0059, low = 0.008, high = 0.045 }
[read]
t_read = 250e-9
q = { scale = 0.0088, power = 0.65, most = 0.2 }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(PCM)
    return tmp_path / "mine.toml"


def test_a_table_is_as_good_as_a_file_of_ours(path: Path) -> None:
    mine, ours = devices.load(str(path)), devices.load("pcm")
    assert mine.name == "mine"
    g = np.linspace(0, 25, 100, dtype=np.float32)
    noise = np.linspace(-2, 2, 100, dtype=np.float32)
    for one, other in (
        (mine.program(g, noise), ours.program(g, noise)),
        (mine.drift(g, g, 60.0, noise), ours.drift(g, g, 60.0, noise)),
        (mine.read(g, g, 60.0, noise), ours.read(g, g, 60.0, noise)),
    ):
        np.testing.assert_array_equal(one, other)


def test_numbers_are_curves_too(path: Path) -> None:
    path.write_text(
        PCM.replace(PCM[PCM.index("mean") : PCM.index("[read]")], "mean = 0.05\nstd = 0.01\n")
    )
    device = read_device(str(path))
    g = np.linspace(0, 25, 9, dtype=np.float32)
    np.testing.assert_allclose(device.exponent(g, np.ones_like(g)), 0.06, rtol=1e-6)
    json.dumps(device.record(), allow_nan=False)


def test_what_is_left_out_does_not_happen(path: Path) -> None:
    path.write_text('name = "m"\ng_max = 2\nprogram = [0.1]\n')
    device = read_device(str(path))
    assert not device.drifts
    assert not device.reads
    np.testing.assert_allclose(device.sigma(np.zeros(2, np.float32)), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("g_max = 25.0", "", "g_max is missing or wrong"),
        ("g_max = 25.0", "g_max = 25.0\ng_min = 30", "0 <= g_min < g_max"),
        ("g_max = 25.0", 'g_max = "25"', "a number"),
        ("g_max = 25.0", "g_max = nan", "a number"),
        ("g_max = 25.0", "g_max = 25.0\ngmin = 1", "unknown key gmin"),
        ("g_max = 25.0", 'g_max = 25.0\ncell = "triple"', "pair"),
        ("[0.26348, 1.9650, -1.1731]", "[]", "a list of numbers"),
        ("[0.26348, 1.9650, -1.1731]", "0.1", "a list of numbers"),
        ("t_0 = 20.0", "", "t_0 is missing"),
        ("t_0 = 20.0", "t_0 = 20.0\nmu = 1", r"\[drift\] has an unknown key mu"),
        ("slope = -0.0155, ", "", "mean is missing or wrong"),
        ("[drift]", "[drift", "not TOML"),
    ],
)
def test_errors(path: Path, old: str, new: str, said: str) -> None:
    assert old in PCM
    path.write_text(PCM.replace(old, new))
    with pytest.raises(UsageError, match=said) as caught:
        read_device(str(path))
    assert "mine.toml" in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_device(str(tmp_path / "none.toml"))
