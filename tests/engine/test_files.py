"""Files appear whole or not at all: locks, force, failures, kills, resume."""

import json
import os
import random
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import (
    BIN,
    Trio,
    assert_fails,
    encode,
    environment,
    make_trio,
    random_tensors,
    read,
    weightsmith,
    write_directory,
)

LARGE = {f"layer.{i}.weight": (1024, 1500) for i in range(48)}  # 147 MB in bfloat16


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_an_existing_target_is_refused(trio: Trio, here: Path) -> None:
    Path("out").mkdir()
    Path("out/keep.safetensors").write_text("mine")
    assert_fails(weightsmith("cat", trio.base, "-o", "out"), 2, "the target exists", "--force")
    assert names(Path("out")) == {"keep.safetensors"}
    assert weightsmith("cat", trio.base, "-o", "out", "--force").returncode == 0
    assert "keep.safetensors" not in names(Path("out"))
    assert names(here) == {"out"}


def test_an_empty_directory_is_a_free_target(trio: Trio, here: Path) -> None:
    Path("out").mkdir()
    assert weightsmith("cat", trio.base, "-o", "out").returncode == 0
    assert "model.safetensors" in names(Path("out"))


def test_force_does_not_delete_what_is_no_checkpoint(trio: Trio, here: Path) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("years of work")
    done = weightsmith("cat", trio.base, "-o", "thesis", "--force")
    assert_fails(done, 2, "without safetensors files")
    assert Path("thesis/chapter1.tex").read_text() == "years of work"


def test_a_file_and_a_directory_do_not_replace_each_other(trio: Trio, here: Path) -> None:
    Path("file").write_text("x")
    assert_fails(weightsmith("cat", trio.base, "-o", "file", "--force"), 2, "the target is a file")
    Path("d.safetensors").mkdir()
    done = weightsmith("cat", trio.base, "-o", "d.safetensors", "--force")
    assert_fails(done, 2, "the target is a directory")


def test_the_output_may_replace_its_input(here: Path) -> None:
    trio = make_trio(here / "models")
    arguments = ("graft", trio.base, trio.instruct, trio.tuned)
    weightsmith(*arguments, "-o", "elsewhere")
    assert weightsmith(*arguments, "-o", trio.instruct, "--force").returncode == 0
    assert read(trio.instruct) == read(here / "elsewhere")


