"""Every operator on a tiny random model of every family: transformers loads the result again.

No key is missing and none is left over. An operator of the registry that is not known here is run
with its defaults; give it parameters below if it needs some, and say which families it refuses.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_models import FAMILIES, Family

import weightsmith
from weightsmith.errors import WeightsmithError
from weightsmith.operators.registry import operators

ROLES = ("base", "instruct", "tuned")
PARAMETERS: dict[str, dict[str, Any]] = {
    "experts": {"to": "fused"},
    "interpolate": {"lam": "0.3"},
    "memristor": {"device": "pcm"},
    "ptqtp": {"format": "dense"},
}
MIXTURES = {"qwen3_moe", "mixtral", "deepseek_v3"}
DECODERS = {"llama", "mistral", "qwen3"}
# Why an operator refuses a family, in its own words.
REFUSED: dict[str, tuple[set[str], str]] = {
    "experts": (FAMILIES.keys() - MIXTURES, "there are no experts"),
    "rotate": (FAMILIES.keys() - DECODERS, "no table says .* got {family}"),
    "unpack": (set(FAMILIES), "nothing is packed"),  # see below for what is
}
Models = Callable[[str], list[Path]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Three checkpoints of a family, made when they are first asked for."""
    made: dict[str, list[Path]] = {}

    def of(family: str) -> list[Path]:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            made[family] = [
                FAMILIES[family].write(root / role, seed) for seed, role in enumerate(ROLES)
            ]
        return made[family]

    return of


def run(name: str, paths: list[Path], target: str, **parameters: Any) -> Path:
    inputs = [given for given in operators()[name].inputs if not given.flag]
    getattr(weightsmith, name)(*paths[: len(inputs)], output=target, **parameters)
    return Path(target)


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.kind)
def test_what_an_operator_writes_loads_again(
    here: Path, models: Models, family: Family, name: str
) -> None:
    paths = models(family.kind)
    refusing, why = REFUSED.get(name, (set(), ""))
    if family.kind in refusing:
        with pytest.raises(WeightsmithError, match=why.format(family=family.kind)):
            run(name, paths, "out", **PARAMETERS.get(name, {}))
    else:
        family.load(run(name, paths, "out", **PARAMETERS.get(name, {})))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.kind)
def test_chains_end_in_a_model(here: Path, models: Models, family: Family) -> None:
    base, instruct, tuned = models(family.kind)
    run("delta", [base, tuned], "delta")
    family.load(run("graft", [base, instruct, Path("delta")], "grafted"))
    run("ptqtp", [Path("grafted")], "packed")
    family.load(run("unpack", [Path("packed")], "unpacked"))
    if family.kind in MIXTURES:
        run("experts", [Path("unpacked")], "fused", to="fused")
        family.load(run("experts", [Path("fused")], "separate", to="separate"))
        run("ptqtp", [Path("fused")], "packed-fused")
        family.load(run("unpack", [Path("packed-fused")], "unpacked-fused"))
