"""Real pipes: equal to files, honest when they break, careful with what they point to."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import (
    BIN,
    Trio,
    assert_fails,
    decode,
    encode,
    environment,
    make_trio,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)


def test_pipe_equals_direct_call(trio: Trio, here: Path) -> None:
    """Byte for byte, provenance included."""
    piped = shell(
        f"weightsmith delta {trio.base} {trio.tuned} "
        f"| weightsmith graft {trio.base} {trio.instruct} > piped.safetensors"
    )
    assert piped.returncode == 0, piped.stderr
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "-o", "direct.safetensors")
    assert Path("piped.safetensors").read_bytes() == Path("direct.safetensors").read_bytes()


def test_pipe_equals_direct_call_for_other_order_and_sharding(here: Path) -> None:
    """Tensor by tensor: a stream keeps its own order."""
    tensors = [random_tensors(seed) for seed in range(3)]
    write_directory(Path("base"), tensors[0], shard_size=5000)
    write_directory(Path("tuned"), dict(reversed(tensors[1].items())), shard_size=3000)
    write_directory(Path("instruct"), tensors[2])
    done = shell("weightsmith delta base tuned | weightsmith graft base instruct")
    weightsmith("graft", "base", "instruct", "tuned", "-o", "direct")
    found, _ = decode(done.stdout)
    assert found == read(Path("direct"))
    assert list(found)[-1] == "model.embed_tokens.weight"  # the first tensor of tuned is the last


def test_three_stages_equal_three_files(trio: Trio, here: Path) -> None:
    """Provenance has one normal form however the steps were strung together."""
    cat = "weightsmith cat --dtype float32 --exclude '*norm*'"
    shell(f"{cat} {trio.tuned} > cast.safetensors")
    shell(
        f"weightsmith delta {trio.base} cast.safetensors --missing drop > delta.safetensors;"
        f"weightsmith graft {trio.base} {trio.instruct} delta.safetensors --missing keep -o steps"
    )
    done = shell(
        f"{cat} {trio.tuned} | weightsmith delta {trio.base} - --missing drop "
        f"| weightsmith graft {trio.base} {trio.instruct} --missing keep -o piped"
    )
    assert done.returncode == 0, done.stderr
    assert read(Path("piped")) == read(Path("steps"))


def test_redirected_file_is_seekable(trio: Trio, here: Path) -> None:
    done = shell(
        f"weightsmith graft {trio.base} {trio.instruct} < {trio.tuned}/model.safetensors > a.safetensors"
    )
    assert done.returncode == 0, done.stderr
    weightsmith("graft", trio.base, trio.instruct, trio.tuned, "-o", "b.safetensors")
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["file", "directory", "shards"])
def test_cat_of_one_input_adds_nothing(here: Path, kind: str) -> None:
    model = write_directory(
        Path("model"), random_tensors(1), shard_size=4000 if kind == "shards" else None
    )
    if kind == "file":
        content = (model / "model.safetensors").read_bytes()
        assert shell("weightsmith cat model/model.safetensors | cat").stdout == content
        assert shell("cat model/model.safetensors | weightsmith cat").stdout == content
    weightsmith("cat", model, "-o", "copy")
    names = {path.name for path in model.iterdir()}
    assert {path.name for path in Path("copy").iterdir()} == names
    for name in names - {"README.md"}:
        if not name.endswith("index.json"):
            assert (Path("copy") / name).read_bytes() == (model / name).read_bytes()
    assert (Path("copy") / "README.md").read_text() != (model / "README.md").read_text()


def test_sidecars_travel_through_a_pipe(trio: Trio, here: Path) -> None:
    done = shell(
        f"weightsmith graft {trio.base} {trio.instruct} {trio.tuned} --dtype float32 "
        "| weightsmith cat - -o out"
    )
    assert done.returncode == 0, done.stderr
    assert (here / "out/chat_template.jinja").read_text() == "{{ messages }}"
    config = json.loads((here / "out/config.json").read_text())
    assert config["torch_dtype"] == "float32"
    content = (here / "out/model.safetensors").read_bytes()
    assert str(trio.instruct).encode() not in content
    assert b"sidecars" not in content


def test_no_path_in_a_redirected_file(trio: Trio, here: Path) -> None:
    shell(f"weightsmith cat {trio.base} --dtype float32 > out.safetensors")
    assert str(trio.base.parent).encode() not in Path("out.safetensors").read_bytes()


@pytest.mark.parametrize(("allow", "code"), [("", False), ("--allow-code", True)])
def test_a_streams_pointer_is_not_trusted(here: Path, allow: str, code: bool) -> None:
    model = write_directory(Path("model"), random_tensors(1))
    for name in ("modeling.py", "secrets.txt", ".netrc"):
        (model / name).write_text("x")
    done = shell(f"weightsmith cat model --dtype fp32 | weightsmith cat - {allow} -o out")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in Path("out").iterdir()}
    assert not names & {"secrets.txt", ".netrc"}
    assert ("modeling.py" in names) == code
    # A directory that the user names is trusted with all its plain files.
    weightsmith("cat", "model", "-o", "copy")
    assert {"modeling.py", "secrets.txt"} <= {path.name for path in Path("copy").iterdir()}


def test_a_pointer_without_a_config_is_ignored(here: Path) -> None:
    (here / "private").mkdir()
    (here / "private/tokenizer.json").write_text("x")
    Path("a.safetensors").write_bytes(
        encode(random_tensors(1), {"weightsmith.sidecars": str(here / "private")})
    )
    assert_fails(shell("cat a.safetensors | weightsmith cat -o out"), 2, "--sidecars DIR")
    assert shell("cat a.safetensors | weightsmith cat --sidecars none -o out").returncode == 0
    assert {p.name for p in Path("out").iterdir()} == {"model.safetensors", "README.md"}


def test_a_stream_cut_short_fails_at_every_stage(trio: Trio, here: Path) -> None:
    done = shell(
        f"weightsmith delta {trio.base} {trio.tuned} | head -c 20000 "
        f"| weightsmith graft {trio.base} {trio.instruct} | weightsmith cat --sidecars none -o out; "
        'echo "${PIPESTATUS[@]}"'
    )
    assert done.stdout.split()[2:] == [b"3", b"3"]
    assert b"truncated" in done.stderr
    assert [path.name for path in here.iterdir()] == []


def test_a_short_redirected_file_fails_verify(trio: Trio, here: Path) -> None:
    shell(f"weightsmith cat {trio.base} --dtype fp32 | head -c 9000 > short.safetensors")
    assert_fails(weightsmith("verify", "short.safetensors"), 3, "truncated")


def test_a_killed_first_stage_fails_the_last(here: Path) -> None:
    trio = make_trio(here / "models")
    os.mkfifo("fifo")
    graft = ["bash", "-c", f"weightsmith graft {trio.base} {trio.instruct} fifo -o out"]
    cat = ["bash", "-c", "exec cat > fifo"]
    with (
        subprocess.Popen(graft, env=environment(), stderr=subprocess.PIPE) as last,
        subprocess.Popen(cat, stdin=subprocess.PIPE) as first,
    ):
        first.stdin.write((trio.tuned / "model.safetensors").read_bytes()[:5000])
        first.stdin.flush()
        # Killed before graft opens its end, cat would leave it waiting for a writer for ever.
        while not Path(".out.weightsmith/tree").exists():
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert last.wait(30) == 3
        assert b"truncated" in last.stderr.read()
    assert {p.name for p in here.iterdir()} == {"models", "fifo"}


def test_a_closed_pipe_ends_quietly(here: Path) -> None:
    """With more data than any pipe holds, so that the writer must notice."""
    Path("a.safetensors").write_bytes(encode(random_tensors(1, {"w": (2000, 2000)})))
    done = shell('weightsmith cat a.safetensors | head -c 100 > /dev/null; echo "${PIPESTATUS[0]}"')
    assert done.stdout.split() == [b"141"]
    assert done.stderr == b""


def test_a_closed_standard_output(trio: Trio, here: Path) -> None:
    assert_fails(shell(f"weightsmith cat {trio.base} >&-"), 2, "standard output is closed")
    assert shell(f"weightsmith cat {trio.base} -o out >&-").returncode == 0
    assert read(Path("out")) == trio.tensors["base"]


def test_a_full_device(trio: Trio) -> None:
    assert_fails(shell(f"weightsmith cat {trio.base} > /dev/full"), 1, "No space left")


def test_binary_is_neither_written_to_nor_read_from_a_terminal(trio: Trio) -> None:
    ours, theirs = os.openpty()
    command = [BIN / "weightsmith", "cat", trio.base]
    done = subprocess.run(
        command, stdout=theirs, stderr=subprocess.PIPE, env=environment(), check=False
    )
    assert_fails(done, 2, "standard output is a terminal", "-o")
    graft = weightsmith("graft", trio.base, trio.instruct, stdin=theirs)
    assert_fails(graft, 2, "is a terminal", "... | weightsmith graft BASE INSTRUCT")
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("stdin", ["/dev/null", "empty"])
def test_nothing_on_standard_input(trio: Trio, stdin: str) -> None:
    source = "< /dev/null" if stdin == "/dev/null" else "< <(true)"
    done = shell(f"weightsmith graft {trio.base} {trio.instruct} {source}")
    assert_fails(
        done,
        2,
        "standard input ended before the first byte",
        "weightsmith graft BASE INSTRUCT TUNED",
        "... | weightsmith graft BASE INSTRUCT",
    )


def test_an_idle_standard_input_is_announced(trio: Trio) -> None:
    done = shell(
        f"(sleep 2; cat {trio.tuned}/model.safetensors) | weightsmith graft {trio.base} {trio.instruct} -o /dev/null"
    )
    assert done.returncode == 0
    assert b"reading standard input" in done.stderr


def test_resume_and_streams_do_not_go_together(trio: Trio, here: Path) -> None:
    delta = f"weightsmith delta {trio.base} {trio.tuned}"
    graft = f"weightsmith graft {trio.base} {trio.instruct}"
    assert_fails(shell(f"{delta} | {graft} --resume -o out"), 2, "--resume needs files")
    assert_fails(shell(f"{graft} {trio.tuned} --resume | cat"), 2, "--resume needs files")
