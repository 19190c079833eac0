"""rotate: the same function for every family, as files and streams; what it refuses."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from models import logits, tiny_model
from support import (
    Tensors,
    assert_fails,
    decode,
    encode,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)

from weightsmith.engine.execute import Observer, execute
from weightsmith.engine.settings import Settings
from weightsmith.operators.rotate import Rotate

IDS = [7, 1, 250, 33, 33, 64, 128, 2, 90, 17, 200, 5]
FAMILIES = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key for all": ("llama", {"num_key_value_heads": 1, "num_attention_heads": 3}),
    "mistral, sliding": ("mistral", {"sliding_window": 4}),
    "qwen2, sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 24, "attention_bias": True}),
}


def tensors_of(name: str) -> Tensors:
    return decode(Path(name).read_bytes())[0]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tied"
    return tiny_model(directory, num_hidden_layers=3, tie_word_embeddings=True)


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_function_is_the_same(kind: str, tie: bool, here: Path) -> None:
    family, sizes = FAMILIES[kind]
    model = tiny_model(here / "model", family, **sizes, tie_word_embeddings=tie)
    done = weightsmith("rotate", model, "--seed", "3", "-o", "rotated")
    assert done.returncode == 0, done.stderr.decode()
    before, after = logits(model, IDS), logits(here / "rotated", IDS)
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
    assert before.std() > 0.1, "not a model whose logits say nothing"
    found, old = read(here / "rotated"), read(model)
    assert found.keys() == old.keys() | {"lm_head.weight"}
    changed = {name for name in old if found[name] != old[name]}
    kept = {name for name in old if name.endswith(("q_norm.weight", "k_norm.weight"))}
    kept |= {
        name
        for name in old
        if name.endswith((*(f"{n}_proj.bias" for n in ("q", "k", "gate", "up")),))
    }
    assert changed == old.keys() - kept
    config = json.loads((here / "rotated/config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_seeds_differ_and_repeat(tied: Path, here: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = weightsmith("rotate", tied, "--seed", seed, "-o", f"{name}.safetensors")
        assert done.returncode == 0
    a, b, c = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    done = weightsmith("rotate", tied, "--jobs", 1, "--memory", "1MiB", "-o", "d.safetensors")
    assert Path("d.safetensors").read_bytes() == a, done.stderr


@pytest.mark.parametrize("order", ["as it is", "reversed", "alphabetical"])
def test_pipes_give_the_same_tensors(tied: Path, here: Path, order: str) -> None:
    old = read(tied)
    names = list(old)
    names = {"reversed": names[::-1], "alphabetical": sorted(names)}.get(order, names)
    Path("in.safetensors").write_bytes(encode({name: old[name] for name in names}))
    weightsmith("rotate", tied, "-o", "direct.safetensors")
    done = shell(f"cat in.safetensors | weightsmith rotate --sidecars {tied} > piped.safetensors")
    assert done.returncode == 0, done.stderr.decode()
    piped = tensors_of("piped.safetensors")
    assert piped == tensors_of("direct.safetensors")
    assert list(piped) == [*names, "lm_head.weight"]


def test_a_pipe_of_commands_is_a_model(tied: Path, here: Path) -> None:
    done = shell(
        f"weightsmith cat {tied} --dtype float32 | weightsmith rotate --seed 1 "
        "| weightsmith rotate --seed 2 -o twice"
    )
    assert done.returncode == 0, done.stderr.decode()
    before, after = logits(tied, IDS), logits(here / "twice", IDS)
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
    weightsmith("rotate", tied, "--seed", 1, "-o", "one")
    weightsmith("rotate", "one", "--seed", 2, "-o", "two")
    assert read(here / "twice") == read(here / "two")


def test_a_short_stream_publishes_nothing(tied: Path, here: Path) -> None:
    whole = (tied / "model.safetensors").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2):
        Path("short").write_bytes(whole[:length])
        done = shell(f"cat short | weightsmith rotate --sidecars {tied} -o out.safetensors")
        assert_fails(done, 3, "stream is truncated")
    done = shell(
        f"{{ cat {tied}/model.safetensors; echo; }} | weightsmith rotate --sidecars {tied} -o out"
    )
    assert_fails(done, 3, "bytes after the last tensor")
    assert [path.name for path in here.iterdir()] == ["short"]


def test_resume_goes_on(tied: Path, here: Path) -> None:
    written = 0

    def stop(nbytes: int) -> None:
        nonlocal written
        written += nbytes
        if written > 60_000:
            raise KeyboardInterrupt

    settings = Settings(output="out", jobs=1)
    with pytest.raises(KeyboardInterrupt):
        execute(Rotate(seed=4), [str(tied)], settings, Observer(tick=stop))
    again = Settings(output="out", resume=True)
    other = weightsmith("rotate", tied, "--seed", 5, "--resume", "-o", "out")
    assert_fails(other, 4)
    outcome = execute(Rotate(seed=4), [str(tied)], again)
    assert 0 < outcome.resumed < len(outcome.tensors)
    execute(Rotate(seed=4), [str(tied)], Settings(output="whole"))
    assert read(here / "out") == read(here / "whole")


def test_dtypes(tied: Path, here: Path) -> None:
    weightsmith("cat", tied, "--dtype", "bf16", "-o", "half")
    weightsmith("rotate", "half", "-o", "rotated")
    assert {dtype for dtype, _, _ in read(here / "rotated").values()} == {"BF16"}
    weightsmith("rotate", "half", "--dtype", "float32", "-o", "wide")
    before, after = logits(here / "half", IDS), logits(here / "wide", IDS)
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()


def test_models_it_does_not_know(here: Path, tied: Path) -> None:
    write_directory(here / "odd", random_tensors(0), config={"model_type": "gpt2"})
    assert_fails(weightsmith("rotate", "odd", "-n"), 2, "gpt2", "llama, mistral, qwen2, qwen3")
    write_directory(here / "bare", random_tensors(0), config={"model_type": "llama"})
    assert_fails(weightsmith("rotate", "bare", "-n"), 2, "no num_attention_heads")
    Path("alone.safetensors").write_bytes(encode(random_tensors(0)))
    assert_fails(weightsmith("rotate", "alone.safetensors", "-n"), 2, "config.json")
    assert_fails(weightsmith("rotate", tied, "--select", "*mlp*", "-n"), 2, "whole model")
    assert_fails(weightsmith("rotate", tied, "--seed", "-1", "-n"), 2, "--seed")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.norm.weight", None, "lacks a tensor"),
        ("model.layers.1.mlp.up_proj.weight", ("F32", (80, 47)), "any x 48"),
        ("model.layers.1.mlp.up_proj.weight", ("I8", (80, 48)), "I8"),
        ("model.layers.1.self_attn.v_proj.bias", ("F32", (15,)), "of 16"),
        ("model.layers.1.mlp.experts.weight", ("F32", (2, 2)), "might read the stream"),
        ("lm_head.weight", ("F32", (256, 48)), "ties the head"),
    ],
)
def test_tensors_that_do_not_fit(
    tied: Path, here: Path, name: str, change: tuple[str, tuple[int, ...]] | None, message: str
) -> None:
    tensors = read(tied)
    if change is None:
        del tensors[name]
    else:
        dtype, shape = change
        width = {"F32": 4, "I8": 1}[dtype]
        tensors[name] = dtype, shape, bytes(width * math.prod(shape))
    config = json.loads((tied / "config.json").read_text())
    write_directory(here / "odd", tensors, config=config)
    assert_fails(weightsmith("rotate", "odd", "-n"), 4, name, message)


def test_nan_is_refused_by_name(tied: Path, here: Path) -> None:
    tensors = read(tied)
    name = "model.layers.0.mlp.gate_proj.weight"
    dtype, shape, data = tensors[name]
    tensors[name] = dtype, shape, b"\xff\xff\xff\x7f" + data[4:]
    config = json.loads((tied / "config.json").read_text())
    write_directory(here / "odd", tensors, config=config)
    assert_fails(weightsmith("rotate", "odd", "-o", "out"), 1, name, "NaN")
    assert not Path("out").exists()


def test_what_overflows_is_counted(tied: Path, here: Path) -> None:
    tensors = read(tied)
    name = "model.embed_tokens.weight"
    _, shape, data = tensors[name]
    tensors[name] = "F32", shape, b"\xff\xff\x7f\x7f" * (len(data) // 4)
    config = json.loads((tied / "config.json").read_text())
    write_directory(here / "odd", tensors, config=config)
    assert_fails(weightsmith("rotate", "odd", "--dtype", "float16", "-o", "out"), 1, "too large")


@pytest.mark.slow
def test_a_real_model(here: Path) -> None:
    """SmolLM2-135M: 576 channels, no power of two; tied; nine query heads share three keys."""
    fetch = Path(__file__).resolve().parents[2] / "examples/demo/fetch.py"
    done = subprocess.run([sys.executable, fetch, "base"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("one", "two"):
        rotated = weightsmith("rotate", "base", "--dtype", "float32", "-o", name)
        assert rotated.returncode == 0, rotated.stderr.decode()
    one, two = (Path(f"{name}/model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    ids = list(range(1000, 1064))
    before, after = logits(here / "base", ids), logits(here / "one", ids)
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
    piped = shell("weightsmith cat base | weightsmith rotate --dtype float32 > piped.safetensors")
    assert piped.returncode == 0, piped.stderr.decode()
    assert tensors_of("piped.safetensors") == decode(one)[0]
