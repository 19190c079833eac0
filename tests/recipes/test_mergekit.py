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


def run_mergekit(recipes: list[Path]) -> None:
    """Into theirs-NAME, with the masks that dare has with seed 0."""
    kept = {k: ("F32", m.shape, m.tobytes()) for k, m in masks(DENSITIES).items()}
    Path("masks.safetensors").write_bytes(encode(kept))
    pairs = [part for recipe in recipes for part in (recipe, f"theirs-{recipe.stem}")]
    python = ROOT / "build" / "bench-venv" / "bin" / "python"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [python, HERE / "peer.py", "masks.safetensors", *pairs], check=True, env=environment
    )


@pytest.mark.peers
@pytest.mark.parametrize("recipe", ["task_arithmetic", "ties", "dare_ties"])
def test_what_bfloat16_arithmetic_costs_mergekit(recipe: str, here: Path) -> None:
    """With dtype: bfloat16 it rounds at every step, and ties meets equal magnitudes."""
    base = values(write_models(here)["base"])
    text = (HERE / f"{recipe}.yml").read_text().replace("out_dtype: bfloat16\n", "")
    text = text.replace("dtype: float32", "dtype: bfloat16").replace("32\n", "\n")
    Path(f"{recipe}.yml").write_text(text)
    run_mergekit([Path(f"{recipe}.yml")])
    done = weightsmith("run", f"{recipe}.yml", "-o", "ours")
    assert done.returncode == 0, done.stderr.decode()
    ours, theirs = values(read(here / "ours")), values(read(here / f"theirs-{recipe}"))
    added, lost = (
        sum(float(np.square(ours[n] - other[n]).sum()) for n in ours) for other in (base, theirs)
    )
    share = sum(np.count_nonzero(ours[n] != theirs[n]) for n in ours) / sum(
        value.size for value in ours.values()
    )
    sys.stderr.write(
        f"{recipe} in bfloat16: {100 * share:.2f} % of the elements differ, "
        f"by {100 * (lost / added) ** 0.5:.2f} % of the norm of what is added\n"
    )
    # Some ten roundings of 2^-9 each, and for ties the few that lie at the threshold.
    assert lost < (0.05 if recipe == "ties" else 0.02) ** 2 * added


@pytest.mark.peers
def test_mergekit_gives_what_was_recorded(here: Path) -> None:
    made = {role: values(tensors) for role, tensors in write_models(here).items()}
    run_mergekit([HERE / f"{recipe}.yml" for recipe in RECIPES])
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
