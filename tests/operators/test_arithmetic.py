"""delta, graft and interpolate against the stated formulas in numpy, element by element."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import (
    SHAPES,
    Trio,
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

F = np.float32


def expected(trio: Trio, formula: Callable[..., np.ndarray]) -> dict[str, bytes]:
    """The formula on float32 arrays of base, tuned and instruct, rounded once to bfloat16."""
    roles = [trio.tensors[role] for role in ("base", "tuned", "instruct")]
    return {
        name: to_bf16(formula(*(from_bf16(tensors[name][2]) for tensors in roles))).tobytes()
        for name in roles[0]
    }


def bytes_of(target: Path) -> dict[str, bytes]:
    return {name: data for name, (_, _, data) in read(target).items()}


@pytest.mark.parametrize("scale", ["1", "0.3", "-2", "1.7"])
def test_graft_is_its_formula(trio: Trio, here: Path, scale: str) -> None:
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "--scale", scale, "-o", "out")
    s = F(scale)
    assert bytes_of(here / "out") == expected(trio, lambda b, t, i: i + s * (t - b))


@pytest.mark.parametrize("lam", ["0.8", "0.5", "1.25", "-0.5"])
def test_interpolate_is_its_formula(trio: Trio, here: Path, lam: str) -> None:
    done = weightsmith("interpolate", trio.instruct, trio.tuned, "--lambda", lam, "-o", "out")
    p, q = F(str(round(1 - float(lam), 6))), F(lam)
    assert bytes_of(here / "out") == expected(trio, lambda b, t, i: p * i + q * t)
    outside = not 0 <= float(lam) <= 1
    assert (b"extrapolates" in done.stderr) == outside


def test_delta_is_its_formula_in_float32(trio: Trio, here: Path) -> None:
    weightsmith("delta", trio.base, trio.tuned, "-o", "delta.safetensors")
    for name, (dtype, _, data) in read(here / "delta.safetensors").items():
        base, tuned = (from_bf16(trio.tensors[role][name][2]) for role in ("base", "tuned"))
        assert dtype == "F32"
        assert data == (tuned - base).tobytes()


@pytest.mark.parametrize(("lam", "role"), [("0", "instruct"), ("1", "tuned"), ("0.0", "instruct")])
def test_interpolate_ends_are_exact(here: Path, lam: str, role: str) -> None:
    """Even where the other end is NaN or infinite, and for negative zero."""
    shapes = {"w": (4,)}
    tensors = {
        "instruct": random_tensors(0, shapes, "F32"),
        "tuned": random_tensors(1, shapes, "F32"),
    }
    special = {
        "instruct": np.array([-0.0, np.nan, 1, np.inf], F).tobytes(),
        "tuned": np.array([np.inf, -0.0, np.nan, -0.0], F).tobytes(),
    }
    for each, data in special.items():
        tensors[each]["w"] = ("F32", (4,), data)
        write_directory(here / each, tensors[each])
    weightsmith("interpolate", "instruct", "tuned", "--lambda", lam, "-o", "out")
    assert bytes_of(here / "out")["w"] == special[role]


def test_values_by_pattern(trio: Trio, here: Path) -> None:
    lambdas = ("--lambda", "0.5", "--lambda", "*.layers.{1..3}.*=0", "--lambda", "*norm*=1")
    weightsmith("interpolate", trio.instruct, trio.tuned, *lambdas, "-o", "out")
    found = bytes_of(here / "out")
    half = expected(trio, lambda b, t, i: F(0.5) * i + F(0.5) * t)
    for name, data in found.items():
        source = "tuned" if "norm" in name else "instruct"
        copied = "norm" in name or ".layers.1." in name
        assert data == (trio.tensors[source][name][2] if copied else half[name])


@pytest.mark.parametrize(("dtype", "name"), [("float32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_output_dtype(trio: Trio, here: Path, dtype: str, name: str) -> None:
    weightsmith(
        "graft",
        trio.base,
        trio.instruct,
        trio.tuned,
        "--dtype",
        dtype,
        "--exclude",
        "*norm*",
        "-o",
        "out",
    )
    found = read(here / "out")
    assert {d for d, _, _ in found.values()} == {name}
    tensor = "model.layers.0.mlp.down_proj.weight"
    b, t, i = (from_bf16(trio.tensors[r][tensor][2]) for r in ("base", "tuned", "instruct"))
    values = i + (t - b)
    stored = {"F32": values, "F16": values.astype(np.float16), "BF16": to_bf16(values)}[name]
    assert found[tensor][2] == stored.tobytes()
    # Excluded tensors are copied, and cast: the whole output has one dtype.
    norm = from_bf16(trio.tensors["instruct"]["model.norm.weight"][2])
    stored = {"F32": norm, "F16": norm.astype(np.float16), "BF16": to_bf16(norm)}[name]
    assert found["model.norm.weight"][2] == stored.tobytes()


def test_inputs_of_several_dtypes_meet_in_float32(here: Path) -> None:
    shapes = {"w": (50,)}
    stored = {"base": "F16", "instruct": "BF16", "tuned": "F32"}
    tensors = {r: random_tensors(i, shapes, d) for i, (r, d) in enumerate(stored.items())}
    for role in stored:
        write_directory(here / role, tensors[role])
    weightsmith("graft", "base", "instruct", "tuned", "-o", "out")
    b = np.frombuffer(tensors["base"]["w"][2], np.float16).astype(F)
    t = np.frombuffer(tensors["tuned"]["w"][2], F)
    i = from_bf16(tensors["instruct"]["w"][2])
    assert read(here / "out")["w"] == ("BF16", (50,), to_bf16(i + (t - b)).tobytes())


def test_narrowing_that_overflows_is_refused_and_counted(here: Path) -> None:
    large = {"a": ("F32", (3,), np.array([1e5, 1, -7e4], F).tobytes())}
    (here / "large.safetensors").write_bytes(encode(large))
    done = weightsmith("cat", "large.safetensors", "--dtype", "float16", "-o", "out.safetensors")
    assert_fails(done, 1, "2 values in 1 tensors are too large for F16", "tensor a")
    assert [path.name for path in here.iterdir()] == ["large.safetensors"]


def test_infinity_and_nan_pass_through(here: Path) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1], F)
    for role in ("base", "instruct", "tuned"):
        data = values if role == "instruct" else np.zeros(4, F)
        (here / f"{role}.safetensors").write_bytes(encode({"w": ("F32", (4,), data.tobytes())}))
    done = weightsmith(
        "graft", "base.safetensors", "instruct.safetensors", "tuned.safetensors", "--dtype", "fp16"
    )
    found = np.frombuffer(decode(done.stdout)[0]["w"][2], np.float16)
    np.testing.assert_array_equal(found, values.astype(np.float16))


def test_lossless_restores_tuned(trio: Trio, here: Path) -> None:
    script = f"weightsmith delta --lossless {trio.base} {trio.tuned} | weightsmith graft {trio.base} {trio.base}"
    restored, _ = decode(shell(script).stdout)
    assert restored == trio.tensors["tuned"]


def test_lossless_restores_every_bit_pattern_and_dtype(here: Path) -> None:
    rng = np.random.default_rng(5)
    tensors = {
        role: {
            dtype: (dtype, (1000,), rng.bytes(1000 * width))
            for dtype, width in {
                "BF16": 2,
                "F16": 2,
                "F32": 4,
                "I64": 8,
                "U8": 1,
                "F8_E4M3": 1,
            }.items()
        }
        for role in ("base", "tuned")
    }
    for role, each in tensors.items():
        (here / f"{role}.safetensors").write_bytes(encode(each))
    delta = "weightsmith delta --lossless base.safetensors tuned.safetensors"
    done = shell(f"{delta} | weightsmith graft base.safetensors base.safetensors")
    assert decode(done.stdout)[0] == tensors["tuned"], done.stderr


def test_lossless_onto_another_model_is_the_graft(trio: Trio, here: Path) -> None:
    delta = f"weightsmith delta --lossless {trio.base} {trio.tuned}"
    done = shell(f"{delta} | weightsmith graft {trio.base} {trio.instruct} --scale 0.7")
    found = {name: data for name, (_, _, data) in decode(done.stdout)[0].items()}
    assert found == expected(trio, lambda b, t, i: i + F(0.7) * (t - b))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    jobs=st.integers(1, 5),
    memory=st.sampled_from(["1", "100kB", "1MiB", "1GiB"]),
    shards=st.sampled_from([None, 3000, 10000]),
    order=st.permutations(list(SHAPES)),
)
def test_nothing_but_the_inputs_decides(
    tmp_path_factory: pytest.TempPathFactory,
    jobs: int,
    memory: str,
    shards: int | None,
    order: list[str],
) -> None:
    """The result is the same for any jobs, memory, sharding and order of tensors."""
    import weightsmith as ws

    root = tmp_path_factory.mktemp("inputs")
    roles = ("base", "tuned", "instruct")
    shapes = {"big": (300, 1000), **{n: s for n, (_, s, _) in random_tensors(0).items()}}
    for seed, role in enumerate(roles):
        tensors = random_tensors(seed, shapes)
        write_directory(root / role, tensors)
        shuffled = {name: tensors[name] for name in ["big", *order]}
        write_directory(root / f"{role}-shuffled", shuffled, shard_size=shards)
    base, tuned, instruct = (root / role for role in roles)
    ws.graft(base, instruct, tuned, output=root / "plain", scale="0.9")
    ws.graft(
        *(root / f"{role}-shuffled" for role in ("base", "instruct", "tuned")),
        output=root / "varied",
        scale="0.9",
        jobs=jobs,
        memory=memory,
    )
    assert read(root / "varied") == read(root / "plain")
    if order == list(SHAPES) and shards is None:
        assert (root / "varied/model.safetensors").read_bytes() == (
            root / "plain/model.safetensors"
        ).read_bytes()
