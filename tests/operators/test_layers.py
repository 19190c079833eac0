"""layers: which tensors go where, and what config.json then says."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import CONFIG, Trio, decode, random_tensors, read, shell, write_directory

import weightsmith as ws
from weightsmith.errors import Mismatch, UsageError

SHAPES = {
    "model.embed_tokens.weight": (12, 4),
    **{f"model.layers.{n}.mlp.up_proj.weight": (6, 4) for n in range(4)},
    "model.norm.weight": (4,),
    "model.visual.blocks.0.w": (2,),
    "lm_head.weight": (12, 4),
}


def model(directory: Path, seed: int = 0, **config: Any) -> Any:
    tensors = random_tensors(seed, SHAPES)
    write_directory(directory, tensors, config={**CONFIG, "num_hidden_layers": 4, **config})
    return tensors


def layer(number: int) -> str:
    return f"model.layers.{number}.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"drop": "1-2"}, [0, 3]),
        ({"order": "3,1"}, [3, 1]),
        ({"order": "0-2,1-3"}, [0, 1, 2, 1, 2, 3]),
    ],
)
def test_layers_of_one_model(here: Path, options: dict[str, str], order: list[int]) -> None:
    tensors = model(here / "m", layer_types=["a", "b", "c", "d"])
    ws.layers("m", output="out", **options)
    found = read(here / "out")
    others = [name for name in SHAPES if ".layers." not in name]
    expected = {layer(j): tensors[layer(n)] for j, n in enumerate(order)}
    assert found == expected | {name: tensors[name] for name in others}
    config = json.loads((here / "out/config.json").read_text())
    assert config["num_hidden_layers"] == len(order)
    assert config["layer_types"] == ["abcd"[n] for n in order]


def test_layers_of_two_models(here: Path) -> None:
    a, b = model(here / "a"), model(here / "b", 1)
    ws.layers("a", "b", output="out", order="1:2,2:0-1")
    found = read(here / "out")
    assert found[layer(0)] == a[layer(2)]
    assert found[layer(2)] == b[layer(1)]
    assert found["model.embed_tokens.weight"] == a["model.embed_tokens.weight"]
    assert found["lm_head.weight"] == b["lm_head.weight"]
    assert found["model.visual.blocks.0.w"] == a["model.visual.blocks.0.w"]


def test_a_stream_keeps_what_it_repeats(here: Path) -> None:
    model(here / "m")
    ws.layers("m", output="out.safetensors", order="3,0,3")
    script = "weightsmith cat m | weightsmith layers --order 3,0,3 | weightsmith cat -o piped"
    done = shell(script)
    assert done.returncode == 0, done.stderr
    assert read(here / "piped") == read(here / "out.safetensors")
    assert json.loads((here / "piped/config.json").read_text())["num_hidden_layers"] == 3


def test_the_same_order_changes_nothing_but_the_record(here: Path) -> None:
    tensors = model(here / "m")
    ws.layers("m", output="out", order="0-3")
    assert read(here / "out") == tensors
    assert (here / "out/config.json").read_bytes() == (here / "m/config.json").read_bytes()
    _, metadata = decode((here / "out/model.safetensors").read_bytes())
    assert '"order":"1:0-3"' in metadata["weightsmith.provenance"]


@pytest.mark.parametrize(
    ("config", "order", "expected"),
    [
        ({"mlp_only_layers": [1, 3]}, "1,2,3", {"mlp_only_layers": [0, 2]}),
        ({"first_k_dense_replace": 2}, "0-1,1-3", {"first_k_dense_replace": 3}),
        ({"sliding_window_pattern": 2}, "0-1,0-3", {"sliding_window_pattern": 2}),
        ({"text_config": {"num_hidden_layers": 4}}, "0", {"text_config": {"num_hidden_layers": 1}}),
    ],
)
def test_other_keys_follow(here: Path, config: Any, order: str, expected: Any) -> None:
    model(here / "m", **config)
    ws.layers("m", output="out", order=order)
    found = json.loads((here / "out/config.json").read_text())
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("config", "options", "error", "text"),
    [
        ({}, {}, UsageError, "either --order or --drop"),
        ({}, {"order": "0", "drop": "1"}, UsageError, "either --order or --drop"),
        ({}, {"order": "0-4"}, UsageError, "there is no layer 4"),
        ({}, {"order": "0-999999999"}, UsageError, "there is no layer 999999999"),
        ({}, {"order": "2:0"}, UsageError, "there is no model 2"),
        ({}, {"order": "3-1"}, UsageError, "not runs of layers"),
        ({}, {"drop": "0-3"}, UsageError, "no layer is left"),
        ({}, {"order": "0", "select": "*"}, UsageError, "whole model"),
        ({"num_hidden_layers": 3}, {"order": "0"}, Mismatch, "disagree on the number of layers"),
        ({"first_k_dense_replace": 1}, {"order": "1,0"}, UsageError, "first_k_dense_replace"),
        ({"sliding_window_pattern": 2}, {"drop": "0"}, UsageError, "sliding_window_pattern"),
    ],
)
def test_refusals(here: Path, config: Any, options: Any, error: Any, text: str) -> None:
    model(here / "m", **config)
    with pytest.raises(error, match=text):
        ws.layers("m", output="out", **options)


def test_a_hole_and_two_stacks_are_refused(trio: Trio, here: Path) -> None:
    write_directory(here / "hole", random_tensors(0, {"model.layers.1.w": (2,)}))
    with pytest.raises(Mismatch, match="layer 0 is missing"):
        ws.layers("hole", output="out", order="1")
    two = {"encoder.block.0.w": (2,), "decoder.block.0.w": (2,)}
    write_directory(here / "two", random_tensors(0, two))
    with pytest.raises(Mismatch, match="several stacks"):
        ws.layers("two", output="out", order="0")
