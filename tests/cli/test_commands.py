"""The command line itself: help, exit codes, reports, and what must not be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import (
    BIN,
    Trio,
    assert_fails,
    encode,
    environment,
    python,
    random_tensors,
    shell,
    weightsmith,
    write_directory,
)

import weightsmith as ws
from weightsmith.engine.settings import parse_size
from weightsmith.errors import UsageError


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["graft", "-h"], ["inspect", "M"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str], trio: Trio) -> None:
    given = [str(trio.base) if a == "M" else a for a in arguments]
    code = (
        f"import sys; sys.argv = ['weightsmith', *{given!r}]\n"
        "from weightsmith.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'triton', 'tqdm', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    python(code)


def test_streaming_imports_neither_torch_nor_numpy(trio: Trio) -> None:
    code = (
        "import sys, weightsmith\n"
        f"weightsmith.graft({str(trio.base)!r}, {str(trio.instruct)!r}, {str(trio.tuned)!r},"
        " output='/dev/null')\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    python(code)


def test_the_named_operator_is_imported_alone() -> None:
    code = (
        "import sys\n"
        "from weightsmith.operators.registry import operator_named, operators\n"
        "assert operator_named('task-arithmetic').name == 'task-arithmetic'\n"
        "assert 'weightsmith.operators.memristor' not in sys.modules\n"
        "assert operator_named('numbers') is None and operator_named('..') is None\n"
        "for name, operator in operators().items():\n"
        "    assert operator.__module__.rpartition('.')[2] == name.replace('-', '_')"
    )
    python(code)


def test_help_before_a_command_lists_all() -> None:
    assert b"memristor" in weightsmith("--help", "graft").stdout


def test_version() -> None:
    assert weightsmith("--version").stdout == f"weightsmith {ws.__version__}\n".encode()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command"),
        (["graft", "a"], 2, "Missing argument"),
        (["graft", "a", "b", "--nonsense"], 2, "No such option"),
        (["interpolate", "BASE", "TUNED"], 2, "--lambda is missing"),
        (["interpolate", "BASE", "TUNED", "--lambda", "x"], 2, "--lambda x: not a number"),
        (["interpolate", "BASE", "TUNED", "--lambda", "1e39"], 2, "too large for float32"),
        (["graft", "BASE", "TUNED", "TUNED", "--missing", "maybe"], 2, "one of error, keep, drop"),
        (["cat", "BASE", "--dtype", "int8"], 2, "float32, float16 or bfloat16"),
        (["cat", "BASE", "--memory", "lots"], 2, "--memory lots is not a size"),
        (["cat", "BASE", "--select", "x*"], 2, "--select 'x*' matches no tensor"),
        (["cat", "BASE", "--exclude", "*"], 2, "no tensor is left"),
        (["cat", "BASE", "--shard-size", "1MB", "-o", "x.safetensors"], 2, "--shard-size needs"),
        (["cat", "BASE", "BASE"], 4, "tensor is in"),
        (["graft", "BASE", "-"], 2, "standard input can be only one"),
        (["delta", "BASE"], 2, "Missing argument"),
        (["cat", "nowhere"], 1, "No such file"),
        (["cat", "hf://name"], 2, "not a hub address"),
        (["delta", "BASE", "TUNED", "--lossless", "--dtype", "bf16"], 2, "--dtype makes no sense"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, message: str, trio: Trio, here: Path) -> None:
    paths = {"BASE": str(trio.base), "TUNED": str(trio.tuned)}
    assert_fails(weightsmith(*(paths.get(a, a) for a in arguments)), code, message)
    assert list(here.iterdir()) == []


def test_an_internal_error_is_70_without_a_traceback(here: Path) -> None:
    code = (
        "import sys; sys.argv = ['weightsmith', 'cat', 'x']\n"
        "import weightsmith.cli.command as c; c.execute_chain = None\n"
        "from weightsmith.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env=environment()
    )
    assert_fails(done, 70, "internal error", "please report it")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("2GB", 2 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5kB", 1500),
        ("3 M", 3 * 10**6),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "0", "-1", "GB", "1XB", "1e9"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text, "--memory")


def test_inspect_reports(trio: Trio, here: Path) -> None:
    weightsmith("delta", trio.base, trio.tuned, "-o", "delta.safetensors")
    facts = json.loads(weightsmith("inspect", "delta.safetensors", "--json").stdout)
    base = json.loads(weightsmith("inspect", trio.base, "--json").stdout)
    assert facts["delta_of"] == base["fingerprint"]
    assert facts["dtypes"]["F32"]["tensors"] == len(trio.tensors["base"])
    assert facts["provenance"]["operator"] == "delta"
    assert base["model_type"] == "llama"
    text = weightsmith("inspect", "delta.safetensors").stdout.decode()
    assert f"a delta of base {base['fingerprint']}" in text
    piped = shell(f"weightsmith delta {trio.base} {trio.tuned} | weightsmith inspect --json")
    assert json.loads(piped.stdout)["provenance"] == facts["provenance"]


def test_fingerprints_do_not_depend_on_path_or_sharding(here: Path) -> None:
    tensors = random_tensors(1)
    write_directory(Path("a"), tensors)
    write_directory(Path("b"), dict(reversed(tensors.items())), shard_size=4000)
    found = [json.loads(weightsmith("inspect", m, "--json").stdout)["fingerprint"] for m in "ab"]
    assert found[0] == found[1]
    write_directory(Path("c"), random_tensors(2))
    assert json.loads(weightsmith("inspect", "c", "--json").stdout)["fingerprint"] != found[0]


def test_full_digest_sees_what_samples_miss(here: Path) -> None:
    tensors = {"w": ("F32", (100_000,), np.zeros(100_000, np.float32).tobytes())}
    Path("a.safetensors").write_bytes(encode(tensors))
    data = bytearray(tensors["w"][2])
    data[777] ^= 1
    Path("b.safetensors").write_bytes(encode({"w": ("F32", (100_000,), bytes(data))}))
    delta = ["delta", "a.safetensors", "a.safetensors", "-o"]
    weightsmith(*delta, "sampled.safetensors")
    weightsmith(*delta, "full.safetensors", "--digest", "full")
    graft = ["graft", "b.safetensors", "b.safetensors"]
    assert weightsmith(*graft, "sampled.safetensors").returncode == 0
    assert_fails(weightsmith(*graft, "full.safetensors"), 4, "another base", "full:")


def test_verify(trio: Trio, here: Path) -> None:
    assert b"sound" in weightsmith("verify", trio.base).stdout
    assert b"sound" in shell(f"cat {trio.base}/model.safetensors | weightsmith verify").stdout
    values = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    Path("bad.safetensors").write_bytes(encode({"w": ("F32", (4,), values.tobytes())}))
    done = weightsmith("verify", "bad.safetensors")
    assert done.returncode == 1
    assert b"w: 1 NaN, 2 infinite" in done.stdout
    assert weightsmith("verify", "bad.safetensors", "--allow-nonfinite").returncode == 0
    report = json.loads(weightsmith("verify", "bad.safetensors", "--json").stdout)
    assert report["nonfinite"] == {"w": {"nan": 1, "infinite": 2}}


def test_verify_against_fingerprints(trio: Trio, here: Path) -> None:
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "-o", "out")
    named = weightsmith("verify", trio.tuned, "--input-of", "out")
    assert b"the tuned of out" in named.stdout
    assert_fails(weightsmith("verify", "out", "--input-of", "out"), 4, "does not name")
    print_of = json.loads(weightsmith("inspect", "out", "--json").stdout)["fingerprint"]
    assert weightsmith("verify", "out", "--fingerprint", print_of).returncode == 0
    done = weightsmith("verify", trio.base, "--fingerprint", print_of)
    assert_fails(done, 4, "another fingerprint")


def test_reports_go_where_data_does_not(trio: Trio, here: Path) -> None:
    to_file = weightsmith("cat", trio.base, "-o", "out", "--json")
    assert json.loads(to_file.stdout)["copied"] == list(trio.tensors["base"])
    to_stream = weightsmith("cat", trio.base, "--json")
    assert json.loads(to_stream.stderr)["output"] == "-"
    assert to_stream.stdout[8:9] == b"{"
    quiet = weightsmith("cat", trio.base, "-q", "-o", "quiet")
    assert quiet.stderr == quiet.stdout == b""
    loud = weightsmith("cat", trio.base, "-v", "-o", "loud")
    assert loud.stderr.count(b"copied") >= len(trio.tensors["base"])


def test_dry_run_writes_nothing(trio: Trio, here: Path) -> None:
    done = weightsmith("graft", trio.base, trio.instruct, trio.tuned, "--dry-run", "-o", "out")
    assert done.stdout.count(b"changed") == len(trio.tensors["base"])
    assert list(here.iterdir()) == []


def test_the_python_api(trio: Trio, here: Path) -> None:
    outcome = ws.graft(trio.base, trio.instruct, trio.tuned, output="api", scale=0.5)
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "--scale", "0.5", "-o", "cli")
    assert len(outcome.changed) == len(trio.tensors["base"])
    assert (here / "api/model.safetensors").read_bytes() == (
        here / "cli/model.safetensors"
    ).read_bytes()
    assert "graft" in dir(ws)
    with pytest.raises(AttributeError, match="nonsense"):
        ws.nonsense  # noqa: B018


def test_completion_is_offered() -> None:
    done = subprocess.run(
        [BIN / "weightsmith", "--show-completion", "bash"],
        capture_output=True,
        check=False,
        env=environment() | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert b"_WEIGHTSMITH_COMPLETE" in done.stdout


@pytest.mark.parametrize(("words", "found"), [("gr", "graft"), ("graft --sc", "--scale")])
def test_completion_knows_commands_and_their_options(words: str, found: str) -> None:
    asked = {"COMP_WORDS": f"weightsmith {words}", "COMP_CWORD": str(len(words.split()))}
    done = subprocess.run(
        [BIN / "weightsmith"],
        capture_output=True,
        check=False,
        env=environment() | asked | {"_WEIGHTSMITH_COMPLETE": "complete_bash"},
    )
    assert done.stdout.decode().split() == [found]


def test_help_lists_every_command() -> None:
    """Also behind an option, and where a command is misspelt the nearest is offered."""
    listed = weightsmith("--help").stdout.decode().partition("Commands:")[2]
    assert {line.split()[0] for line in listed.strip().splitlines()} >= {"cat", "graft", "verify"}
    assert_fails(weightsmith("grft"), 2, "Did you mean 'graft'?")
    assert weightsmith("--", "graft", "--help").stdout.startswith(b"Usage: weightsmith graft")


def test_an_interrupt_does_not_wait_for_a_decomposition(trio: Trio, here: Path) -> None:
    """A worker that is still in native code when the program ends must not abort it."""
    code = (
        "import os, signal, sys, torch\n"
        "from weightsmith import spectral\n"
        "from weightsmith.cli.app import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def endless(*_):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while True: torch.linalg.svdvals(torch.ones(200, 200))\n"
        "spectral.decompose = endless\n"
        f"sys.argv = ['weightsmith', 'timber', {str(trio.base)!r}, {str(trio.tuned)!r}, '-o', 'x']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 130, done.stderr.decode()
    assert not (here / "x").exists()
