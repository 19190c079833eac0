"""memristor on checkpoints: the same chip however it is cut; what stays digital; what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    Tensors,
    assert_fails,
    call,
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

from weightsmith.engine.execute import Observer, execute
from weightsmith.engine.settings import Settings
from weightsmith.operators.memristor import Memristor

SHAPES = {
    "model.embed_tokens.weight": (96, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.self_attn.q_proj.weight": (48, 600),
    "model.layers.0.self_attn.q_proj.bias": (48,),
    "model.layers.0.mlp.gate.weight": (4, 24),
    "model.layers.0.mlp.experts.gate_up_proj": (3, 20, 56),
    "model.layers.1.mlp.down_proj.weight": (24, 56),
    "model.layers.2.mlp.down_proj.weight": (24, 56),
    "model.norm.weight": (24,),
    "lm_head.weight": (96, 24),
}
ANALOG = {
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.1.mlp.down_proj.weight",
    "model.layers.2.mlp.down_proj.weight",
}
Q, EXPERTS, DOWN = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.1.mlp.down_proj.weight",
)
# One option list for each kind of device and of unit.
KINDS = {
    "gaussian": [],
    "pcm": ["--time", "1d", "--read-noise", "1", "--compensate", "row", "--copies", "2"],
    "pcm-hermes": ["--time", "1h", "--compensate", "tensor"],
    "pcm-afm": ["--scale", "tensor"],
    "rram-wan": ["--time", "2d", "--stuck-on", "0.01", "--stuck-off", "0.01"],
    "rram-cmo": ["--time", "1d", "--levels", "32"],
    "bitflip": ["--rate", "0.001"],
}


@pytest.fixture
def model(here: Path) -> Tensors:
    tensors = random_tensors(0, SHAPES)
    write_directory(Path("model"), tensors)
    return tensors


def noisy(*options: object, source: str = "model", target: str = "out") -> Tensors:
    return call("memristor", source, *options, target=target)


def figures(*options: object) -> dict[str, Any]:
    done = weightsmith("memristor", "model", *options, "--json", "-f", "-o", "out")
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("device", KINDS)
def test_what_goes_on_devices_and_what_stays_digital(model: Tensors, device: str) -> None:
    found = noisy("--device", device, *KINDS[device])
    assert {name for name in found if found[name] != model[name]} == ANALOG
    assert {name: t[:2] for name, t in found.items()} == {n: t[:2] for n, t in model.items()}


@pytest.mark.parametrize("device", KINDS)
def test_the_same_chip_however_it_is_cut(model: Tensors, device: str) -> None:
    """The same bytes for any number of jobs, memory, sharding, order, pipe, company and dtype."""
    same = ["--device", device, *KINDS[device]]
    options = [*same, "--seed", 3]
    first = noisy(*options)
    assert noisy(*options, "--jobs", 3, "--memory", "16kB") == first
    assert noisy(*options, "--shard-size", "30kB") == first
    write_directory(Path("sharded"), dict(reversed(model.items())), shard_size=30_000)
    assert noisy(*options, source="sharded") == first
    alone = noisy(*options, "--select", Q)
    assert alone[Q] == first[Q]
    assert alone[DOWN] == model[DOWN]
    done = shell(f"weightsmith cat model | weightsmith memristor {' '.join(map(str, options))}")
    assert done.returncode == 0, done.stderr
    assert decode(done.stdout)[0] == first
    assert noisy(*same, "--seed", 4)[Q] != first[Q]


def test_a_resumed_run_gives_the_same(model: Tensors) -> None:
    operator = Memristor(device="pcm", time="1h", copies="2")
    settings = Settings(output="out", jobs=1, memory=16_000)
    execute(operator, ["model"], replace(settings, output="whole"))
    written = []

    def interrupt(nbytes: int) -> None:
        written.append(nbytes)
        if len(written) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(operator, ["model"], settings, Observer(tick=interrupt))
    outcome = execute(operator, ["model"], replace(settings, resume=True))
    assert 0 < outcome.resumed < len(SHAPES)
    assert read(Path("out")) == read(Path("whole"))


@pytest.mark.parametrize("device", ["pcm", "bitflip"])
def test_without_native_kernels_it_is_the_same_chip(
    model: Tensors, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--device", device, *KINDS[device])
    first = noisy(*options)
    monkeypatch.setenv("WEIGHTSMITH_REFERENCE", "1")
    assert weightsmith("memristor", "model", *options, "-o", "reference").returncode == 0
    assert read(Path("reference")) == first


def test_the_command_is_the_function(model: Tensors) -> None:
    """Its own --device is not the engine's."""
    assert weightsmith("memristor", "model", "--device", "pcm", "-o", "command").returncode == 0
    assert read(Path("command")) == noisy("--device", "pcm")


