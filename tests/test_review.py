"""What reviewers broke once: each of these was wrong before it was mended."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import (
    CONFIG,
    Trio,
    assert_fails,
    decode,
    encode,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)

import weightsmith as ws
from weightsmith.checkpoint.sidecar import apply_patch
from weightsmith.errors import UsageError


def test_a_small_local_edit_is_not_lost_by_a_lossless_delta(trio: Trio, here: Path) -> None:
    """INSTRUCT looks like BASE in every sample of the fingerprint, but is not BASE."""
    tensors = dict(trio.tensors["base"])
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    edited = bytearray(data)
    edited[80] ^= 1
    tensors["model.embed_tokens.weight"] = dtype, shape, bytes(edited)
    write_directory(Path("local"), tensors)
    fingerprints = [
        json.loads(weightsmith("inspect", m, "--json").stdout)["fingerprint"]
        for m in (trio.base, "local")
    ]
    assert fingerprints[0] == fingerprints[1]
    delta = f"weightsmith delta {trio.base} {trio.tuned} --lossless"
    piped = shell(f"{delta} | weightsmith graft {trio.base} local")
    direct = weightsmith("graft", trio.base, "local", trio.tuned)
    assert decode(piped.stdout)[0] == decode(direct.stdout)[0]


@pytest.mark.parametrize(
    "target", ["| weightsmith cat --sidecars none -o out", "> out.safetensors"]
)
def test_overflow_never_completes_a_stream(here: Path, target: str) -> None:
    values = np.ones(5000, np.float32)
    values[10] = 1e6
    Path("big.safetensors").write_bytes(encode({"w": ("F32", (5000,), values.tobytes())}))
    done = shell(f"weightsmith cat big.safetensors --dtype fp16 {target}")
    assert done.returncode != 0
    assert not Path("out").exists()
    if Path("out.safetensors").exists():
        assert_fails(weightsmith("verify", "out.safetensors"), 3, "truncated")


def test_bytes_after_a_stream_never_complete_the_next(trio: Trio, here: Path) -> None:
    script = f"(cat {trio.tuned}/model.safetensors; echo x) | weightsmith graft {trio.base} {trio.instruct}"
    done = shell(f"{script} | weightsmith cat --sidecars none -o out; echo ${{PIPESTATUS[@]}}")
    assert done.stdout.split() == [b"0", b"3", b"3"]
    assert not Path("out").exists()


@pytest.mark.parametrize("dtype", ["F64", "F8_E5M2", "F8_E4M3", "I64"])
def test_verify_takes_every_dtype(here: Path, dtype: str) -> None:
    width = {"F64": 8, "I64": 8}.get(dtype, 1)
    Path("a.safetensors").write_bytes(encode({"w": (dtype, (3,), bytes(3 * width))}))
    assert weightsmith("verify", "a.safetensors").returncode == 0
    nan = {
        "F64": np.array([np.nan] * 3).tobytes(),
        "F8_E5M2": b"\x7f\x00\x7f",
        "F8_E4M3": b"\x7f\0\xff",
    }
    if dtype in nan:
        Path("b.safetensors").write_bytes(encode({"w": (dtype, (3,), nan[dtype])}))
        assert weightsmith("verify", "b.safetensors").returncode == 1


@pytest.mark.parametrize(
    "record",
    [
        '{"operator":"x","version":"0","parameters":[1],"inputs":{}}',
        '{"operator":"x","version":"0","parameters":{},"inputs":["a"]}',
        '{"operator":"x","version":"0","parameters":{},"inputs":{"a":"b"}}',
        '{"operator":"x","version":"0","parameters":{},"inputs":{"a":{"fingerprint":3}}}',
        '{"operator":["x"]}',
        "[1]",
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_malformed_records_are_ignored(here: Path, record: str) -> None:
    write_directory(Path("side"), random_tensors(0))
    Path("a.safetensors").write_bytes(encode(random_tensors(1), {"weightsmith.provenance": record}))
    assert weightsmith("inspect", "a.safetensors").returncode == 0
    done = weightsmith("cat", "a.safetensors", "--dtype", "fp32", "--sidecars", "side", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert_fails(weightsmith("verify", "side", "--input-of", "a.safetensors"), 4, "does not name")


def test_metadata_cannot_paint_the_terminal(here: Path) -> None:
    evil = "\x1b[31mred"
    mark = json.dumps({"base": evil, "encoding": "difference"})
    record = {
        "operator": evil,
        "version": evil,
        "parameters": {},
        "inputs": {evil: {"fingerprint": evil}},
    }
    metadata = {"weightsmith.delta": mark, "weightsmith.provenance": json.dumps(record)}
    Path("a.safetensors").write_bytes(encode(random_tensors(1), metadata))
    Path("b.safetensors").write_bytes(encode(random_tensors(2)))
    for command in (
        "graft b.safetensors b.safetensors a.safetensors",
        "verify b.safetensors --input-of a.safetensors",
        "inspect a.safetensors",
    ):
        done = weightsmith(*command.split())
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"red" in done.stdout + done.stderr


def test_a_config_patch_that_was_read_changes_only_what_ours_change(here: Path) -> None:
    side = write_directory(Path("side"), random_tensors(0))
    patch = {
        "auto_map": {"AutoModel": "evil.Evil"},
        "model_type": "evil",
        "vocab_size": 7,
        "dtype": [],
    }
    Path("a.safetensors").write_bytes(
        encode(random_tensors(1), {"weightsmith.config_patch": json.dumps(patch)})
    )
    assert weightsmith("cat", "a.safetensors", "--sidecars", side, "-o", "out").returncode == 0
    assert json.loads(Path("out/config.json").read_text()) == CONFIG | {"vocab_size": 7}


def test_the_order_of_rules_is_recorded(trio: Trio, here: Path) -> None:
    rules = ["--lambda", "1", "--lambda", "*.mlp.*=0.2", "--lambda", "*.layers.0.*=0.9"]
    swapped = [*rules[:2], *rules[4:], *rules[2:4]]
    records = []
    for number, given in enumerate((rules, swapped)):
        target = f"{number}.safetensors"
        weightsmith("interpolate", trio.base, trio.tuned, *given, "-o", target)
        records.append(decode(Path(target).read_bytes())[1]["weightsmith.provenance"])
    assert read(Path("0.safetensors")) != read(Path("1.safetensors"))
    assert records[0] != records[1]


def test_a_forced_graft_records_the_base_that_was_used(trio: Trio, here: Path) -> None:
    weightsmith("delta", trio.base, trio.tuned, "-o", "delta.safetensors")
    forced = ["graft", trio.instruct, trio.instruct, "delta.safetensors", "--force"]
    weightsmith(*forced, "-o", "forced.safetensors")
    record = json.loads(
        decode(Path("forced.safetensors").read_bytes())[1]["weightsmith.provenance"]
    )
    base = json.loads(weightsmith("inspect", trio.base, "--json").stdout)["fingerprint"]
    assert record["inputs"]["base"]["fingerprint"] == base


def test_a_base_that_came_by_pipe_is_checked_by_shape_and_says_so(trio: Trio, here: Path) -> None:
    shell(f"cat {trio.base}/model.safetensors | weightsmith delta - {trio.tuned} > d.safetensors")
    done = shell(
        f"cat {trio.base}/model.safetensors | weightsmith graft - {trio.instruct} d.safetensors"
    )
    assert done.returncode == 0
    assert b"only names and shapes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cat", "BASE", "--sidecars", "nowhere", "-o", "out"], 2, "no such directory"),
        (["cat", "BASE", "-n", "-o", "BASE"], 2, "the target exists"),
        (["verify", "BASE", "--fingerprint", "nonsense:00"], 2, "--fingerprint nonsense:00"),
        (["delta", "BASE", "BASE", "--missing", "keep"], 2, "one of error, drop"),
    ],
)
def test_usage_errors(
    arguments: list[str], code: int, message: str, trio: Trio, here: Path
) -> None:
    given = [str(trio.base) if a == "BASE" else a for a in arguments]
    assert_fails(weightsmith(*given), code, message)


def test_dropping_an_untied_head_needs_a_decision(trio: Trio, here: Path) -> None:
    tensors = {n: t for n, t in trio.tensors["base"].items() if n != "lm_head.weight"}
    write_directory(Path("tied"), tensors)
    arguments = ["interpolate", trio.tuned, "tied", "--lambda", "0.5", "--missing", "drop"]
    assert_fails(weightsmith(*arguments, "-o", "out"), 4, "tied", "--lm-head")
    assert weightsmith(*arguments, "--lm-head", "tie", "-o", "out").returncode == 0
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is True


def test_tokenizers_are_compared_through_a_pipe(trio: Trio, here: Path) -> None:
    write_directory(Path("other"), random_tensors(5), vocabulary=("z", "y", "x"))
    done = shell(f"weightsmith cat other | weightsmith interpolate {trio.base} - --lambda 0.5")
    assert_fails(done, 4, "token 0 means two things")


def test_configs_of_multimodal_models_are_patched_inside() -> None:
    config = {"model_type": "vlm", "text_config": {"vocab_size": 1, "torch_dtype": "bfloat16"}}
    patched = apply_patch(config, {"vocab_size": 2})
    assert patched == {
        "model_type": "vlm",
        "text_config": {"vocab_size": 2, "torch_dtype": "bfloat16"},
    }


def test_json_on_a_stream_is_alone_there(trio: Trio) -> None:
    done = weightsmith("interpolate", trio.base, trio.tuned, "--lambda", "1.5", "--json")
    assert json.loads(done.stderr)["warnings"] == ["lambda 1.5 extrapolates"]


def test_python_functions_speak_as_the_commands_do(trio: Trio, here: Path) -> None:
    ws.cat(trio.base, output="mlp.safetensors", select="*mlp*", memory="1MiB")
    assert all("mlp" in name for name in read(Path("mlp.safetensors")))
    ws.cat(trio.base, output="sharded", shard_size="4kB")
    assert len(list(Path("sharded").glob("*.safetensors"))) > 1
    for wrong in (
        {"dtype": "int8"},
        {"memory": "lots"},
        {"colour": "red"},
    ):
        with pytest.raises(UsageError):
            ws.cat(trio.base, output="x", **wrong)
    with pytest.raises(UsageError, match="takes base, instruct, tuned"):
        ws.graft(trio.base, output="x")
    with pytest.raises(UsageError, match="got 4 inputs"):
        ws.graft(*[trio.base] * 4, output="x")
    assert "graft" in dir(ws)
    assert "Any" not in dir(ws)
