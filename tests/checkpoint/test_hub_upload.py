"""A checkpoint written to the Hub: sent file by file, shown by one commit or not at all."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hubserver import TOKEN, Fault, Hub, Repo
from support import assert_fails, decode, random_tensors, read, weightsmith, write_directory

import weightsmith as package
from weightsmith.errors import UsageError, WeightsmithError

TENSORS = random_tensors(1)
TARGET = "hf://me/out"
# The client says so of itself where it sends a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "model", TENSORS, shard_size=6000)


@pytest.fixture
def owned(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """With an account, and a place of our own for what is on its way."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return hub


def there(hub: Hub, branch: str = "main", name: str = "me/out") -> dict[str, bytes]:
    """The files of a branch, but hidden ones."""
    repo = hub.repos[name]
    files = repo.commits[repo.branches[branch]]
    return {key: bytes(value) for key, value in files.items() if not key.startswith(".")}


def free(hub: Hub) -> Repo:
    """The target, without a checkpoint in it."""
    repo = hub.repos["me/out"] = Repo()
    repo.commit({".gitattributes": b""})
    return repo


def test_what_a_directory_would_be(owned: Hub, model: Path, tmp_path: Path) -> None:
    package.cat(model, output=TARGET)
    package.cat(model, output=tmp_path / "here")
    assert there(owned) == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert owned.repos["me/out"].private
    assert len(owned.asked("POST .*/commit/")) == 1
    assert owned.leaked == []
    assert not list((tmp_path / "tmp").iterdir())


def test_config_and_card_as_the_operator_has_them(owned: Hub, model: Path, tmp_path: Path) -> None:
    package.cat(model, output=TARGET, dtype="float32", select="*mlp*")
    files = there(owned)
    assert json.loads(files["config.json"])["torch_dtype"] == "float32"
    assert b"weightsmith cat" in files["README.md"]
    package.cat(model, output=tmp_path / "here", dtype="float32", select="*mlp*")
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}


def test_from_the_hub_to_the_hub(owned: Hub, model: Path) -> None:
    owned.add("me/model", model)
    package.cat("hf://me/model", output=TARGET, stream=True, shard_size=9000)
    files = there(owned)
    tensors = [decode(files[name])[0] for name in sorted(files) if name.endswith(".safetensors")]
    assert len(tensors) > 1
    assert {name: each[name] for each in tensors for name in each} == TENSORS


def test_an_empty_tensor_in_a_file_of_its_own(owned: Hub, tmp_path: Path) -> None:
    tensors = {**TENSORS, "z.empty": ("BF16", (0, 3), b"")}
    model = write_directory(tmp_path / "empty", tensors)
    package.cat(model, output=TARGET, select="z.empty")
    assert decode(there(owned)["model.safetensors"])[0] == {"z.empty": tensors["z.empty"]}