def test_wider_output_is_rounded_to_narrower(model: Tensors) -> None:
    wide, narrow = noisy("--dtype", "float32"), noisy(target="narrow")
    for name in ANALOG:
        values = np.frombuffer(wide[name][2], np.float32)
        assert to_bf16(values).tobytes() == narrow[name][2]


@pytest.mark.parametrize("device", ["pcm", "pcm-hermes", "pcm-afm", "rram-cmo"])
def test_no_noise_is_the_identity_bit_for_bit(model: Tensors, device: str) -> None:
    time = [] if device == "pcm-afm" else ["--time", "1d", "--drift", 0]
    assert noisy("--device", device, "--noise", 0, *time, "--copies", 3) == model


def test_no_noise_is_the_identity_for_negative_zero_and_subnormals(model: Tensors) -> None:
    bits = np.frombuffer(model[DOWN][2], np.uint16).copy()
    bits[:4] = 0x8000, 0x0000, 0x0001, 0x8001
    odd = model | {DOWN: ("BF16", (24, 56), bits.tobytes())}
    write_directory(Path("odd"), odd)
    assert noisy("--sigma", 0, source="odd") == odd
    assert noisy("--device", "bitflip", "--rate", 0, source="odd") == odd


def test_gaussian_is_relative_to_the_tile(model: Tensors) -> None:
    """The error over the largest weight of its half row is standard normal times sigma."""
    found = noisy("--sigma", "0.05", "--dtype", "float32")[Q]
    before = from_bf16(model[Q][2]).reshape(48, 2, 300)
    error = np.frombuffer(found[2], np.float32).reshape(48, 2, 300) - before
    relative = error / np.abs(before).max(axis=2, keepdims=True)
    n = relative.size
    assert abs(relative.std() / 0.05 - 1) < 4 / (2 * n) ** 0.5
    assert abs(relative.mean()) < 4 * 0.05 / n**0.5
    whole = noisy("--sigma", "0.05", "--dtype", "float32", "--tile", 0)[Q]
    error = np.frombuffer(whole[2], np.float32).reshape(48, 600) - before.reshape(48, 600)
    relative = error / np.abs(before).reshape(48, 600).max(axis=1, keepdims=True)
    assert abs(relative.std() / 0.05 - 1) < 4 / (2 * n) ** 0.5


def test_the_report(model: Tensors) -> None:
    report = figures("--device", "pcm", "--copies", 4)
    assert set(report["figures"]) == ANALOG
    of_q = report["figures"][Q]
    before, after = (from_bf16(t[Q][2]).astype(np.float64) for t in (model, read(Path("out"))))
    error = np.linalg.norm(after - before) / np.linalg.norm(before)
    # The figure is taken before the result is rounded to bfloat16, by at most 2^-9 of a weight.
    assert abs(of_q["error"] - error) < 2.0**-9
    assert of_q["copies"] == 4
    np.testing.assert_allclose(of_q["norm"], np.linalg.norm(before), rtol=1e-6)
    np.testing.assert_allclose(of_q["snr_db"], -20 * np.log10(of_q["error"]), rtol=1e-6)
    assert 0.003 < of_q["shrinkage"] < 0.006
    weights = 48 * 600 + 3 * 20 * 56 + 2 * 24 * 56
    (cost,) = report["summary"]
    assert f"{weights:,} weights of 4 tensors on {8 * weights:,} devices, 4 times" in cost


