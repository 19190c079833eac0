"""ptqtp and unpack as commands: what is quantised, in which form, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import logits, tiny_model
from support import (
    Trio,
    assert_fails,
    decode,
    encode,
    from_bf16,
    make_trio,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

from weightsmith.tritplanes import rows
from weightsmith.tritplanes.encoding import Int8Encoding, TritEncoding
from weightsmith.tritplanes.fit import algorithm1, search

DOWN = "model.layers.0.mlp.down_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def trio(here: Path) -> Trio:
    return make_trio(here)


def run(*arguments: object, code: int = 0) -> Any:
    done = weightsmith(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done


def quantization(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found["quantization_config"]


def weights_of(trio: Trio, name: str) -> np.ndarray:
    _, shape, data = trio.tensors["base"][name]
    return from_bf16(data).reshape(shape)


def test_linear_weights_are_packed_and_the_rest_is_kept(trio: Trio) -> None:
    done = run("ptqtp", trio.base, "--bits", "2x1.58", "-o", "out")
    found, original = read(Path("out")), trio.tensors["base"]
    assert list(found) == list(original)
    for name, (dtype, shape, data) in found.items():
        if "proj" not in name:
            assert (dtype, shape, data) == original[name]
            continue
        weights = weights_of(trio, name)
        encoding = TritEncoding(weights.shape, "BF16", 2, 128)
        expected = rows.pack_trits(encoding, search(weights, encoding).planes)
        assert (dtype, shape) == ("U8", (len(weights), encoding.row_bytes))
        assert data == expected.tobytes()
    said = done.stderr.decode()
    assert "4 tensors in trit planes, stored at 4." in said
    assert "kept: embeddings (1), heads (1), norms, biases and other vectors (2)" in said
    assert "bits per weight, 16.000 before" in said
    entry = quantization(Path("out"))["tensors"][DOWN]
    assert entry == {"encoding": "trits", "shape": [24, 56], "dtype": "BF16", "planes": 2}


@pytest.mark.parametrize("options", [[], ["--fit", "paper"], ["--ratio", "auto"]])
def test_unpacking_gives_the_dense_form(trio: Trio, options: list[str]) -> None:
    run("ptqtp", trio.base, *options, "-o", "packed")
    run("ptqtp", trio.base, *options, "--format", "dense", "-o", "dense")
    run("unpack", "packed", "-o", "unpacked")
    assert read(Path("unpacked")) == read(Path("dense"))
    before = json.loads((trio.base / "config.json").read_text())
    assert json.loads(Path("unpacked/config.json").read_text()) == before
    piped = shell(
        f"weightsmith ptqtp {trio.base} {' '.join(options)} | weightsmith unpack -o piped"
    )
    assert piped.returncode == 0, piped.stderr
    assert read(Path("piped")) == read(Path("dense"))
    assert json.loads(Path("piped/config.json").read_text()) == before


def test_the_papers_fit_in_the_command(trio: Trio) -> None:
    run("ptqtp", trio.base, "--fit", "paper", "--group-size", "32", "--format", "dense", "-o", "o")
    weights = weights_of(trio, DOWN)
    encoding = TritEncoding(weights.shape, "BF16", 2, 32)
    expected = rows.expand(encoding, algorithm1(weights, encoding).planes)
    assert read(Path("o"))[DOWN][2] == to_bf16(expected).tobytes()


def test_a_whole_pipe(trio: Trio) -> None:
    direct = shell(
        f"weightsmith delta {trio.base} {trio.tuned} | "
        f"weightsmith graft {trio.base} {trio.instruct} | "
        "weightsmith ptqtp --bits 2x1.58 -o out/"
    )
    assert direct.returncode == 0, direct.stderr
    run("graft", trio.base, trio.instruct, trio.tuned, "-o", "grafted")
    run("ptqtp", "grafted", "-o", "again")
    assert read(Path("out")) == read(Path("again"))
    assert quantization(Path("out")) == quantization(Path("again"))
    run("verify", "out")


@pytest.mark.parametrize("options", [["--memory", "1kB"], ["--jobs", "1"], ["--shard-size", "4kB"]])
def test_nothing_depends_on_how_it_is_cut(trio: Trio, options: list[str]) -> None:
    run("ptqtp", trio.base, "-o", "one")
    run("ptqtp", trio.base, *options, "-o", "other")
    assert read(Path("one")) == read(Path("other"))


def test_without_the_native_kernels_the_bytes_are_the_same(trio: Trio) -> None:
    run("ptqtp", trio.base, "-o", "native")
    done = shell(f"WEIGHTSMITH_REFERENCE=1 weightsmith ptqtp {trio.base} -o plain")
    assert done.returncode == 0, done.stderr
    assert read(Path("native")) == read(Path("plain"))


def test_planes_by_pattern(trio: Trio) -> None:
    run("ptqtp", trio.base, "--planes", "1", "--planes", "*.down_proj.*=3", "-o", "out")
    tensors = quantization(Path("out"))["tensors"]
    assert {n: e["planes"] for n, e in tensors.items()} == {
        n: 3 if "down" in n else 1 for n in tensors
    }
    run("unpack", "out", "-o", "dense")
    off = [
        np.linalg.norm(from_bf16(read(Path("dense"))[n][2]) - weights_of(trio, n).ravel())
        for n in (DOWN, UP)
    ]
    assert off[0] < 0.3 * off[1]


def test_select_decides_alone(trio: Trio) -> None:
    run("ptqtp", trio.base, "--select", "*embed*", "--select", "*.1.mlp.up*", "-o", "out")
    assert set(quantization(Path("out"))["tensors"]) == {EMBEDDING, UP}
    run("ptqtp", "out", "--select", DOWN, "-o", "more")
    assert set(quantization(Path("more"))["tensors"]) == {EMBEDDING, UP, DOWN}
    run("unpack", "more", "--select", "*embed*", "-o", "less")
    assert set(quantization(Path("less"))["tensors"]) == {UP, DOWN}
    run("verify", "less")
    run("unpack", "less", "-o", "none")
    assert "quantization_config" not in json.loads(Path("none/config.json").read_text())


def test_embeddings_and_head_in_8_bits(trio: Trio) -> None:
    run("ptqtp", trio.base, "--embeddings", "int8", "--head", "int8", "-o", "out")
    tensors = quantization(Path("out"))["tensors"]
    assert {n for n, e in tensors.items() if e["encoding"] == "int8"} == {EMBEDDING, HEAD}
    packed = np.frombuffer(read(Path("out"))[HEAD][2], np.uint8).reshape(96, 26)
    dense = rows.decode(Int8Encoding((96, 24), "BF16"), packed)
    run("unpack", "out", "-o", "dense")
    assert read(Path("dense"))[HEAD][2] == to_bf16(dense).tobytes()
    off = np.abs(dense - weights_of(trio, HEAD)).max()
    assert off < np.abs(weights_of(trio, HEAD)).max() / 127


def test_a_tied_pair_stays_tied(here: Path) -> None:
    shapes = {EMBEDDING: (96, 24), DOWN: (24, 56)}
    config = {"model_type": "llama", "tie_word_embeddings": True}
    write_directory(here / "tied", random_tensors(0, shapes), config=config)
    run("ptqtp", "tied", "--embeddings", "int8", "-o", "out")
    assert set(quantization(Path("out"))["tensors"]) == {EMBEDDING, DOWN}
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is True
    done = weightsmith("ptqtp", "tied", "--head", "int8", "-o", "no")
    assert_fails(done, 2, "the head is tied to the embedding", "--embeddings int8")


def test_the_report_counts_everything(trio: Trio) -> None:
    report = json.loads(run("ptqtp", trio.base, "--json", "-o", "out").stdout)
    figures = report["figures"][DOWN]
    assert set(figures) == {"relative error", "iterations", "zeros", "bits"}
    # Two planes of 12 bytes and two scales of 2 bytes for 56 weights.
    assert figures["bits"] == pytest.approx(8 * (24 + 4) / 56)
    dense = weightsmith("ptqtp", trio.base, "--format", "dense")
    off = from_bf16(decode(dense.stdout)[0][DOWN][2]) - weights_of(trio, DOWN).ravel()
    relative = np.linalg.norm(off) / np.linalg.norm(weights_of(trio, DOWN))
    assert figures["relative error"] == pytest.approx(relative, abs=2.0**-8)
    size = sum(len(data) for _, _, data in read(Path("out")).values())
    total = sum(int(np.prod(shape)) for _, shape, _ in trio.tensors["base"].values())
    assert report["summary"][-1].startswith(f"all in: {8 * size / total:.3f} bits")


FUSED = {
    "model.layers.0.mlp.experts.gate_up_proj": (3, 32, 24),
    "model.layers.0.mlp.gate.weight": (3, 24),
}


def test_fused_experts_are_packed_one_by_one(here: Path) -> None:
    tensors = random_tensors(0, FUSED)
    write_directory(here / "moe", tensors, config={"model_type": "qwen3_moe"})
    done = run("ptqtp", "moe", "-o", "out")
    assert "routers (1)" in done.stderr.decode()
    name = next(iter(FUSED))
    _, shape, data = read(Path("out"))[name]
    weights = from_bf16(tensors[name][2]).reshape(96, 24)
    encoding = TritEncoding((3, 32, 24), "BF16", 2, 128)
    assert shape == (3, 32, encoding.row_bytes)
    assert data == rows.pack_trits(encoding, search(weights, encoding).planes).tobytes()
    run("unpack", "out", "-o", "dense")
    assert read(Path("dense"))[name][1] == (3, 32, 24)


@pytest.mark.parametrize("family", ["llama4", "something"])
def test_experts_with_an_unknown_input_axis_are_refused(here: Path, family: str) -> None:
    write_directory(here / "moe", random_tensors(0, FUSED), config={"model_type": family})
    done = weightsmith("ptqtp", "moe", "-o", "out")
    assert_fails(done, 2, "which dimension of these experts is the input", "gate_up_proj", family)


def test_transposed_layers_are_refused(here: Path) -> None:
    shapes = {"h.0.attn.c_attn.weight": (24, 72)}
    write_directory(here / "gpt2", random_tensors(0, shapes), config={"model_type": "gpt2"})
    done = weightsmith("ptqtp", "gpt2", "-o", "out")
    assert_fails(done, 2, "gpt2 stores linear weights [in, out]", "c_attn")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--bits", "2x2"], 2, "--bits 2x2: not KxB"),
        (["--bits", "4x1.58"], 2, "not a number of planes from 1 to 3"),
        (["--planes", "0"], 2, "not a number of planes"),
        (["--bits", "3x1.58", "--planes", "3"], 2, "two answers to one question"),
        (["--group-size", "0"], 2, "not an integer from 1 on"),
        (["--group-size", "2000000"], 2, "more than 1048576"),
        (["--starts", "x"], 2, "--starts x: not an integer from 0 on"),
        (["--fit", "paper", "--planes", "3"], 2, "--fit paper needs two planes"),
        (["--fit", "paper", "--ratio", "3:2"], 2, "the paper's scales are free"),
        (["--ratio", "3:2", "--planes", "1"], 2, "--ratio 3:2 needs two planes"),
        (["--format", "int4"], 2, "free scales do not fit 4-bit integers"),
        (["--format", "int4", "--ratio", "3:2"], 2, "whole groups of whole words"),
        (["--select", "*norm*"], 2, "only matrices can be quantised"),
        (["--select", "nothing"], 2, "--select 'nothing' matches no tensor"),
        (["--exclude", "*proj*"], 2, "there is nothing to quantise"),
        (["--damping", "-1"], 2, "--damping -1: negative"),
    ],
)
def test_bad_options(trio: Trio, options: list[str], code: int, message: str) -> None:
    assert_fails(weightsmith("ptqtp", trio.base, *options, "-o", "out"), code, message)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN or infinity among the weights"), (3e38, "too large for float16 scales")],
)
def test_weights_that_cannot_be_quantised(here: Path, value: float, message: str) -> None:
    tensors = random_tensors(0)
    dtype, shape, data = tensors[DOWN]
    weights = from_bf16(data).copy()
    weights[7] = value
    tensors[DOWN] = dtype, shape, to_bf16(weights).tobytes()
    write_directory(here / "bad", tensors)
    done = weightsmith("ptqtp", "bad", "-o", "out")
    assert_fails(done, 1, message, DOWN, f"--exclude {DOWN}")
    assert not Path("out").exists()
    run("ptqtp", "bad", "--exclude", DOWN, "-o", "out")


def test_a_second_time_is_refused(trio: Trio) -> None:
    run("ptqtp", trio.base, "--exclude", DOWN, "-o", "out")
    for options in (["--group-size", "64"], ["--ratio", "3:2"], ["--format", "dense"]):
        done = weightsmith("ptqtp", "out", *options, "-o", "again")
        assert_fails(done, 4, "quantised already", "weightsmith unpack")
    assert_fails(weightsmith("unpack", trio.base, "-o", "x"), 2, "nothing is packed")


def damaged(source: Path, target: Path, name: str, position: int, value: int) -> None:
    """A copy of a packed directory with one byte changed."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = read(source)
    metadata = decode((source / "model.safetensors").read_bytes())[1]
    dtype, shape, data = tensors[name]
    changed = bytearray(data)
    changed[position] = value
    tensors[name] = dtype, shape, bytes(changed)
    (target / "model.safetensors").write_bytes(encode(tensors, metadata))