def test_normal_permissions(trio: Trio, here: Path) -> None:
    before = os.umask(0o027)
    try:
        weightsmith("cat", trio.base, "-o", "out")
        weightsmith("cat", trio.base, "-o", "out.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("out.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE(Path("out/model.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE(Path("out").stat().st_mode) == 0o750


def test_missing_parent(trio: Trio, here: Path) -> None:
    assert_fails(weightsmith("cat", trio.base, "-o", "no/out"), 2, "no such directory")


def test_symlinked_target_stays_a_link(trio: Trio, here: Path) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert weightsmith("cat", trio.base, "-o", "link").returncode == 0
    assert Path("link").is_symlink()
    assert "model.safetensors" in names(Path("real"))


@pytest.mark.parametrize("size", ["3000B", "10kB", "1GB"])
def test_sharding_by_size(trio: Trio, here: Path, size: str) -> None:
    assert weightsmith("cat", trio.base, "--shard-size", size, "-o", "out").returncode == 0
    limit = {"3000B": 3000, "10kB": 10_000, "1GB": 10**9}[size]
    files = sorted(Path("out").glob("*.safetensors"))
    for file in files:
        tensors = read(file)
        assert len(tensors) == 1 or sum(len(data) for _, _, data in tensors.values()) <= limit
    assert read(Path("out")) == trio.tensors["base"]
    if len(files) > 1:
        index = json.loads(Path("out/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(
            len(data) for _, _, data in trio.tensors["base"].values()
        )
        assert index["weight_map"] == {n: f.name for f in files for n in read(f)}
        assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"


def test_sharding_is_the_primarys(here: Path) -> None:
    trio = make_trio(here / "models", shard_size=4000)
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "-o", "out")
    for path in trio.instruct.glob("*.safetensors"):
        assert list(read(Path("out") / path.name)) == list(read(path))


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


@pytest.mark.parametrize("target", ["out", "out.safetensors"])
def test_a_write_that_fails_half_way(trio: Trio, here: Path, target: str) -> None:
    """The kernel refuses to write beyond 5000 bytes, as a full disk would."""
    done = weightsmith("cat", trio.base, "-o", target, preexec_fn=_limit_file_size)
    assert_fails(done, 1, "cannot write")
    assert names(here) == set()


def test_a_full_disk_is_noticed_before_the_first_byte(
    trio: Trio, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weightsmith as ws
    from weightsmith.errors import WeightsmithError

    status = os.statvfs(here)
    full = os.statvfs_result((*status[:3], 0, 0, *status[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(WeightsmithError, match="not enough free space"):
        ws.cat(trio.base, output=here / "out")
    assert names(here) == set()


def test_two_runs_on_one_target(here: Path) -> None:
    trio = make_trio(here / "models")
    os.mkfifo("fifo")
    graft = [BIN / "weightsmith", "graft", trio.base, trio.instruct, "fifo", "-o", "out"]
    with (
        subprocess.Popen(graft, env=environment()) as first,
        Path("fifo").open("wb") as pipe,
    ):
        content = (trio.tuned / "model.safetensors").read_bytes()
        pipe.write(content[:3000])
        pipe.flush()
        while not Path(".out.weightsmith/tree").exists():
            time.sleep(0.02)
        done = weightsmith("cat", trio.base, "-o", "out", "--force")
        assert_fails(done, 1, "another run is writing this target")
        pipe.write(content[3000:])
        pipe.close()
        assert first.wait(30) == 0
    assert names(here) == {"models", "fifo", "out"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that take a moment to write."""
    root = tmp_path_factory.mktemp("large")
    for seed, role in enumerate(("a", "b")):
        write_directory(root / role, random_tensors(seed, LARGE), shard_size=20 << 20)
    (root / "c").symlink_to("a")
    return root


def command(large: Path, *more: str) -> list[str]:
    """An interpolation that is slow enough to be killed: one job, tiny buffers."""
    inputs = [str(large / role) for role in ("a", "b")]
    weak = ["--jobs", "1", "--memory", "50kB"]
    return [str(BIN / "weightsmith"), "interpolate", *inputs, "--lambda", "0.3", *weak, *more]


def kill_after(arguments: Sequence[str], seconds: float, number: signal.Signals) -> int:
    with subprocess.Popen(arguments, env=environment(), stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(number)
        return process.wait(30)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.slow
def test_killed_at_20_random_moments(large: Path, here: Path) -> None:
    """Never an incomplete file under the target's name; --resume ends with the same bytes."""
    subprocess.run(command(large, "-o", "whole"), check=True, env=environment())
    whole = content(Path("whole"))
    started = time.monotonic()
    subprocess.run(command(large, "-o", "timed"), check=True, env=environment())
    duration = time.monotonic() - started
    moments = random.Random(20)
    killed = 0
    for number in range(20):
        target = Path(f"out{number}")
        code = kill_after(
            command(large, "-o", str(target)), moments.uniform(0.1, duration), signal.SIGKILL
        )
        killed += code == -signal.SIGKILL
        assert not target.exists() or content(target) == whole
        if not target.exists():
            subprocess.run(
                command(large, "-o", str(target), "--resume"), check=True, env=environment()
            )
            assert content(target) == whole
    assert killed >= 10
    assert not [name for name in names(here) if name.endswith(".weightsmith")]


def written(directory: Path) -> float:
    """The share of the files' length that has been written: they have it from the beginning."""
    found = [path.stat() for path in directory.rglob("*.safetensors")]
    return sum(512 * each.st_blocks for each in found) / max(1, sum(e.st_size for e in found))


def interrupted(large: Path, target: str) -> None:
    """Leave an interrupted run of `target` behind, with some tensors done."""
    journal = Path(f".{target}.weightsmith/journal.jsonl")
    with subprocess.Popen(
        command(large, "-o", target), env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        while not journal.exists():
            time.sleep(0.001)
        # It gets on by a few milliseconds at a time, so that it is stopped half-way at any speed.
        process.send_signal(signal.SIGSTOP)
        while written(journal.parent) < 0.4:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.002)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 130
    assert not Path(target).exists()


@pytest.mark.slow
def test_resume_does_only_what_is_left(large: Path, here: Path) -> None:
    interrupted(large, "out")
    journal = Path(".out.weightsmith/journal.jsonl")
    assert journal.exists(), "Ctrl-C keeps the work"
    done = subprocess.run(
        command(large, "-o", "out", "--resume", "--json"),
        check=True,
        env=environment(),
        stdout=subprocess.PIPE,
    )
    assert json.loads(done.stdout)["resumed"] > 0
    subprocess.run(command(large, "-o", "whole"), check=True, env=environment())
    assert content(Path("out")) == content(Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["lambda", "input", "select", "sharding"])
def test_resume_refuses_another_plan(large: Path, here: Path, changed: str) -> None:
    inputs = here / "inputs"
    inputs.mkdir()
    subprocess.run(["cp", "-r", large / "a", large / "b", inputs], check=True)
    interrupted(inputs, "out")
    more = {
        "lambda": ["--lambda", "0.4"],
        "input": [],
        "select": ["--exclude", "layer.3.*"],
        "sharding": ["--shard-size", "50MB"],
    }[changed]
    if changed == "input":
        shard = max((inputs / "b").glob("*.safetensors"))
        data = bytearray(shard.read_bytes())
        data[-5000] ^= 1  # one bit, at a place that no sample reads
        shard.write_bytes(data)
    done = weightsmith(*command(inputs, "-o", "out", "--resume", *more)[1:])
    assert_fails(done, 4, "the interrupted run had other inputs or parameters")
    assert Path(".out.weightsmith/journal.jsonl").exists(), "nothing is lost by a refusal"
    assert not Path("out").exists()


def test_resume_with_nothing_to_resume(trio: Trio, here: Path) -> None:
    done = weightsmith("cat", trio.base, "-o", "out", "--resume")
    assert done.returncode == 0
    assert b"nothing to resume" in done.stderr
    assert read(Path("out")) == trio.tensors["base"]


def test_a_new_run_clears_what_a_killed_one_left(trio: Trio, here: Path) -> None:
    left = Path(".out.weightsmith")
    (left / "tree").mkdir(parents=True)
    (left / "tree/model-00001-of-00002.safetensors").write_text("half")
    (left / "journal.jsonl").write_text("{")
    assert weightsmith("cat", trio.base, "-o", "out").returncode == 0
    assert "model-00001-of-00002.safetensors" not in names(Path("out"))
    assert names(here) == {"out"}


def test_killed_between_two_renames(trio: Trio, here: Path) -> None:
    """The old target had been moved away: the next run puts it back, or replaces it if forced."""
    old = Path(".out.weightsmith/old")
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(encode(random_tensors(7)))
    assert_fails(weightsmith("cat", trio.base, "-o", "out"), 2, "the target exists")
    assert read(Path("out")) == random_tensors(7)


def test_input_that_changes_meanwhile(here: Path) -> None:
    trio = make_trio(here / "models")
    os.mkfifo("fifo")
    graft = [BIN / "weightsmith", "graft", trio.base, trio.instruct, "fifo", "-o", "out"]
    stream = (trio.tuned / "model.safetensors").read_bytes()
    with (
        subprocess.Popen(graft, env=environment(), stderr=subprocess.PIPE) as run,
        Path("fifo").open("wb") as pipe,
    ):
        pipe.write(stream[:3000])
        pipe.flush()
        while not Path(".out.weightsmith/tree").exists():
            time.sleep(0.02)
        os.utime(trio.base / "model.safetensors", (1, 1))
        pipe.write(stream[3000:])
        pipe.close()
        assert run.wait(30) == 1
        assert b"the input changed while it was read" in run.stderr.read()
    assert names(here) == {"models", "fifo"}