def test_copies_by_layer_and_by_pattern(model: Tensors) -> None:
    once = noisy("--device", "pcm")
    some = noisy("--device", "pcm", "--copies", 3, "--copies-layers", "0,2")
    assert some[DOWN] == once[DOWN]
    assert some[Q] != once[Q]
    other = noisy("--device", "pcm", "--copies", 1, "--copies", "*.layers.{0,2}.*=3")
    assert other == some
    report = figures("--device", "pcm", "--copies", 3, "--copies-layers", "1")
    assert {n: f["copies"] for n, f in report["figures"].items()} == dict.fromkeys(ANALOG, 1) | {
        DOWN: 3
    }
    done = weightsmith("memristor", "model", "--copies-layers", "0-5", "-o", "x")
    assert_fails(done, 2, "no layer 3 is on devices")


def test_the_record_has_the_constants(model: Tensors) -> None:
    Path("mine.toml").write_text('name = "mine"\ng_max = 10.0\nprogram = [0.25]\n')
    noisy("--device", "mine.toml", "--seed", 7)
    (file,) = Path("out").glob("*.safetensors")
    metadata = decode(file.read_bytes())[1]
    record = json.loads(metadata["weightsmith.provenance"])["parameters"]
    assert record["seed"] == 7
    assert record["device"]["name"] == "mine"
    assert record["device"]["coefficients"] == [0.25]
    assert "mine.toml" not in metadata["weightsmith.provenance"]


def test_more_can_be_put_on_devices(model: Tensors) -> None:
    found = noisy("--also", "{lm_head.weight,*layernorm*}")
    assert found["lm_head.weight"] != model["lm_head.weight"]
    assert (
        found["model.layers.0.input_layernorm.weight"]
        != model["model.layers.0.input_layernorm.weight"]
    )
    assert found["model.norm.weight"] == model["model.norm.weight"]


def broken(model: Tensors, value: int) -> None:
    data = bytearray(model[DOWN][2])
    data[100:102] = value.to_bytes(2, "little")
    write_directory(Path("broken"), model | {DOWN: ("BF16", (24, 56), bytes(data))})


@pytest.mark.parametrize("value", [0x7FC0, 0x7F80, 0xFF80])
@pytest.mark.parametrize("device", ["pcm", "rram-cmo"])
def test_nan_and_infinity_are_refused_by_name(model: Tensors, value: int, device: str) -> None:
    broken(model, value)
    done = weightsmith("memristor", "broken", "--device", device, "-o", "out")
    assert_fails(done, 1, "NaN or infinite", DOWN, "--exclude")
    assert not Path("out").exists()
    assert read(Path("model")) == model
    noisy("--device", device, "--exclude", DOWN, source="broken")


