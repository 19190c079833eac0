"""experts: fused and separate are the same bits, in either order of dimensions."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import (
    CONFIG,
    Tensors,
    assert_fails,
    decode,
    encode,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

COUNT, WIDTH, INNER = 3, 8, 6
MLP = "model.layers.{}.mlp"


def separate(dtype: str = "BF16", block: str = MLP, names=("gate_proj", "up_proj", "down_proj")):
    shapes = {}
    for layer in range(2):
        stem = block.format(layer)
        shapes[f"{stem}.gate.weight"] = (COUNT, WIDTH)
        for expert in range(COUNT):
            for name in sorted(names):
                down = name == names[2]
                shapes[f"{stem}.experts.{expert}.{name}.weight"] = (
                    (WIDTH, INNER) if down else (INNER, WIDTH)
                )
    shapes["lm_head.weight"] = (16, WIDTH)
    return random_tensors(5, shapes, dtype)


def words(tensors: Tensors, name: str) -> np.ndarray:
    dtype, shape, data = tensors[name]
    return np.frombuffer(data, {"BF16": "u2", "F32": "u4", "F16": "u2"}[dtype]).reshape(shape)


def fused(tensors: Tensors, layer: int, *, input_last: bool = True, names=None):
    """By hand, from the definition."""
    gate, up, down = names or ("gate_proj", "up_proj", "down_proj")
    stem = f"model.layers.{layer}.mlp.experts"
    turn = (lambda m: m) if input_last else (lambda m: m.T)
    both = [
        turn(np.concatenate([words(tensors, f"{stem}.{e}.{p}.weight") for p in (gate, up)]))
        for e in range(COUNT)
    ]
    downs = [turn(words(tensors, f"{stem}.{e}.{down}.weight")) for e in range(COUNT)]
    return np.stack(both), np.stack(downs)


@pytest.mark.parametrize("memory", ["1kB", "1GiB"])
@pytest.mark.parametrize("layout", ["out-in", "in-out"])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_fused_is_what_it_says(here: Path, layout: str, memory: str, dtype: str) -> None:
    tensors = separate(dtype)
    write_directory(Path("m"), tensors)
    options = ("--to", "fused", "--layout", layout, "--memory", memory)
    assert weightsmith("experts", "m", *options, "-o", "out").returncode == 0
    found = read(Path("out"))
    assert len(found) == 7
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp"
        assert found[f"{stem}.gate.weight"] == tensors[f"{stem}.gate.weight"]
        both, down = fused(tensors, layer, input_last=layout == "out-in")
        for name, expected in (("gate_up_proj", both), ("down_proj", down)):
            got = found[f"{stem}.experts.{name}"]
            assert got == (dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("layout", ["out-in", "in-out"])
@pytest.mark.parametrize("shard_size", [None, 300])
def test_there_and_back_is_bit_for_bit(here: Path, layout: str, shard_size: int | None) -> None:
    tensors = separate()
    write_directory(Path("m"), tensors, shard_size=shard_size)
    options = f"--to fused --layout {layout}"
    script = f"""
        weightsmith experts m {options} -o fused && weightsmith experts fused --to separate -o back
        cat <(weightsmith cat m) | weightsmith experts {options} > piped.safetensors
        cat piped.safetensors | weightsmith experts --to separate -o again.safetensors
        """
    done = shell(script)
    assert done.returncode == 0, done.stderr
    assert read(Path("back")) == tensors
    assert read(Path("again.safetensors")) == tensors
    assert read(Path("piped.safetensors")) == read(Path("fused"))


def test_a_cast_on_the_way_rounds_once(here: Path) -> None:
    tensors = separate("F32")
    write_directory(Path("m"), tensors)
    for layout in ("out-in", "in-out"):
        options = ("--to", "fused", "--layout", layout, "--dtype", "bf16", "--force")
        assert weightsmith("experts", "m", *options, "-o", "out").returncode == 0
        both, _ = fused(tensors, 1, input_last=layout == "out-in")
        got = read(Path("out"))["model.layers.1.mlp.experts.gate_up_proj"]
        assert got == ("BF16", both.shape, to_bf16(both.copy().view(np.float32)).tobytes())


def test_new_tensors_stay_in_the_shard_of_what_they_are_made_of(here: Path) -> None:
    write_directory(Path("m"), separate(), shard_size=1000)
    assert weightsmith("experts", "m", "--to", "fused", "-o", "fused").returncode == 0
    assert weightsmith("experts", "fused", "--to", "separate", "-o", "back").returncode == 0
    sizes = [path.stat().st_size for path in sorted(Path("back").glob("*.safetensors"))]
    assert len(sizes) > 1
    index = json.loads(Path("back/model.safetensors.index.json").read_text())["weight_map"]
    first = [f for n, f in index.items() if n.startswith("model.layers.0.mlp.experts")]
    second = [f for n, f in index.items() if n.startswith("model.layers.1.mlp.experts")]
    assert not set(first) & set(second)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_mixtral_has_names_of_its_own(here: Path, family: str) -> None:
    tensors = separate(block="model.layers.{}.block_sparse_moe", names=("w1", "w3", "w2"))
    write_directory(Path("m"), tensors, config=CONFIG | {"model_type": family})
    assert weightsmith("experts", "m", "--to", "fused", "-o", "fused").returncode == 0
    found = read(Path("fused"))
    moved = {n.replace("block_sparse_moe", "mlp"): t for n, t in tensors.items()}
    both, _ = fused(moved, 0, names=("w1", "w3", "w2"))
    assert found["model.layers.0.mlp.experts.gate_up_proj"][2] == both.tobytes()
    assert "model.layers.0.mlp.gate.weight" in found
    assert weightsmith("experts", "fused", "--to", "separate", "-o", "back").returncode == 0
    if family == "mixtral":
        assert read(Path("back")) == tensors
    else:
        assert "model.layers.0.mlp.experts.0.gate_proj.weight" in read(Path("back"))


def test_one_layer_is_enough(here: Path) -> None:
    tensors = separate()
    write_directory(Path("m"), tensors)
    select = ("--select", "*.layers.1.*")
    assert weightsmith("experts", "m", "--to", "fused", *select, "-o", "out").returncode == 0
    found = read(Path("out"))
    assert "model.layers.1.mlp.experts.down_proj" in found
    assert "model.layers.0.mlp.experts.0.down_proj.weight" in found


def test_inputs_of_different_forms_are_told_the_command(here: Path) -> None:
    tensors = separate()
    write_directory(Path("a"), tensors)
    assert weightsmith("experts", "a", "--to", "fused", "-o", "b").returncode == 0
    done = weightsmith("interpolate", "a", "b", "--lambda", "0.5", "-o", "out")
    assert_fails(done, 4, "in one input and", "weightsmith experts b --to separate")
    done = weightsmith("interpolate", "b", "a", "--lambda", "0.5", "-o", "out")
    assert_fails(done, 4, "in one input and", "weightsmith experts a --to fused")
    done = shell(
        "weightsmith experts a --to fused | weightsmith interpolate b - --lambda 0.5 -o out"
    )
    assert done.returncode == 0, done.stderr
    assert read(Path("out")) == read(Path("b"))


def test_transposed_experts_are_told_the_command(here: Path) -> None:
    write_directory(Path("m"), separate())
    for layout in ("out-in", "in-out"):
        options = ("--to", "fused", "--layout", layout, "-o", layout)
        assert weightsmith("experts", "m", *options).returncode == 0
    done = weightsmith("interpolate", "out-in", "in-out", "--lambda", "0.5", "-o", "out")
    assert_fails(done, 4, "shapes do not match", "weightsmith experts in-out --to separate")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("delete", "experts.2.up_proj.weight"), 4, "an expert lacks a tensor"),
        (("shape", "experts.2.up_proj.weight"), 4, "experts differ"),
        (("dtype", "experts.2.down_proj.weight"), 4, "experts differ"),
        (("add", "experts.2.down_proj.weight_scale"), 4, "neither fused nor separated"),
        (("add", "experts.gate_up_proj"), 4, "neither fused nor separated"),
    ],
)
def test_what_cannot_be_fused(here: Path, change: tuple[str, str], code: int, message: str) -> None:
    kind, name = change
    tensors = separate()
    full = f"model.layers.1.mlp.{name}"
    match kind:
        case "delete":
            del tensors[full]
        case "shape":
            tensors[full] = ("BF16", (WIDTH, WIDTH), bytes(2 * WIDTH * WIDTH))
        case "dtype":
            tensors[full] = ("F32", (WIDTH, INNER), bytes(4 * WIDTH * INNER))
        case "add":
            tensors[full] = ("F32", (2,), bytes(8))
    Path("m.safetensors").write_bytes(encode(tensors))
    done = weightsmith("experts", "m.safetensors", "--to", "fused", "-o", "out.safetensors")
    assert_fails(done, code, message, "layers.1.mlp.experts")


def test_nothing_to_convert_is_an_error(here: Path) -> None:
    write_directory(Path("m"), separate())
    assert_fails(weightsmith("experts", "m", "-o", "out"), 2, "--to is missing")
    done = weightsmith("experts", "m", "--to", "separate", "-o", "out")
    assert_fails(done, 2, "no experts that are not separate")


def test_interleaved_gates_are_refused_by_name(here: Path) -> None:
    write_directory(Path("m"), separate(), config=CONFIG | {"model_type": "gpt_oss"})
    done = weightsmith("experts", "m", "--to", "fused", "-o", "out")
    assert_fails(done, 4, "gpt_oss", "take turns")


def test_half_a_pair_needs_the_layout(here: Path) -> None:
    write_directory(Path("m"), separate())
    assert weightsmith("experts", "m", "--to", "fused", "-o", "f").returncode == 0
    half = ("--exclude", "*.experts.down_proj")
    given = ("experts", "f", "--to", "separate", *half, "-o", "out")
    assert_fails(weightsmith(*given), 4, "not stored so", "--layout")
    assert weightsmith(*given, "--layout", "out-in").returncode == 0
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    assert read(Path("out"))[name] == separate()[name]


def test_a_stream_may_bring_them_in_any_order(here: Path) -> None:
    tensors = separate()
    shuffled = dict(sorted(tensors.items(), key=lambda item: item[0][::-1]))
    done = weightsmith("experts", "--to", "fused", input=encode(shuffled))
    assert done.returncode == 0, done.stderr
    both, _ = fused(tensors, 1)
    found = decode(done.stdout)[0]["model.layers.1.mlp.experts.gate_up_proj"]
    assert found[2] == both.tobytes()


def test_timber_says_that_it_takes_fused_experts_for_one_matrix(here: Path) -> None:
    write_directory(Path("m"), separate())
    assert weightsmith("experts", "m", "--to", "fused", "-o", "f").returncode == 0
    done = weightsmith("timber", "f", "f", "--json", "-n", "-o", "out")
    (warning,) = json.loads(done.stdout)["warnings"]
    assert "4 tensors hold several experts" in warning
    assert json.loads(weightsmith("timber", "m", "m", "--json", "-n").stdout)["warnings"] == []


@pytest.mark.parametrize("layout", ["out-in", "in-out"])
def test_more_experts_than_a_process_may_have_files(here: Path, layout: str) -> None:
    """Of a stream, all experts of a layer wait; those of more than 64 KiB in files."""
    count, name = 40, "model.layers.0.mlp.experts.{}.{}_proj.weight"
    shapes = {
        name.format(expert, part): (192, 192)
        for expert in range(count)
        for part in ("gate", "up", "down")
    }
    tensors = random_tensors(1, shapes)
    script = f"ulimit -Sn 64; weightsmith experts --to fused --layout {layout}"
    done = shell(script, input=encode(tensors))
    assert done.returncode == 0, done.stderr
    found = decode(done.stdout)[0]["model.layers.0.mlp.experts.down_proj"]
    order = [words(tensors, name.format(expert, "down")) for expert in range(count)]
    expected = np.stack([m if layout == "out-in" else m.T for m in order])
    assert found == ("BF16", expected.shape, expected.tobytes())
