"""What does not match: refused before anything is written, decided by an option."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    CONFIG,
    Tensors,
    assert_fails,
    decode,
    encode,
    from_bf16,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

import weightsmith as ours

HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture
def models(here: Path) -> dict[str, Tensors]:
    """Tensors of a and b, to be changed and written."""
    return {"a": random_tensors(1), "b": random_tensors(2)}


def blend(models: dict[str, Tensors], *options: str, **directory: dict):
    for role, tensors in models.items():
        if not Path(role).exists():
            write_directory(Path(role), tensors, **directory.get(role, {}))
    return weightsmith("interpolate", "a", "b", "--lambda", "0.5", "-o", "out", *options)


def half(a: bytes, b: bytes) -> bytes:
    p = np.float32(0.5)
    return to_bf16(p * from_bf16(a) + p * from_bf16(b)).tobytes()


def test_missing_tensors_are_refused_and_counted(models: dict[str, Tensors]) -> None:
    del models["b"][NORM]
    del models["a"]["model.layers.1.mlp.up_proj.weight"]
    done = blend(models)
    assert_fails(done, 4, "missing in one input, and 1 more", "--missing keep")
    assert not Path("out").exists()


@pytest.mark.parametrize(("policy", "kept"), [("keep", True), ("drop", False)])
def test_missing_policies(models: dict[str, Tensors], policy: str, kept: bool) -> None:
    only_b = "model.layers.1.mlp.up_proj.weight"
    del models["b"][NORM]
    del models["a"][only_b]
    done = blend(models, "--missing", policy, "--json")
    report = json.loads(done.stdout)
    found = read(Path("out"))
    assert only_b not in found
    assert report["skipped"][only_b] == "not in a"
    assert (NORM in found) == kept
    if kept:
        assert found[NORM] == models["a"][NORM]
        assert NORM in report["copied"]
    else:
        assert report["skipped"][NORM] == "not in b"


def test_every_tensor_is_accounted_for(models: dict[str, Tensors]) -> None:
    del models["b"][NORM]
    done = blend(models, "--missing", "keep", "--exclude", "*.layers.0.*", "--json")
    report = json.loads(done.stdout)
    accounted = [*report["changed"], *report["copied"], *report["skipped"]]
    assert sorted(accounted) == sorted(models["a"])


def test_shapes_that_differ(models: dict[str, Tensors]) -> None:
    models["b"]["model.layers.0.mlp.up_proj.weight"] = ("BF16", (24, 56), bytes(24 * 56 * 2))
    done = blend(models)
    assert_fails(done, 4, "shapes do not match", "up_proj", "[56, 24]", "[24, 56]")
    assert not Path("out").exists()


@pytest.mark.parametrize("dtype", ["I64", "U8", "F8_E4M3", "F64"])
def test_opaque_dtypes(models: dict[str, Tensors], dtype: str) -> None:
    width = {"I64": 8, "F64": 8}.get(dtype, 1)
    for role, fill in (("a", b"\1"), ("b", b"\2")):
        models[role]["extra"] = (dtype, (3,), fill * 3 * width)
    assert_fails(blend(models), 4, f"cannot compute on {dtype}", "tensor extra", "--opaque")
    assert blend(models, "--opaque", "copy").returncode == 0
    assert read(Path("out"))["extra"] == (dtype, (3,), b"\1" * 3 * width)
    assert blend(models, "--opaque", "drop", "--force").returncode == 0
    assert "extra" not in read(Path("out"))


def test_float_and_integer_do_not_go_together(models: dict[str, Tensors]) -> None:
    models["b"][NORM] = ("I64", (24,), bytes(24 * 8))
    assert_fails(blend(models, "--opaque", "copy"), 4, "dtypes do not go together", NORM, "I64")


@pytest.mark.parametrize(("policy", "rows"), [("common", 96), ("a", 96), ("b", 100)])
def test_vocabulary_rows(models: dict[str, Tensors], policy: str, rows: int) -> None:
    larger = random_tensors(9, {EMBEDDING: (100, 24), HEAD: (100, 24)})
    models["b"] |= larger
    assert_fails(blend(models), 4, "vocabularies have different sizes", "96 rows", "--vocab")
    done = blend(models, "--vocab", policy, "--json")
    found = read(Path("out"))
    for name in (EMBEDDING, HEAD):
        dtype, shape, data = found[name]
        assert (dtype, shape) == ("BF16", (rows, 24))
        common = 96 * 24 * 2
        assert data[:common] == half(models["a"][name][2], larger[name][2][:common])
        assert data[common:] == larger[name][2][common : rows * 24 * 2]
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == rows
    assert bool(json.loads(done.stdout)["notes"]) == (rows > 96)


def test_vocab_names_an_input(models: dict[str, Tensors]) -> None:
    models["b"][EMBEDDING] = ("BF16", (100, 24), bytes(4800))
    assert_fails(blend(models, "--vocab", "c"), 2, "--vocab c", "a, b, common, error")


def test_tied_head_in_one_input(models: dict[str, Tensors]) -> None:
    del models["b"][HEAD]
    assert_fails(blend(models), 4, "tied to the embedding", HEAD, "--lm-head")
    assert blend(models, "--lm-head", "untie").returncode == 0
    assert read(Path("out"))[HEAD][2] == half(models["a"][HEAD][2], models["b"][EMBEDDING][2])
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False
    assert blend(models, "--lm-head", "tie", "--force").returncode == 0
    assert HEAD not in read(Path("out"))
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("command", "inputs", "options", "untied"),
    [
        ("interpolate", "ab", {"lam": 0.5}, True),
        ("interpolate", "ab", {"lam": 0.5, "exclude": HEAD}, True),
        ("interpolate", "ab", {"lam": 0.5, "exclude": [HEAD, EMBEDDING]}, False),
        ("memristor", "a", {}, False),
        ("memristor", "a", {"also": HEAD}, True),
        ("timber", "ba", {}, True),
        ("cat", "a", {"dtype": "fp32"}, False),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_stored_head_is_not_lost_to_a_tied_config(
    models: dict[str, Tensors],
    command: str,
    inputs: str,
    options: dict[str, Any],
    untied: bool,
    inside: bool,
) -> None:
    tied = {"tie_word_embeddings": True}
    config = {"model_type": "gemma3", "text_config": tied} if inside else CONFIG | tied
    for role, tensors in models.items():
        write_directory(Path(role), tensors, config=config)
    getattr(ours, command)(*inputs, output="out", **options)
    assert HEAD in read(Path("out"))
    found = json.loads(Path("out/config.json").read_text())
    where = found["text_config"] if inside else found
    assert where["tie_word_embeddings"] is not untied


def test_vocabulary_growth_in_a_graft(models: dict[str, Tensors]) -> None:
    """New tokens of INSTRUCT keep its rows; those that TUNED knows are grafted."""
    models["tuned"] = random_tensors(3)
    models["b"] |= random_tensors(9, {EMBEDDING: (100, 24), HEAD: (100, 24)})
    for role, tensors in models.items():
        write_directory(
            Path(role), tensors, config=CONFIG | {"vocab_size": len(tensors[HEAD][2]) // 48}
        )
    command = ("graft", "a", "b", "tuned", "-o", "out")
    assert_fails(weightsmith(*command), 4, "96 rows", "base, instruct, tuned")
    assert weightsmith(*command, "--vocab", "instruct").returncode == 0
    data, common = read(Path("out"))[HEAD][2], 96 * 24 * 2
    difference = from_bf16(models["tuned"][HEAD][2]) - from_bf16(models["a"][HEAD][2])
    grafted = to_bf16(from_bf16(models["b"][HEAD][2][:common]) + difference).tobytes()
    assert data == grafted + models["b"][HEAD][2][common:]
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 100
    assert weightsmith(*command, "--vocab", "base", "--force").returncode == 0
    assert read(Path("out"))[HEAD][2] == grafted
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 96


def test_tokenizers_that_disagree(models: dict[str, Tensors]) -> None:
    options = {"b": {"vocabulary": ("a", "X", "c", "d")}}
    done = blend(models, **options)
    assert_fails(done, 4, "token 1 means two things", "'b'", "'X'", "--tokenizers ignore")
    assert blend(models, "--tokenizers", "ignore").returncode == 0


def test_a_longer_tokenizer_is_no_conflict(models: dict[str, Tensors]) -> None:
    assert blend(models, b={"vocabulary": ("a", "b", "c", "d")}).returncode == 0


def test_config_is_copied_byte_for_byte(models: dict[str, Tensors]) -> None:
    text = json.dumps(CONFIG)  # not as our writer would lay it out
    assert blend(models).returncode == 0
    assert Path("out/config.json").read_text() == text
    assert Path("out/tokenizer.json").read_bytes() == Path("a/tokenizer.json").read_bytes()
    assert blend(models, "--dtype", "bf16", "--force").returncode == 0
    assert Path("out/config.json").read_text() == text
    assert blend(models, "--dtype", "fp16", "--force").returncode == 0
    patched = json.loads(Path("out/config.json").read_text())
    assert patched == CONFIG | {"torch_dtype": "float16"}


def test_streams_in_another_order(here: Path) -> None:
    tensors = random_tensors(1)
    Path("a.safetensors").write_bytes(encode(tensors))
    Path("b.safetensors").write_bytes(encode(dict(reversed(tensors.items()))))
    script = "weightsmith interpolate <(cat a.safetensors) <(cat {}.safetensors) --lambda 0.5"
    same = shell(script.format("a"))
    assert same.returncode == 0, same.stderr
    assert decode(same.stdout)[0].keys() == tensors.keys()
    assert_fails(shell(script.format("b")), 4, "same order")


def test_grafting_a_delta_of_another_base(here: Path) -> None:
    for seed, role in enumerate(("base", "tuned", "other")):
        Path(f"{role}.safetensors").write_bytes(encode(random_tensors(seed)))
    weightsmith("delta", "base.safetensors", "tuned.safetensors", "-o", "delta.safetensors")
    arguments = ("graft", "other.safetensors", "other.safetensors", "delta.safetensors")
    assert_fails(weightsmith(*arguments), 4, "another base", "sampled:", "--force")
    forced = weightsmith(*arguments, "--force")
    assert forced.returncode == 0
    assert b"another base" in forced.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("delta base.safetensors delta.safetensors", "TUNED is a delta"),
        ("delta delta.safetensors base.safetensors", "BASE is a delta"),
        ("graft base.safetensors delta.safetensors base.safetensors", "INSTRUCT is a delta"),
        (
            "interpolate base.safetensors delta.safetensors --lambda 0.5",
            "only one input is a delta",
        ),
    ],
)
def test_deltas_where_models_belong(here: Path, command: str, message: str) -> None:
    for seed, role in enumerate(("base", "tuned")):
        Path(f"{role}.safetensors").write_bytes(encode(random_tensors(seed)))
    weightsmith("delta", "base.safetensors", "tuned.safetensors", "-o", "delta.safetensors")
    assert_fails(weightsmith(*command.split()), 4, message, "delta.safetensors")


def test_an_unmarked_delta_needs_to_be_called_one(here: Path) -> None:
    tensors = {
        role: random_tensors(seed) for seed, role in enumerate(("base", "tuned", "instruct"))
    }
    for role, each in tensors.items():
        Path(f"{role}.safetensors").write_bytes(encode(each))
    weightsmith("delta", "base.safetensors", "tuned.safetensors", "-o", "delta.safetensors")
    Path("plain.safetensors").write_bytes(encode(read(Path("delta.safetensors"))))
    arguments = ("graft", "base.safetensors", "instruct.safetensors")
    done = weightsmith(*arguments, "plain.safetensors", "--tuned-is", "delta")
    assert b"on trust" in done.stderr
    direct = weightsmith(*arguments, "tuned.safetensors")
    assert decode(done.stdout)[0] == decode(direct.stdout)[0]
