"""inspect --stats: figures by tensor, from files and from streams."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import Trio, encode, from_bf16, shell, weightsmith


def contents(*arguments: object) -> dict:
    done = weightsmith("inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return {entry["name"]: entry.get("stats") for entry in json.loads(done.stdout)["contents"]}


def test_figures_against_numpy(trio: Trio) -> None:
    for name, stats in contents(trio.base, "--stats", "--spectrum").items():
        values = from_bf16(trio.tensors["base"][name][2]).astype(np.float64)
        assert stats["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert stats["std"] == pytest.approx(values.std(), rel=1e-12)
        assert stats["max_abs"] == np.abs(values).max()
        assert stats["norm"] == pytest.approx(np.linalg.norm(values), rel=1e-12)
        assert (stats["zeros"], stats["nonfinite"]) == (0, 0)
        shape = trio.tensors["base"][name][1]
        if len(shape) == 1:
            assert stats["erank"] is None
        else:
            s = np.linalg.svd(values.reshape(shape), compute_uv=False)
            p = s / s.sum()
            assert stats["erank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_only_on_request(trio: Trio) -> None:
    assert set(contents(trio.base).values()) == {None}
    assert "erank" not in contents(trio.base, "--stats")["lm_head.weight"]


def test_a_stream_gives_the_same(trio: Trio) -> None:
    piped = shell(f"weightsmith cat {trio.base} | weightsmith inspect --stats --json")
    found = {entry["name"]: entry["stats"] for entry in json.loads(piped.stdout)["contents"]}
    assert found == contents(trio.base, "--stats")


def test_odd_tensors(here: Path) -> None:
    bad = np.array([[0, np.nan], [np.inf, 2]], np.float32)
    tensors = {
        "bad": ("F32", (2, 2), bad.tobytes()),
        "empty": ("F32", (0, 4), b""),
        "scalar": ("F32", (), np.float32(3).tobytes()),
        "ids": ("I64", (2,), bytes(16)),
    }
    Path("m.safetensors").write_bytes(encode(tensors))
    found = contents("m.safetensors", "--spectrum")
    assert found["ids"] is None
    assert (found["bad"]["nonfinite"], found["bad"]["zeros"], found["bad"]["max_abs"]) == (
        2,
        0.5,
        2,
    )
    assert found["bad"]["erank"] is None
    assert (found["empty"]["norm"], found["scalar"]["mean"]) == (0, 3)
    text = weightsmith("inspect", "m.safetensors", "--stats").stdout.decode()
    assert "bad: 2 elements NaN or infinite, left out" in text