def test_damaged_rows_are_found(trio: Trio, here: Path) -> None:
    run("ptqtp", trio.base, "-o", "out")
    damaged(Path("out"), here / "code", DOWN, 3, 250)
    damaged(Path("out"), here / "scale", DOWN, 25, 0x7C)  # the high byte of the first scale
    for directory, message in (("code", "no five trits"), ("scale", "a scale is negative or not")):
        assert_fails(weightsmith("verify", directory), 3, message, DOWN)
        assert_fails(weightsmith("unpack", directory, "-o", "dense"), 3, message, DOWN)
        assert not Path("dense").exists()
    piped = shell("weightsmith cat code/model.safetensors --sidecars none | weightsmith verify")
    assert piped.returncode == 0  # a bare file does not say that it is packed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "version 9 is not 1"),
        ({"tensors": {DOWN: {"planes": 3}}}, "not packed as its configuration says"),
        ({"tensors": {DOWN: {"shape": [24, 1 << 70]}}}, "shape"),
    ],
)
def test_a_configuration_that_lies(trio: Trio, change: Any, message: str) -> None:
    run("ptqtp", trio.base, "-o", "out")
    path = Path("out/config.json")
    config = json.loads(path.read_text())
    for key, value in change.items():
        if key == "tensors":
            config["quantization_config"]["tensors"][DOWN] |= value[DOWN]
        else:
            config["quantization_config"][key] = value
    path.write_text(json.dumps(config))
    assert_fails(weightsmith("unpack", "out", "-o", "dense"), 3, message)


