"""timber against the paper's method: full SVD in float64, every tensor, every rule."""

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support import (
    BIN,
    Tensors,
    assert_fails,
    decode,
    encode,
    environment,
    from_bf16,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

from weightsmith.spectral import rank_of

SHAPES = {
    "model.embed_tokens.weight": (32000, 48),
    "model.layers.0.self_attn.q_proj.weight": (120, 120),
    "model.layers.0.self_attn.k_proj.weight": (40, 120),
    "model.layers.0.mlp.down_proj.weight": (120, 300),
    "model.layers.0.mlp.up_proj.weight": (300, 120),
    "model.layers.0.mlp.experts.gate_up_proj": (4, 30, 60),
    "model.layers.0.input_layernorm.weight": (120,),
    "model.norm.weight": (120,),
    "lm_head.weight": (32000, 48),
}
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
Q = "model.layers.0.self_attn.q_proj.weight"


def pair(shapes: dict[str, tuple[int, ...]] = SHAPES) -> tuple[Tensors, Tensors]:
    """Base, and instruct = base + noise + something of low rank, as bfloat16."""
    base = random_tensors(0, shapes)
    rng = np.random.default_rng(1)
    instruct: Tensors = {}
    for name, (dtype, shape, data) in base.items():
        flat = (shape[0], -1) if len(shape) > 1 else (1, -1)
        values = from_bf16(data).reshape(flat)
        rows, columns = values.shape
        spikes = rng.standard_normal((rows, 4)) @ rng.standard_normal((4, columns))
        change = 0.004 * rng.standard_normal((rows, columns)) + 0.004 * spikes
        instruct[name] = dtype, shape, to_bf16(values + change.astype(np.float32)).tobytes()
    return base, instruct


def official(base: bytes, instruct: bytes, shape: Sequence[int], gamma: float) -> np.ndarray:
    """The published method as far as it is known: float32 difference, float64 SVD, bfloat16."""
    b, i = (torch.from_numpy(from_bf16(x).copy()).reshape(shape[0], -1) for x in (base, instruct))
    u, s, v = torch.linalg.svd((i - b).double(), full_matrices=False)
    s[rank_of(s) :] *= gamma
    return to_bf16((b.double() + (u * s) @ v).float().numpy().reshape(-1))


@pytest.fixture
def models(here: Path) -> tuple[Tensors, Tensors]:
    base, instruct = pair()
    write_directory(Path("base"), base)
    write_directory(Path("instruct"), instruct)
    return base, instruct


@pytest.mark.parametrize("gamma", ["0", "0.2"])
def test_equals_the_official_method(models: tuple[Tensors, Tensors], gamma: str) -> None:
    base, instruct = models
    assert weightsmith("timber", "base", "instruct", "--gamma", gamma, "-o", "out").returncode == 0
    found = read(Path("out"))
    assert list(found) == list(instruct)
    elements = differing = 0
    for name, (dtype, shape, data) in found.items():
        assert (dtype, shape) == ("BF16", SHAPES[name])
        if len(shape) == 1:
            assert data == instruct[name][2]
            continue
        ours = np.frombuffer(data, np.uint16).astype(np.int32)
        theirs = official(base[name][2], instruct[name][2], shape, float(gamma)).astype(np.int32)
        distance = np.abs(ours - theirs)
        assert distance.max() <= 1, "at most one bfloat16 step"
        elements, differing = elements + len(ours), differing + np.count_nonzero(distance)
    assert differing / elements < 1e-4


def test_gamma_one_is_instruct(models: tuple[Tensors, Tensors]) -> None:
    weightsmith("timber", "base", "instruct", "--gamma", "1", "-o", "out")
    assert read(Path("out")) == models[1]


def test_one_decomposition_serves_every_gamma(models: tuple[Tensors, Tensors]) -> None:
    """W(gamma) = gamma W_I + (1 - gamma) W(0): interpolate gives the family from gamma 0."""
    weightsmith("timber", "base", "instruct", "--dtype", "float32", "-o", "zero")
    weightsmith("timber", "base", "instruct", "--gamma", "0.3", "-o", "direct")
    weightsmith(
        "interpolate", "zero", "instruct", "--lambda", "0.3", "--dtype", "bf16", "-o", "blend"
    )
    direct, blend = read(Path("direct")), read(Path("blend"))
    for name, (_, _, data) in direct.items():
        ours, theirs = from_bf16(data), from_bf16(blend[name][2])
        # One bfloat16 step; or, where the terms cancel, the float32 rounding of the terms.
        step = 2.0**-7 * np.maximum(np.abs(ours), np.abs(theirs))
        assert (np.abs(ours - theirs) <= np.maximum(step, 2.0**-23)).all()


def test_options_that_choose(models: tuple[Tensors, Tensors]) -> None:
    base, instruct = models
    weightsmith("timber", "base", "instruct", "--no-embeddings", "-o", "out")
    found = read(Path("out"))
    assert found[EMBEDDING] == instruct[EMBEDDING]
    assert found[HEAD] == instruct[HEAD]
    assert found[Q] != instruct[Q]
    weightsmith("timber", "base", "instruct", "--k", "3", "--k", "*q_proj*=0", "-o", "k")
    assert read(Path("k"))[Q] == base[Q]
    delta = from_bf16(read(Path("k"))[EMBEDDING][2]) - from_bf16(base[EMBEDDING][2])
    s = np.linalg.svd(delta.reshape(32000, 48), compute_uv=False)
    assert s[2] > 10 * s[3]
    weightsmith("timber", "base", "instruct", "--energy", "1", "-o", "energy")
    assert read(Path("energy")) == instruct
    assert_fails(
        weightsmith("timber", "base", "instruct", "--k", "3", "--energy", "0.5"), 2, "one question"
    )
    assert_fails(weightsmith("timber", "base", "instruct", "--energy", "1.5"), 2, "not a share")


def test_degenerate_deltas(here: Path) -> None:
    shapes = {"zero": (30, 20), "row": (1, 40), "rank-one": (30, 20), "empty": (0, 5), "number": ()}
    base = random_tensors(0, shapes, "F32")
    instruct = dict(base)
    rng = np.random.default_rng(3)
    for name in ("row", "rank-one", "number"):
        shape = shapes[name]
        change = (
            np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])) if shape else 1
        )
        values = np.frombuffer(base[name][2], np.float32).reshape(shape)
        instruct[name] = "F32", shape, (values + change).astype(np.float32).tobytes()
    for role, tensors in {"base": base, "instruct": instruct}.items():
        Path(f"{role}.safetensors").write_bytes(encode(tensors))
    done = weightsmith("timber", "base.safetensors", "instruct.safetensors")
    assert done.returncode == 0, done.stderr
    for name, (_, _, data) in decode(done.stdout)[0].items():
        found, wanted = (np.frombuffer(x, np.float32) for x in (data, instruct[name][2]))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_nan_is_refused_by_name(models: tuple[Tensors, Tensors]) -> None:
    _, instruct = models
    data = bytearray(instruct[Q][2])
    data[0:2] = (0x7FC0).to_bytes(2, "little")
    write_directory(Path("broken"), instruct | {Q: ("BF16", SHAPES[Q], bytes(data))})
    done = weightsmith("timber", "base", "broken", "-o", "out")
    assert_fails(done, 1, "not finite", Q, "--exclude")
    assert not Path("out").exists()
    assert weightsmith("timber", "base", "broken", "--exclude", Q, "-o", "out").returncode == 0