def test_few_files_are_on_the_disk_at_once(owned: Hub, tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model", TENSORS, shard_size=1)
    most = 0

    def look(line: str) -> None:
        nonlocal most
        if "PUT" in line:
            most = max(most, len(list((tmp_path / "tmp").glob("*/*.safetensors"))))

    owned.hook = look
    package.cat(model, output=TARGET, jobs=1)
    assert len(owned.asked("PUT")) == len(TENSORS)
    # One grows, one waits, one is sent.
    assert 1 <= most <= 3


@pytest.mark.parametrize("fault", ["PUT /lfs/", "/commit/", "objects/batch", "preupload"])
def test_nothing_shows_after_a_failure(
    owned: Hub, model: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    owned.faults.append(Fault(fault, 500, times=99))
    with pytest.raises(WeightsmithError, match="HTTP status 500"):
        package.cat(model, output=TARGET)
    assert there(owned) == {}
    assert not list((tmp_path / "tmp").iterdir())
    # What has been sent is not sent twice.
    owned.faults.clear()
    sent = len(owned.objects)
    owned.forget()
    package.cat(model, output=TARGET)
    assert len(owned.asked("PUT")) == 4 - sent
    assert there(owned)


def test_a_passing_failure_is_no_failure(
    owned: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    owned.faults += [Fault("PUT", 503), Fault("PUT", "drop"), Fault("batch", 500)]
    package.cat(model, output=TARGET)
    assert len(there(owned)) == 9


def test_a_failing_run_shows_nothing(owned: Hub, tmp_path: Path) -> None:
    """Here, values that overflow: known only when all has been computed."""
    large = {**TENSORS, "model.norm.weight": ("F32", (1,), b"\xff\xff\x7f\x7f")}
    model = write_directory(tmp_path / "large", large, shard_size=6000)
    with pytest.raises(WeightsmithError, match="too large for F16"):
        package.cat(model, output=TARGET, dtype="float16")
    assert there(owned) == {}
    assert owned.asked("POST .*/commit/") == []


def test_a_branch_that_moves_meanwhile(owned: Hub, model: Path) -> None:
    repo = free(owned)

    def push(line: str) -> None:
        if "PUT" in line and len(repo.commits) == 1:
            repo.commit({"model.safetensors": b"of somebody else"})

    owned.hook = push
    with pytest.raises(WeightsmithError, match="the branch has moved meanwhile") as caught:
        package.cat(model, output=TARGET)
    assert "run it again" in str(caught.value)
    assert there(owned) == {"model.safetensors": b"of somebody else"}


def test_an_existing_checkpoint_needs_force(owned: Hub, model: Path, tmp_path: Path) -> None:
    owned.add("me/out", write_directory(tmp_path / "old", random_tensors(2), shard_size=4000))
    before = there(owned)
    for dry in (True, False):
        with pytest.raises(UsageError, match=r"the target exists.*hf://me/out"):
            package.cat(model, output=TARGET, dry_run=dry)
    assert there(owned) == before
    package.cat(model, output=TARGET, force=True)
    package.cat(model, output=tmp_path / "here")
    assert there(owned) == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert len(owned.asked("POST .*/commit/")) == 1


def test_force_replaces_checkpoints_only(owned: Hub, model: Path) -> None:
    free(owned).commit({"thesis.tex": b"all of it"})
    with pytest.raises(UsageError, match="without safetensors files, so it is not replaced"):
        package.cat(model, output=TARGET, force=True)
    assert there(owned) == {"thesis.tex": b"all of it"}


def test_another_branch(owned: Hub, model: Path) -> None:
    repo = free(owned)
    head = repo.branches["main"]
    repo.branches["trial"] = head
    package.cat(model, output=f"{TARGET}@trial")
    assert len(there(owned, "trial")) == 9
    assert repo.branches["main"] == head
    with pytest.raises(WeightsmithError, match="has no revision trail"):
        package.cat(model, output=f"{TARGET}@trail")
    with pytest.raises(UsageError, match="a commit cannot be written to"):
        package.cat(model, output=f"{TARGET}@{head}")


def test_a_dry_run_changes_nothing(owned: Hub, model: Path) -> None:
    package.cat(model, output=TARGET, dry_run=True)
    assert "me/out" not in owned.repos


def test_without_an_account(hub: Hub, model: Path) -> None:
    with pytest.raises(WeightsmithError, match="the Hub does not accept the token") as caught:
        package.cat(model, output=TARGET)
    assert "HF_TOKEN" in str(caught.value)


def test_no_room_on_the_disk(owned: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WeightsmithError, match="not enough free space") as caught:
        package.cat(model, output=TARGET)
    assert "--shard-size" in str(caught.value)
    assert "me/out" not in owned.repos


def test_the_command(owned: Hub, model: Path, tmp_path: Path, monkeypatch) -> None:
    for name, value in owned.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    done = weightsmith("interpolate", model, model, "--lambda", "0.5", "-o", TARGET)
    assert done.returncode == 0, done.stderr
    assert b"to hf://me/out" in done.stderr
    assert len(there(owned)) == 9
    assert_fails(weightsmith("cat", model, "-o", TARGET), 2, "the target exists", "--force")
    assert_fails(weightsmith("cat", model, "--resume", "-o", TARGET), 2, "--resume needs files")
    assert not os.listdir(tmp_path / "tmp")
    assert read(model) == TENSORS
