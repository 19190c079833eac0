"""Checkpoints on the Hub, downloaded through the cache; what is refused, in words."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hubserver import TOKEN, Fault, Hub
from support import (
    assert_fails,
    encode,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)

import weightsmith as package
from weightsmith.checkpoint.hub import Address, located
from weightsmith.checkpoint.source import open_source
from weightsmith.errors import InvalidFile, UsageError, WeightsmithError

TENSORS = random_tensors(1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "model", TENSORS, shard_size=6000)


def copied(address: str, target: Path, **options: object) -> dict[str, bytes]:
    """All files that `cat` makes of an address."""
    package.cat(address, output=target, force=True, **options)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://owner/na.me-1", "owner/na.me-1", None),
        ("hf://owner/name@v1", "owner/name", "v1"),
        ("hf://owner/name@refs/pr/3", "owner/name", "refs/pr/3"),
    ],
)
def test_addresses(text: str, repository: str, revision: str | None) -> None:
    assert Address.parse(text) == Address(repository, revision)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://name",
        "hf://owner/name/file",
        "hf://owner/name@",
        "hf://a/b@c@d",
        "hf://a/b--c",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="not a hub address"):
        open_source(text)


def test_an_old_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.__version__", "0.36.2")
    with pytest.raises(UsageError, match=r"expected 1\.31 or later, got 0\.36\.2"):
        open_source("hf://owner/name")


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_files_as_from_a_directory(
    hub: Hub, model: Path, tmp_path: Path, stream: bool
) -> None:
    hub.add("me/model", model)
    there = copied("hf://me/model", tmp_path / "there", stream=stream)
    assert there == copied(str(model), tmp_path / "here")
    assert "the source's own card" not in there["README.md"].decode()
    assert hub.leaked == []


def test_a_download_is_used_again(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("me/model", model)
    copied("hf://me/model", tmp_path / "out")
    hub.forget()
    copied("hf://me/model", tmp_path / "out")
    assert hub.asked("GET /files|resolve") == []
    # Nor does a stream ask for what is here.
    copied("hf://me/model", tmp_path / "out", stream=True)
    assert hub.asked("GET /files|resolve") == []


def test_only_what_belongs_to_the_checkpoint(hub: Hub, model: Path, tmp_path: Path) -> None:
    repo = hub.add("me/model", model)
    more = {"consolidated.safetensors": b"x", "pytorch_model.bin": b"x", "onnx/model.onnx": b"x"}
    repo.commit(repo.commits[repo.branches["main"]] | more)
    copied("hf://me/model", tmp_path / "out")
    assert hub.asked("consolidated|pytorch|onnx") == []
    assert hub.asked("README") == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("names", [["model.safetensors"], ["a.safetensors", "b.safetensors"]])
def test_without_an_index(hub: Hub, tmp_path: Path, stream: bool, names: list[str]) -> None:
    repo = hub.add("me/model", write_directory(tmp_path / "model", TENSORS))
    parts = (
        [TENSORS]
        if len(names) == 1
        else [{name: TENSORS[name] for name in list(TENSORS)[start::2]} for start in (0, 1)]
    )
    files = {name: encode(part) for name, part in zip(names, parts, strict=True)}
    repo.commit({"config.json": b"{}", "other.bin": b"", **files})
    source = open_source("hf://me/model", stream=stream)
    assert source.header.by_name.keys() == TENSORS.keys()
    assert set(source.shard_of.values()) == set(names)
    source.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_revision(hub: Hub, model: Path, tmp_path: Path, stream: bool) -> None:
    repo = hub.add("me/model", model)
    other = encode(random_tensors(2))
    commit = repo.commit({"config.json": b"{}", "model.safetensors": other}, "feature/x")
    for revision in ("feature/x", commit):
        target = tmp_path / "out"
        copied(f"hf://me/model@{revision}", target, stream=stream)
        assert read(target) == random_tensors(2)


def test_labels_are_addresses(hub: Hub, tmp_path: Path) -> None:
    repo = hub.add("me/model", write_directory(tmp_path / "model", TENSORS))
    files = dict(repo.commits[repo.branches["main"]])
    repo.commit(files | {"model.safetensors": files["model.safetensors"] + b"more"}, "long")
    assert isinstance(files["model.safetensors"], bytes)
    repo.commit(files | {"model.safetensors": files["model.safetensors"][:-1]}, "short")
    for stream in (False, True):
        with pytest.raises(InvalidFile, match=r"hf://me/model@long/model.safetensors"):
            open_source("hf://me/model@long", stream=stream)
        with pytest.raises(InvalidFile, match=r"truncated.*lm_head.*hf://me/model@short/model"):
            open_source("hf://me/model@short", stream=stream)


def test_fingerprints_and_records_know_no_place(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("me/model", model)
    hub.add("me/base", write_directory(tmp_path / "base", random_tensors(3)))
    deltas = [
        copied("hf://me/base", tmp_path / "x", stream=True),
        *(
            _delta(base, tuned, tmp_path / "delta", stream)
            for base, tuned, stream in (
                (str(tmp_path / "base"), str(model), False),
                ("hf://me/base", "hf://me/model", True),
                ("hf://me/base", "hf://me/model", False),
            )
        ),
    ]
    assert deltas[1] == deltas[2] == deltas[3]
    assert b"hf://" not in b"".join(deltas[1].values())


def _delta(base: str, tuned: str, target: Path, stream: bool) -> dict[str, bytes]:
    package.delta(base, tuned, output=target, force=True, stream=stream)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.parametrize("stream", [False, True])
class TestRefusals:
    """Each in plain words, with what to do."""

    def refused(self, address: str, stream: bool) -> str:
        with pytest.raises(WeightsmithError) as caught:
            open_source(address, stream=stream)
        assert address in str(caught.value)
        return str(caught.value)

    def test_no_such_repository(self, hub: Hub, stream: bool) -> None:
        text = self.refused("hf://me/nothing", stream)
        assert "no such repository, or a private one" in text
        assert "HF_TOKEN" in text

    def test_a_private_one(self, hub: Hub, model: Path, stream: bool, monkeypatch) -> None:
        hub.add("me/model", model, private=True)
        assert "a private one" in self.refused("hf://me/model", stream)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        open_source("hf://me/model", stream=stream).close()
        assert hub.leaked == []

    def test_a_gated_one(self, hub: Hub, model: Path, stream: bool, monkeypatch) -> None:
        hub.add("me/model", model, gated=True)
        text = self.refused("hf://me/model", stream)
        assert "the repository is gated" in text
        assert f"accept its conditions on {hub.url}/me/model" in text
        assert "hf auth login" in text
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        open_source("hf://me/model", stream=stream).close()

    def test_a_wrong_token(self, hub: Hub, model: Path, stream: bool, monkeypatch) -> None:
        hub.add("me/model", model)
        monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")
        assert "does not accept the token" in self.refused("hf://me/model", stream)

    def test_no_such_revision(self, hub: Hub, model: Path, stream: bool) -> None:
        hub.add("me/model", model)
        text = self.refused("hf://me/model@v9", stream)
        assert "the repository has no revision v9" in text

    def test_only_pickles(self, hub: Hub, model: Path, stream: bool) -> None:
        hub.add("me/model", model).commit({"config.json": b"{}", "pytorch_model.bin": b"x"})
        text = self.refused("hf://me/model", stream)
        assert "this is a pickle" in text
        assert "hf://me/model/pytorch_model.bin" in text

    def test_no_weights(self, hub: Hub, model: Path, stream: bool) -> None:
        hub.add("me/model", model).commit({"config.json": b"{}"})
        assert "no *.safetensors file" in self.refused("hf://me/model", stream)

    def test_a_shard_that_the_index_names_is_missing(
        self, hub: Hub, model: Path, stream: bool
    ) -> None:
        repo = hub.add("me/model", model)
        files = dict(repo.commits[repo.branches["main"]])
        del files["model-00002-of-00004.safetensors"]
        repo.commit(files)
        assert "model-00002-of-00004" in self.refused("hf://me/model", stream)

    def test_an_index_that_leads_elsewhere(self, hub: Hub, model: Path, stream: bool) -> None:
        index = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
        hub.add("me/model", model).commit({"model.safetensors.index.json": index})
        assert "outside the checkpoint" in self.refused("hf://me/model", stream)

    def test_too_many_requests(self, hub: Hub, model: Path, stream: bool) -> None:
        hub.add("me/model", model)
        hub.faults.append(Fault("/api/models", 429, times=99))
        assert "too many requests" in self.refused("hf://me/model", stream)

    def test_nobody_is_there(self, hub: Hub, stream: bool, monkeypatch) -> None:
        from huggingface_hub import constants, hf_api

        nobody = "http://127.0.0.1:9"
        monkeypatch.setattr(constants, "ENDPOINT", nobody)
        monkeypatch.setattr(hf_api.api, "endpoint", nobody)
        text = self.refused("hf://me/model", stream)
        assert "the Hub cannot be reached" in text
        assert "HF_ENDPOINT" in text


@pytest.mark.parametrize("stream", [False, True])
def test_offline_the_cache_is_enough(
    hub: Hub, model: Path, tmp_path: Path, offline: Callable[[], None], stream: bool
) -> None:
    hub.add("me/model", model)
    first = copied("hf://me/model", tmp_path / "out")
    hub.forget()
    offline()
    assert copied("hf://me/model", tmp_path / "out", stream=stream) == first
    assert hub.requests == []


def test_offline_without_a_cache(hub: Hub, model: Path, offline: Callable[[], None]) -> None:
    hub.add("me/model", model)
    offline()
    with pytest.raises(WeightsmithError, match="HF_HUB_OFFLINE forbids") as caught:
        open_source("hf://me/model")
    assert "unset HF_HUB_OFFLINE" in str(caught.value)


def test_offline_with_part_of_it(hub: Hub, model: Path, offline: Callable[[], None]) -> None:
    hub.add("me/model", model)
    located("hf://me/model")
    next(Path(os.path.realpath(located("hf://me/model"))).glob("*00002*")).unlink()
    offline()
    with pytest.raises(WeightsmithError, match="cache"):
        open_source("hf://me/model")


def test_a_server_that_is_gone_leaves_the_cache(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("me/model", model)
    first = copied("hf://me/model", tmp_path / "out")
    hub.faults.append(Fault(".", 503, times=99))
    assert copied("hf://me/model", tmp_path / "out") == first


def test_an_interrupted_download_goes_on(hub: Hub, model: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.add("me/model", model)
    hub.faults.append(Fault("GET /files/.*00001", "cut"))
    source = open_source("hf://me/model")
    source.close()
    assert len(hub.asked("GET /files/.*00001")) == 2
    assert read(Path(located("hf://me/model"))) == TENSORS


def test_sidecars_from_the_hub(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("me/model", model)
    files = copied(
        str(model / "model-00001-of-00004.safetensors"), tmp_path / "out", sidecars="hf://me/model"
    )
    assert files["config.json"] == (model / "config.json").read_bytes()
    assert hub.asked("safetensors ") == []


def test_commands_by_the_environment(hub: Hub, model: Path, tmp_path: Path, monkeypatch) -> None:
    """What a user sets, in processes of their own."""
    hub.add("me/model", model)
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    done = weightsmith("inspect", "hf://me/model")
    assert b"8 tensors" in done.stdout
    assert hub.asked("GET /files/.* bytes="), "inspect downloads nothing whole"
    assert weightsmith("verify", "hf://me/model", "--stream").returncode == 0
    assert weightsmith("compare", "hf://me/model", model, "--stream").returncode == 0
    piped = shell(f"weightsmith cat hf://me/model --stream | weightsmith cat - -o {tmp_path}/out")
    assert piped.returncode == 0, piped.stderr
    assert read(tmp_path / "out") == TENSORS
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_fails(weightsmith("verify", "hf://me/other"), 1, "hf://me/other", "HF_HUB_OFFLINE")
