"""Recipes against the results of mergekit 0.1.5: recorded ones, and mergekit itself (make peers).

Record anew: WEIGHTSMITH_RECORD=1 make peers.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mergekit_models import HERE, masks, values, write_models
from support import decode, encode, read, weightsmith

ROOT = HERE.parents[1]
EXPECTED = HERE / "expected.safetensors"
RECIPES = sorted(path.stem for path in HERE.glob("*.yml"))
DENSITIES = (0.53, 0.6)  # of both dare recipes


def recorded() -> dict[str, dict[str, np.ndarray]]:
    """By recipe, what mergekit has made of it."""
    tensors, _ = decode(EXPECTED.read_bytes())
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in values(tensors).items():
        recipe, _, name = key.partition("/")
        found.setdefault(recipe, {})[name] = value
    return found


def assert_one_rounding(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], size: dict[str, np.ndarray]
) -> float:
    """Equal but for float32 rounding, which can tip the one rounding to bfloat16 over.

    Both are roundings of numbers that differ by some 2^-24 of the terms, of which none is larger
    than `size`, in each of at most 16 operations; so they lie at most one bfloat16 step apart.

    Returns:
        The share of elements that differ.
    """
    assert ours.keys() == theirs.keys()
    different = 0
    for name, a in ours.items():
        b = theirs[name]
        _, exponent = np.frexp(np.maximum(np.abs(a), np.abs(b)))
        step = np.ldexp(1.0, exponent - 8)
        noise = 16 * 2.0**-24 * size[name]
        assert np.all(np.abs(a.astype(np.float64) - b) <= step + noise), name
        different += np.count_nonzero(a != b)
    return different / sum(a.size for a in ours.values())


def largest(made: dict[str, dict[str, np.ndarray]], names: list[str]) -> dict[str, np.ndarray]:
    """A bound on the terms of any of the recipes: four times the largest weight of the model."""
    bound = 4 * max(float(np.abs(v).max()) for model in made.values() for v in model.values())
    return {name: np.float64(bound) for name in names}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_gives_what_mergekit_gave(recipe: str, here: Path) -> None:
    made = {role: values(tensors) for role, tensors in write_models(here).items()}
    done = weightsmith("run", HERE / f"{recipe}.yml", "-o", "out")
    assert done.returncode == 0, done.stderr.decode()
    ours, theirs = values(read(here / "out")), recorded()[recipe]
    # A wrong last bit in every coefficient would tip over far more.
    assert assert_one_rounding(ours, theirs, largest(made, list(theirs))) < 0.01


@pytest.mark.peers
def test_mergekit_gives_what_was_recorded(here: Path) -> None:
    made = {role: values(tensors) for role, tensors in write_models(here).items()}
    kept = {k: ("F32", m.shape, m.tobytes()) for k, m in masks(DENSITIES).items()}
    Path("masks.safetensors").write_bytes(encode(kept))
    pairs = [part for r in RECIPES for part in (HERE / f"{r}.yml", f"theirs-{r}")]
    python = ROOT / "build" / "bench-venv" / "bin" / "python"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [python, HERE / "peer.py", "masks.safetensors", *pairs], check=True, env=environment
    )
    found = {recipe: read(here / f"theirs-{recipe}") for recipe in RECIPES}
    if os.environ.get("WEIGHTSMITH_RECORD"):
        every = {f"{r}/{name}": t for r, tensors in found.items() for name, t in tensors.items()}
        EXPECTED.write_bytes(encode(every))
    for recipe, tensors in found.items():
        done = weightsmith("run", HERE / f"{recipe}.yml", "-o", f"ours-{recipe}")
        assert done.returncode == 0, done.stderr.decode()
        theirs = values(tensors)
        share = assert_one_rounding(
            values(read(here / f"ours-{recipe}")), theirs, largest(made, list(theirs))
        )
        sys.stderr.write(f"{recipe}: {100 * share:.3f} % of the elements differ by one step\n")
        before = recorded()[recipe]
        assert all(np.array_equal(before[name], value) for name, value in theirs.items())
