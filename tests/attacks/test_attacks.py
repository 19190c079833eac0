"""Hostile input ends with its own message and exit code, from a file and from a pipe alike."""

import json
from pathlib import Path

import pytest
import safetensors
from hostile import HARMLESS, HOSTILE, entries, f32
from support import assert_fails, random_tensors, weightsmith, write_directory

from weightsmith.errors import InvalidFile
from weightsmith.header import MAX_TENSORS_VARIABLE, header_length, parse_header


@pytest.mark.parametrize("name", HOSTILE)
def test_from_a_file(name: str, tmp_path: Path) -> None:
    content, message, tensor = HOSTILE[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    target = tmp_path / "out.safetensors"
    done = weightsmith("cat", path, "-o", target)
    assert_fails(done, 3, message, "hostile.safetensors", *([f"tensor {tensor}"] if tensor else []))
    assert not target.exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_from_a_pipe(name: str, tmp_path: Path) -> None:
    content, message, tensor = HOSTILE[name]
    target = tmp_path / "out.safetensors"
    done = weightsmith("cat", "-o", target, input=content)
    assert_fails(done, 3, message, "standard input", *([f"tensor {tensor}"] if tensor else []))
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_files_pass_unchanged(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(HARMLESS[name])
    safetensors.deserialize(HARMLESS[name])
    assert weightsmith("cat", path).stdout == HARMLESS[name]
    assert weightsmith("cat", input=HARMLESS[name]).stdout == HARMLESS[name]


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    content = entries(b"", **{str(i): f32(0, 0, [0]) for i in range(11)})
    text = content[8 : 8 + header_length(content[:8], "test")]
    monkeypatch.setenv(MAX_TENSORS_VARIABLE, "10")
    with pytest.raises(InvalidFile, match=r"too many tensors[\s\S]*" + MAX_TENSORS_VARIABLE):
        parse_header(text, "test")
    monkeypatch.setenv(MAX_TENSORS_VARIABLE, "11")
    assert len(parse_header(text, "test").tensors) == 11


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd.safetensors", "../other/model.safetensors", "a/../../b.safetensors", "x.bin"],
)
def test_index_leads_outside(name: str, tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model", random_tensors(0))
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert_fails(weightsmith("cat", model), 3, "outside the checkpoint", "index.json")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "not a valid index"),
        ('{"weight_map": {}}', "not a valid index"),
        ('{"weight_map": {"a": 1}}', "not a valid index"),
        ('{"weight_map": {"nothing": "model.safetensors"}}', "index and shards disagree"),
        ('{"weight_map": {"model.norm.weight": "model.safetensors"}}', "not in the index"),
    ],
)
def test_index_is_wrong(index: str, message: str, tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model", random_tensors(0))
    (model / "model.safetensors.index.json").write_text(index)
    assert_fails(weightsmith("cat", model), 3, message)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    assert_fails(weightsmith("cat", tmp_path), 3, "pickle", "save_pretrained")
    assert_fails(weightsmith("cat", tmp_path / "pytorch_model.bin"), 3, "pickle")


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(entries(**{"a\x1b[31mred": f32()}))
    shown = weightsmith("inspect", path, "-v").stdout
    assert b"\x1b" not in shown
    assert rb"a\x1b[31mred" in shown
    path.write_bytes(entries(**{"a\x1b[31mred": f32(shape=[2])}))
    assert b"\x1b" not in weightsmith("inspect", path).stderr