def test_names_that_differ(models: tuple[Tensors, Tensors]) -> None:
    base, instruct = models
    write_directory(Path("small"), {n: t for n, t in base.items() if n not in (HEAD, Q)})
    done = weightsmith("timber", "small", "instruct", "--json", "-o", "out")
    found = read(Path("out"))
    assert found[HEAD] == instruct[HEAD]
    assert found[Q] == instruct[Q]
    assert {HEAD, Q, NORM} <= set(json.loads(done.stdout)["copied"])
    write_directory(Path("less"), {n: t for n, t in instruct.items() if n != Q})
    done = weightsmith("timber", "base", "less", "--json", "-o", "out2")
    assert json.loads(done.stdout)["skipped"] == {Q: "not in instruct"}


def test_in_a_pipe(models: tuple[Tensors, Tensors]) -> None:
    done = shell("weightsmith cat instruct/model.safetensors | weightsmith timber base -o out")
    assert done.returncode == 2  # a single file says nothing of its sidecars
    done = shell("weightsmith cat instruct | weightsmith timber base -o out")
    assert done.returncode == 0, done.stderr
    weightsmith("timber", "base", "instruct", "-o", "direct")
    assert read(Path("out")) == read(Path("direct"))


def cached(directory: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(directory).iterdir()}


def test_the_cache_saves_every_decomposition(models: tuple[Tensors, Tensors]) -> None:
    weightsmith("timber", "base", "instruct", "--cache", "cache", "-o", "first")
    before = cached("cache")
    assert len(before) == sum(len(shape) >= 2 for shape in SHAPES.values())
    weightsmith("timber", "base", "instruct", "--cache", "cache", "--gamma", "0.5", "-o", "second")
    assert cached("cache") == before
    weightsmith("timber", "base", "instruct", "--gamma", "0.5", "-o", "uncached")
    assert read(Path("second")) == read(Path("uncached"))
    # A file that a crash has broken is as good as none.
    victim = Path("cache") / next(iter(before))
    victim.write_bytes(victim.read_bytes()[:100])
    weightsmith("timber", "base", "instruct", "--cache", "cache", "-o", "third")
    assert read(Path("third")) == read(Path("first"))
    assert {n for n, t in cached("cache").items() if t != before[n]} == {victim.name}


@pytest.mark.slow
def test_resume_decomposes_no_finished_tensor_again(here: Path) -> None:
    """Killed while it works: what the journal names is taken as it is, and never read again."""
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (700, 700) for i in range(80)}
    base, instruct = pair(shapes)
    write_directory(Path("base"), base)
    write_directory(Path("instruct"), instruct)
    command = [BIN / "weightsmith", "timber", "base", "instruct", "--jobs", "1", "--json"]
    journal = Path(".out.weightsmith/journal.jsonl")
    with subprocess.Popen([*command, "-o", "out"], env=environment(), stdout=-3) as process:
        while not journal.exists() or len(journal.read_text().splitlines()) < 2:
            time.sleep(0.02)
            assert process.poll() is None, "finished before it could be killed"
        process.send_signal(signal.SIGKILL)
    named = [n for line in journal.read_text().splitlines()[1:] for n in json.loads(line)["done"]]
    assert not Path("out").exists()
    again = [*command, "-o", "out", "--resume", "--cache", "cache"]
    done = subprocess.run(again, env=environment(), check=True, capture_output=True)
    assert json.loads(done.stdout)["resumed"] == len(named) > 0
    assert len(list(Path("cache").iterdir())) == len(shapes) - len(named)
    weightsmith("timber", "base", "instruct", "-o", "whole")
    assert (
        Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    )