def test_another_quantisation_is_refused(here: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    write_directory(here / "gptq", random_tensors(0), config=config)
    for command in ("ptqtp", "unpack"):
        done = weightsmith(command, "gptq", "-o", "out")
        assert_fails(done, 4, "quantised by another method", "gptq")


def test_a_hostile_patch_in_a_stream_is_ignored(trio: Trio) -> None:
    patch = {"quantization_config": {"quant_method": "evil", "run": "this"}}
    metadata = {"format": "pt", "weightsmith.config_patch": json.dumps(patch)}
    stream = encode(trio.tensors["base"], metadata)
    done = weightsmith("cat", "--sidecars", trio.base, "-o", "out", input=stream)
    assert done.returncode == 0, done.stderr
    assert "quantization_config" not in json.loads(Path("out/config.json").read_text())


IDS = [5, 9, 200, 31, 7, 7, 80]


@pytest.mark.parametrize("ratio", ["3:2", "auto"])
@pytest.mark.parametrize("tied", [False, True])
def test_int4_loads_in_stock_transformers(here: Path, ratio: str, tied: bool) -> None:
    tiny_model(here / "model", hidden_size=64, intermediate_size=96, tie_word_embeddings=tied)
    tied_to = ["--ratio", ratio, "--group-size", "32"]
    run("ptqtp", "model", *tied_to, "--format", "int4", "-o", "int4")
    run("ptqtp", "model", *tied_to, "--format", "dense", "-o", "dense")
    found, expected = logits(here / "int4", IDS), logits(here / "dense", IDS)
    # compressed-tensors multiplies integers by float16 units as we do, in float16.
    assert float((found - expected).norm() / expected.norm()) < 2.0**-10
    piped = shell(
        f"weightsmith cat model | weightsmith ptqtp {' '.join(tied_to)} --format int4 -o piped"
    )
    assert piped.returncode == 0, piped.stderr
    assert read(Path("piped")) == read(Path("int4"))
    assert quantization(Path("piped")) == quantization(Path("int4"))


@pytest.fixture
def calibrated(here: Path) -> Path:
    tiny_model(here / "model")
    Path("text.txt").write_text("It is a truth universally acknowledged. " * 40)
    run("calibrate", "model", "text.txt", "--window", "32", "--tokens", "512", "-o", "stats")
    return here / "model"


def test_statistics(calibrated: Path) -> None:
    from weightsmith.tritplanes.calibrated import damped, output_error

    hessians = read(Path("stats"))
    costs = []
    for options in ([], ["--stats", "stats", "--stats-use", "diag"], ["--stats", "stats"]):
        run("ptqtp", calibrated, *options, "--format", "dense", "-o", "out", "--force")
        (dtype, shape, data), (_, _, before) = (
            read(directory)[DOWN] for directory in (Path("out"), calibrated)
        )
        assert dtype == "F32"
        off = np.frombuffer(data, np.float32) - np.frombuffer(before, np.float32)
        width = shape[1]
        hessian = np.frombuffer(hessians[DOWN][2], np.float32).reshape(width, width)
        raised = torch.from_numpy(damped(hessian, 0.01))
        costs.append(output_error(off.reshape(shape), raised))
    assert costs[2] < costs[1] < costs[0]
    report = json.loads(
        run("ptqtp", calibrated, "--stats", "stats", "--json", "-o", "packed").stdout
    )
    assert "relative output error" in report["figures"][DOWN]
    run("unpack", "packed", "-o", "dense")
    assert read(Path("dense")) == read(Path("out"))


def test_statistics_of_another_model(calibrated: Path, trio: Trio) -> None:
    done = weightsmith("ptqtp", trio.base, "--stats", "stats", "-o", "out")
    assert_fails(done, 4, "the statistics are those of another model", "weightsmith calibrate")
    done = weightsmith("ptqtp", calibrated, "--stats", calibrated, "-o", "out")
    assert_fails(done, 3, "no statistics of calibrate")


def test_statistics_in_a_pipe(calibrated: Path) -> None:
    run("rotate", calibrated, "--seed", "1", "-o", "rotated")
    run("calibrate", "rotated", "text.txt", "--window", "32", "--tokens", "512", "-o", "turned")
    run("ptqtp", "rotated", "--stats", "turned", "-o", "direct")
    piped = shell(
        f"weightsmith rotate {calibrated} --seed 1 | weightsmith ptqtp --stats turned -o piped"
    )
    assert piped.returncode == 0, piped.stderr
    assert read(Path("piped")) == read(Path("direct"))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": ["gpt2"], "text_config": "x", "auto_map": "x"},
        {"model_type": {"a": 1}, "text_config": [1], "auto_map": ["x"]},
    ],
)
def test_a_config_full_of_nonsense(here: Path, config: dict[str, Any]) -> None:
    write_directory(here / "odd", random_tensors(0), config=config)
    for command in ("ptqtp", "memristor"):
        run(command, "odd", "-o", command)
    assert json.loads(Path("memristor/config.json").read_text()) == config