def test_integers_are_refused(model: Tensors) -> None:
    write_directory(Path("packed"), model | {Q: ("U8", (48, 600), bytes(48 * 600))})
    done = weightsmith("memristor", "packed", "-o", "out")
    assert_fails(done, 2, "U8", Q, "--exclude")
    found = noisy("--exclude", Q, source="packed")
    assert found[Q][0] == "U8"


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--device", "memristor9000"], ["no such device", "pcm-hermes"]),
        (["--device", "none.toml"], ["No such file"]),
        (["--device", "rram-wan", "--time", "1h"], ["1s, 1d or 2d", "3600 seconds"]),
        (["--device", "gaussian", "--time", "1h"], ["no data on time"]),
        (["--device", "pcm", "--time", "soon"], ["not a time"]),
        (["--device", "pcm", "--time", "-1h"], ["not a number from 0 on"]),
        (["--select", "model.embed_tokens.weight"], ["no selected tensor", "--also"]),
        (["--select", "*nothing*"], ["matches no tensor"]),
        (["--also", "*nothing*"], ["--also", "matches no tensor"]),
        (["--device", "pcm", "--sigma", "0.1"], ["--sigma is for"]),
        (["--rate", "0.1"], ["--rate is for"]),
        (["--sigma", "-0.1"], ["not a number from 0 on"]),
        (["--stuck-on", "0.1"], ["models weights, not devices"]),
        (["--device", "pcm", "--stuck-on", "1.5"], ["not a probability"]),
        (["--device", "pcm", "--stuck-on", "0.7", "--stuck-off", "0.7"], ["more than 1"]),
        (["--device", "pcm", "--levels", "1"], ["holds nothing"]),
        (["--device", "pcm", "--cells-per-weight", "2"], ["needs --levels"]),
        (["--device", "pcm", "--cells-per-weight", "9", "--levels", "8"], ["2^24"]),
        (["--device", "rram-wan", "--read-noise", "1"], ["no data on 1/f noise"]),
        (["--device", "pcm", "--combine", "median", "--copies", "2"], ["--copies 3"]),
        (["--device", "pcm", "--copies", "0"], ["not an integer from 1 on"]),
        (["--device", "pcm", "--copies-layers", "7-3"], ["not ranges of layers"]),
        (["--device", "bitflip", "--levels", "4"], ["bitflip knows neither"]),
        (["--seed", "-1"], ["not an integer from 0 on"]),
    ],
)
def test_usage_errors(model: Tensors, options: list[str], fragments: list[str]) -> None:
    done = weightsmith("memristor", "model", *options, "-o", "out")
    assert_fails(done, 2, *fragments)
    assert not Path("out").exists()


def test_a_delta_is_refused(model: Tensors) -> None:
    write_directory(Path("tuned"), random_tensors(1, SHAPES))
    weightsmith("delta", "model", "tuned", "--dtype", "bf16", "-o", "delta")
    assert_fails(weightsmith("memristor", "delta", "-o", "out"), 4, "is a delta, not a model")


def test_drift_without_compensation_is_warned_about(model: Tensors) -> None:
    done = weightsmith("memristor", "model", "--device", "pcm", "--time", "1d", "-o", "out")
    assert b"error of gain" in done.stderr
    done = weightsmith(
        "memristor",
        "model",
        "--device",
        "pcm",
        "--time",
        "1d",
        "--compensate",
        "row",
        "-f",
        "-o",
        "out",
    )
    assert b"error of gain" not in done.stderr


def test_strange_shapes(here: Path) -> None:
    shapes = {
        "a.0.up_proj.weight": (0, 5),
        "a.1.up_proj.weight": (5, 0),
        "a.2.up_proj.weight": (1, 1),
        "c": (),
    }
    tensors = random_tensors(0, shapes, "F32")
    Path("odd.safetensors").write_bytes(encode(tensors))
    for device in ("pcm", "rram-cmo", "bitflip"):
        for scale in ("row", "tensor"):
            done = weightsmith("memristor", "odd.safetensors", "--device", device, "--scale", scale)
            assert done.returncode == 0, done.stderr
            assert decode(done.stdout)[0].keys() == tensors.keys()


def test_bits_of_what_is_not_finite_flip_too(model: Tensors) -> None:
    broken(model, 0x7FC0)
    done = weightsmith("memristor", "broken", "--device", "bitflip", "--json", "-o", "out")
    report = json.loads(done.stdout, parse_constant=pytest.fail)
    assert report["figures"][DOWN]["nonfinite"] >= 1


def test_flips_hit_bits_as_they_are_stored(model: Tensors) -> None:
    found = noisy("--device", "bitflip", "--rate", "0.01")
    changed = total = 0
    for name in ANALOG:
        a, b = (np.frombuffer(t[name][2], np.uint16) for t in (model, found))
        changed += sum(int(x).bit_count() for x in a ^ b)
        total += 16 * len(a)
    # A NaN loses its payload, which is why this is a little off; see kernels/elementwise.
    assert abs(changed - 0.01 * total) < 6 * (0.01 * total) ** 0.5
