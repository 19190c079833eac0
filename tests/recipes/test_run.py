"""run: what recipes say, what is refused by its name, what is passed over."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mergekit_models import CONFIG, SHAPES, write_models
from support import Tensors, assert_fails, decode, read, weightsmith

from weightsmith.errors import UsageError
from weightsmith.recipes.mergekit import read as read_recipe

LINEAR: dict[str, Any] = {
    "merge_method": "linear",
    "parameters": {"weight": 1},
    "models": [{"model": "a"}, {"model": "b"}],
}


@pytest.fixture
def made(here: Path) -> dict[str, Tensors]:
    return write_models(here)


def carried_out(recipe: dict[str, Any], *options: object) -> Any:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    return weightsmith("run", "recipe.yaml", "-o", "out", *options)


def test_a_recipe_is_its_operator(made: dict[str, Tensors], here: Path) -> None:
    done = carried_out(LINEAR)
    assert done.returncode == 0, done.stderr
    weightsmith("linear", "a", "b", "-o", "mean")
    assert read(here / "out") == read(here / "mean")
    assert json.loads((here / "out/config.json").read_text()) == CONFIG
    _, metadata = decode((here / "out/model.safetensors").read_bytes())
    record = json.loads(metadata["weightsmith.provenance"])
    assert record["parameters"]["models"] == [{"model": "model 1"}, {"model": "model 2"}]
    assert str(here) not in metadata["weightsmith.provenance"]


def test_dare_takes_the_seed(made: dict[str, Tensors], here: Path) -> None:
    recipe = {
        "merge_method": "dare_ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1, "density": 0.5}}],
        "parameters": {"rescale": False},
    }
    done = carried_out(recipe, "--seed", "5")
    assert done.returncode == 0, done.stderr
    options = ("--density", "0.5", "--seed", "5", "--rescale", "none", "--elect")
    weightsmith("dare", "base", "a", *options, "-o", "dare")
    assert read(here / "out") == read(here / "dare")


def test_passthrough_renumbers(made: dict[str, Tensors], here: Path) -> None:
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [0, 3]}]},
    ]
    carried_out({"merge_method": "passthrough", "slices": slices})
    weightsmith("layers", "a", "b", "--order", "1:0-1,2:0-2", "-o", "layers")
    assert read(here / "out") == read(here / "layers")
    assert json.loads((here / "out/config.json").read_text())["num_hidden_layers"] == 5


def test_dtypes(made: dict[str, Tensors], here: Path) -> None:
    carried_out(LINEAR | {"dtype": "float32"})
    assert {dtype for dtype, _, _ in read(here / "out").values()} == {"F32"}
    carried_out(LINEAR | {"dtype": "float32", "out_dtype": "float16"}, "-f")
    assert {dtype for dtype, _, _ in read(here / "out").values()} == {"F16"}
    carried_out(LINEAR | {"dtype": "float32"}, "-f", "--dtype", "bf16")
    assert {dtype for dtype, _, _ in read(here / "out").values()} == {"BF16"}


def test_what_mergekit_passes_over_is_said(made: dict[str, Tensors]) -> None:
    recipe = LINEAR | {"name": "mine", "parameters": {"weight": 1, "density": 0.5}}
    done = carried_out(recipe)
    assert done.returncode == 0
    assert b"name in the recipe is unknown: ignored" in done.stderr
    assert b"parameters.density means nothing to the method: ignored" in done.stderr


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"merge_method": "karcher"}, "merge_method 'karcher' is not supported"),
        ({"modules": {}}, "modules in the recipe is not supported"),
        ({"tokenizer": {"source": "union"}}, "tokenizer in the recipe"),
        ({"chat_template": "auto"}, "chat_template in the recipe"),
        ({"tokenizer_source": "c"}, "tokenizer_source: 'c'"),
        ({"models": None}, "either models or slices"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "one model stands twice"),
        ({"models": [{"model": "a+lora"}]}, "model+adapter is not supported"),
        ({"models": [{"parameters": {}}]}, "models[0] has no model"),
        ({"dtype": "float8"}, "dtype: 'float8'"),
        ({"parameters": {}}, "the recipe gives no weight"),
        ({"parameters": {"weight": "much"}}, "parameter weight: not a number"),
        ({"parameters": {"weight": [{"filtre": "x", "value": 1}]}}, "is not a filter"),
        ({"parameters": {"weight": 1, "normalize": [0, 1]}}, "normalize: only one value"),
        ({"merge_method": "slerp"}, "no base_model"),
        ({"merge_method": "ties", "base_model": "base"}, None),
    ],
)
def test_refusals(made: dict[str, Tensors], change: dict[str, Any], text: str | None) -> None:
    if text == "tokenizer_source: 'c'":
        Path("c/tokenizer.json").write_text("{}")
    done = carried_out(LINEAR | change)
    if text is None:
        assert done.returncode == 0
    else:
        assert_fails(done, 2, text)


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        (([0, 2], [0, 3]), "of different lengths"),
        (([2, 4], [0, 2]), "at most 3 layers"),
        (([2, 1], [0, 1]), "slices[0].sources[0].layer_range"),
    ],
)
def test_layer_ranges(made: dict[str, Tensors], ranges: Any, text: str) -> None:
    sources = [
        {"model": name, "layer_range": given} for name, given in zip("ab", ranges, strict=True)
    ]
    recipe = {k: v for k, v in LINEAR.items() if k != "models"}
    assert_fails(carried_out(recipe | {"slices": [{"sources": sources}]}), 2, text)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"a: [", 3, "not valid YAML"),
        (b"- 1", 2, "a recipe is a YAML mapping"),
        (b"a: 1\n---\nb: 2\n", 3, "not valid YAML"),
        (b"stages: 1", 2, "not a recipe of a known kind"),
        (b"!!python/object/apply:os.getcwd []", 3, "not valid YAML"),
    ],
)
def test_files_that_are_no_recipes(here: Path, text: bytes, code: int, said: str) -> None:
    (here / "r.yaml").write_bytes(text)
    assert_fails(weightsmith("run", "r.yaml", "-o", "out"), code, said)


def test_names_of_the_hub(here: Path) -> None:
    given = {"model": {"path": "owner/name", "revision": "v1"}}
    models = [{"model": "owner/name"}, {"model": given}, {"model": "./here/no"}]
    recipe = read_recipe(LINEAR | {"models": models}, {}, 0)
    assert recipe.addresses == ("hf://owner/name", "hf://owner/name@v1", "./here/no")
    with pytest.raises(UsageError, match="lora of a model"):
        read_recipe(LINEAR | {"models": [{"model": {"model": "a/b", "lora": "c/d"}}]}, {}, 0)


def test_every_tensor_is_accounted_for(made: dict[str, Tensors]) -> None:
    slices = [{"sources": [{"model": "a", "layer_range": [1, 3]}]}]
    Path("r.yaml").write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": slices}))
    done = weightsmith("run", "r.yaml", "-o", "out", "--json")
    report = json.loads(done.stdout)
    assert len(report["changed"]) + len(report["copied"]) + len(report["skipped"]) == len(SHAPES)
