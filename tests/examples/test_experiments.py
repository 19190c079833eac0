"""The five experiments run from end to end, on models that are hardly trained and few problems."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import experiment
import pytest
from experiment import main
from tiny import RECIPES, make

pytestmark = pytest.mark.slow

SMALL: dict[str, dict[str, Any]] = {
    "shadow_ft": {"PROBLEMS": 2, "SCALES": (0.0, 1.0)},
    "interpolation": {"SAMPLES": 4, "LAMBDAS": (0, 0.8, 1), "LAYERS": ("0..1",)},
    "timber": {"SAMPLES": 4, "GAMMAS": (0, 1)},
    "trit_planes": {"PROBLEMS": 2, "TEXTS": 8},
    "memristors": {"PROBLEMS": 2, "SIGMAS": (0, 0.02), "CHIPS": 1},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained models of one seed, where the experiments look for them."""
    root = tmp_path_factory.mktemp("reproduce")
    for name in RECIPES:
        make(root / "trio", name, seed=0, shorten=1000)
    return root


def shrunk(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """An experiment with few points, few problems and few ways."""
    module = import_module(name)
    for constant, value in SMALL[name].items():
        patch.setattr(module, constant, value)
    if isinstance(getattr(module, "PROBLEMS", None), list):
        patch.setattr(module, "PROBLEMS", module.PROBLEMS[:2])
    if name == "trit_planes":
        kinds = {(bool(way.bits), way.calibrated, *way.options): way for way in module.WAYS}
        patch.setattr(module, "WAYS", [*kinds.values()])
    return module


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_runs(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = shrunk(name, monkeypatch)
    monkeypatch.setattr("sys.argv", [name, str(work), "--seeds", "0"])
    monkeypatch.setattr(experiment, "SEEDS", (0,))
    main(name, module.run, module.draw, module.table, module.__doc__)
    lines = [json.loads(line) for line in (work / f"{name}.jsonl").read_text().splitlines()]
    assert len(lines) > 3
    assert (work / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    head, rule, *rows = (work / f"{name}.md").read_text().splitlines()
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert len(rows) > 2
    # A second run finds everything there.
    before = (work / f"{name}.jsonl").read_bytes()
    main(name, module.run, module.draw, module.table, module.__doc__)
    assert (work / f"{name}.jsonl").read_bytes() == before
