"""sweep: one line for each point, and the same error as the operator's own report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Trio, assert_fails, weightsmith

from weightsmith.report.curves import draw_curves
from weightsmith.report.grid import axes


def lines(*arguments: object) -> list[dict[str, Any]]:
    done = weightsmith("sweep", "memristor", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_for_every_point(trio: Trio) -> None:
    found = lines(trio.base, "sigma=0:0.02:3", "seed=0,1")
    assert [(line["sigma"], line["seed"]) for line in found] == [
        (sigma, seed) for sigma in (0, 0.01, 0.02) for seed in (0, 1)
    ]
    assert [line["error"] for line in found[:2]] == [0, 0]
    assert "snr_db" not in found[0]
    # The same draws, twice as large; and another chip.
    assert found[4]["error"] == pytest.approx(2 * found[2]["error"], rel=1e-5)
    assert found[4]["error"] != found[5]["error"]
    assert found[4]["snr_db"] == pytest.approx(-20 * np.log10(found[4]["error"]))


def test_the_error_is_that_of_the_operator(trio: Trio, here: Path) -> None:
    (line,) = lines(trio.base, "device=pcm", "copies=2", "--select", "*.layers.0.*")
    options = ("--device", "pcm", "--copies", 2, "--select", "*.layers.0.*", "--json", "-o", "out")
    report = json.loads(weightsmith("memristor", trio.base, *options).stdout)
    squares = [(f["norm"] ** 2, (f["norm"] * f["error"]) ** 2) for f in report["figures"].values()]
    weights, lost = (sum(each) for each in zip(*squares, strict=True))
    assert line["error"] == pytest.approx((lost / weights) ** 0.5)
    assert sorted(path.name for path in here.iterdir()) == ["out"]


def test_names_are_those_of_the_options(trio: Trio) -> None:
    for name in ("cells-per-weight", "cells_per_weight"):
        (line,) = lines(trio.base, "device=pcm", "levels=4", f"{name}=2")
        assert line[name] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["graft", "base", "a=1"], "graft cannot be swept"),
        (["cat", "base", "a=1"], "cat cannot be swept"),
        (["memristor", "base", "voltage=1"], "no option to sweep called voltage"),
        (["memristor", "base", "sigma"], "no axis of a sweep"),
        (["memristor", "base", "sigma=x"], "not a number"),
        (["memristor", "base", "device=rram-wan", "time=1s,1h"], "no data for that time"),
        (["memristor", "base", "sigma=1", "--plot", "x.pdf"], "a name that ends in"),
    ],
)
def test_errors_come_before_the_first_line(trio: Trio, arguments: list[str], said: str) -> None:
    arguments = [str(trio.base) if text == "base" else text for text in arguments]
    done = weightsmith("sweep", *arguments)
    assert_fails(done, 2, said)
    assert done.stdout == b""


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_plots(trio: Trio, here: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    target = f"curves.{kind}"
    arguments = (trio.base, "sigma=0,0.1", "copies=1,2", "seed=0,1", "-q", "--plot", target)
    assert lines(*arguments) == []
    first = Path(target).read_bytes()
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert_fails(weightsmith("sweep", "memristor", *arguments), 2, "the target exists")
    assert lines(*arguments, "--force") == []
    assert Path(target).read_bytes() == first


def test_seeds_become_a_band_and_other_axes_curves() -> None:
    pytest.importorskip("matplotlib")
    given = axes(["device=pcm", "sigma=0,0.1", "copies=1,2", "seed=0,1"])
    points = [
        {
            "operator": "memristor",
            "device": "pcm",
            "sigma": s,
            "copies": c,
            "seed": seed,
            "perplexity": 30 + s + c + seed,
        }
        for s in (0, 0.1)
        for c in (1, 2)
        for seed in (0, 1)
    ]
    text = draw_curves(given, points, "svg").decode()
    for part in ("perplexity", "sigma", "copies 1", "copies 2", "sweep of memristor, device pcm"):
        assert f"<!-- {part} -->" in text
    assert "seed" not in text


def test_perplexity_is_that_of_the_written_model(here: Path) -> None:
    models = pytest.importorskip("models")
    from weightsmith.inference.perplexity import perplexity

    model = models.tiny_model(here / "model")
    Path("text.txt").write_text("It is a truth universally acknowledged. " * 5)
    options = ("--perplexity", "text.txt", "--tokens", 150, "--window", 50)
    clean, noisy = lines(model, "sigma=0,0.2", "seed=3", *options)
    text = Path("text.txt").read_text()
    assert clean["perplexity"] == perplexity(model, text, tokens=150, window=50).perplexity
    weightsmith("memristor", model, "--sigma", "0.2", "--seed", 3, "-o", "out")
    assert noisy["perplexity"] == perplexity("out", text, tokens=150, window=50).perplexity
    assert noisy["error"] > 0
    assert sorted(path.name for path in here.iterdir()) == ["model", "out", "text.txt"]
    done = weightsmith("sweep", "memristor", model, "sigma=0", "--perplexity", "none.txt")
    assert_fails(done, 1, "none.txt")
