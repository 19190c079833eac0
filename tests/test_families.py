"""Every operator on a tiny random model of every family: transformers loads the result again.

No key is missing and none is left over. An operator of the registry that is not known here is run
with its defaults; give it parameters below if it needs some, and say which families it refuses.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import FAMILIES, Family

import weightsmith
from weightsmith.errors import Mismatch, WeightsmithError
from weightsmith.operators.registry import operators

ROLES = ("base", "instruct", "tuned")
PARAMETERS: dict[str, dict[str, Any]] = {
    "experts": {"to": "fused"},
    "interpolate": {"lam": "0.3"},
    "layers": {"order": "0-1,1"},
    "memristor": {"device": "pcm"},
    "ptqtp": {"format": "dense"},
    "slerp": {"t": "0.3"},
}
MIXTURES = {"qwen3_moe", "mixtral", "minimax", "phimoe", "deepseek_v3"}
DECODERS = {"llama", "mistral", "qwen3"}
# Why an operator refuses a family, in its own words.
REFUSED: dict[str, tuple[set[str], str]] = {
    "experts": (FAMILIES.keys() - MIXTURES, "there are no experts"),
    "ptqtp": ({"llama4_text"}, "which dimension of these experts .* got llama4_text"),
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
    if family.kind == "llama4_text":  # [experts, in, out], which ptqtp does not group
        run("experts", [Path("grafted")], "separate", to="separate")
        run("ptqtp", [Path("separate")], "packed")
        run("unpack", [Path("packed")], "unpacked")
        family.load(run("experts", [Path("unpacked")], "fused", to="fused"))
    else:
        run("ptqtp", [Path("grafted")], "packed")
        family.load(run("unpack", [Path("packed")], "unpacked"))


@pytest.mark.parametrize("kind", [*sorted(MIXTURES), "llama4_text"])
def test_fused_and_separate_experts_are_one_model(here: Path, models: Models, kind: str) -> None:
    family, stored = FAMILIES[kind], models(kind)[0]
    forms = ("fused", "separate") if kind in MIXTURES else ("separate", "fused")
    run("experts", [stored], "other", to=forms[0])
    run("experts", [Path("other")], "back", to=forms[1])
    original = family.load(stored).state_dict()
    # Llama 4 has no separate form that transformers knows.
    for target in ("other", "back") if kind in MIXTURES else ("back",):
        found = family.load(Path(target)).state_dict()
        assert found.keys() == original.keys()
        assert all(torch.equal(found[name], original[name]) for name in original)
    if kind in MIXTURES:
        run("ptqtp", [Path("other")], "packed")
        family.load(run("unpack", [Path("packed")], "unpacked"))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_a_grown_vocabulary_loads(here: Path, models: Models, kind: str) -> None:
    family = FAMILIES[kind]
    grown = replace(family, sizes=family.sizes | _vocabulary(family, 264))
    base, _, tuned = models(kind)
    instruct = grown.write(Path("grown"), 7)
    with pytest.raises(Mismatch, match="vocabularies have different sizes"):
        run("graft", [base, instruct, tuned], "out")
    model = family.load(run("graft", [base, instruct, tuned], "out", vocab="instruct"))
    assert len(model.get_input_embeddings().weight) == 264
    model = family.load(run("interpolate", [base, instruct], "less", lam="0.5", vocab="common"))
    assert len(model.get_input_embeddings().weight) == 256


def _vocabulary(family: Family, size: int) -> dict[str, Any]:
    if not family.multimodal:
        return {"vocab_size": size}
    return {"text_config": family.sizes.get("text_config", {}) | {"vocab_size": size}}


def test_a_lost_tensor_would_be_seen(here: Path, models: Models) -> None:
    run("cat", models("llama"), "out", exclude="*.layers.1.mlp.up_proj.weight")
    with pytest.raises(AssertionError, match="missing_keys"):
        FAMILIES["llama"].load(Path("out"))


def test_a_text_update_goes_into_a_multimodal_model(here: Path, models: Models) -> None:
    """As save_pretrained names them: the language model of Gemma 3 within the multimodal one."""
    base, _, tuned = models("gemma3_text")
    instruct, _, _ = models("gemma3")
    rule = r"s/^model\./language_model.model./"
    options = {"rename": rule, "missing": "keep"}
    model = FAMILIES["gemma3"].load(run("graft", [base, instruct, tuned], "out", **options))
    before, after = (FAMILIES["gemma3_text"].load(path) for path in (base, tuned))
    original = FAMILIES["gemma3"].load(instruct)
    grafted, start = (
        each.model.language_model.layers[0].mlp.up_proj.weight.float() for each in (model, original)
    )
    change = (
        after.model.layers[0].mlp.up_proj.weight.float()
        - before.model.layers[0].mlp.up_proj.weight.float()
    )
    assert torch.equal(grafted, (start + change).bfloat16().float())
