"""Shares of a plan: the same bytes and words as in one run, whoever does them, and how often."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from models import tiny_model
from support import (
    Trio,
    assert_fails,
    encode,
    environment,
    make_trio,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

import weightsmith as package
from weightsmith import errors
from weightsmith.engine import ray as executor
from weightsmith.engine import share
from weightsmith.errors import Mismatch, Overflow, UsageError, WeightsmithError


class TaskError(Exception):
    """As Ray's, with what the task raised."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class OneProcess:
    """What we use of Ray, in this process: everything that travels is pickled; all runs twice."""

    class exceptions:  # noqa: N801 - as in Ray
        RayTaskError = TaskError
        RayError = TaskError

    def __init__(self) -> None:
        self.needs: list[dict[str, float]] = []
        self.cancelled: list[Any] = []
        self.node = {"CPU": 2.0, "memory": 2.0**40, "GPU": 1.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.node}]

    def put(self, value: Any) -> Any:
        return pickle.dumps(value)

    def remote(self, function: Callable[..., Any]) -> Any:
        outer = self

        class Task:
            def options(self, *, runtime_env: dict[str, Any], **needs: float) -> "Task":
                assert runtime_env["env_vars"]["OMP_NUM_THREADS"] == "1"
                outer.needs.append(needs)
                return self

            def remote(self, job: bytes, given: Any) -> Any:
                sent = pickle.dumps(given)
                return lambda: [function(pickle.loads(job), pickle.loads(sent)) for _ in "12"][1]

        return Task()

    def wait(self, tasks: list[Any], num_returns: int, timeout: float = 0) -> Any:
        return tasks[-num_returns:], []  # not in the order in which they were sent

    def get(self, task: Callable[[], Any]) -> Any:
        try:
            return pickle.loads(pickle.dumps(task()))
        except WeightsmithError as error:
            raise TaskError(pickle.loads(pickle.dumps(error))) from None

    def cancel(self, task: Any) -> None:
        self.cancelled.append(task)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> OneProcess:
    """A cluster of one process; every tensor is a share of its own."""
    found = OneProcess()

    monkeypatch.setattr(executor, "connected", lambda _: nullcontext())
    monkeypatch.setattr(executor, "_ray", lambda: found)
    monkeypatch.setattr(share, "_SHARE_BYTES", 1)
    monkeypatch.setattr(share, "_UNCUT_BYTES", 1)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_trio(root, shard_size=4000)
    other = {f"other.{name}": given for name, given in random_tensors(2).items()}
    write_directory(root / "renamed", other)
    tiny_model(root / "small", tie_word_embeddings=True)
    package.ptqtp(root / "small", output=root / "packed", embeddings="int8")
    return root


COMMANDS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("cat", ["base"], {"dtype": "float16", "shard_size": 3000}),
    ("delta", ["base", "tuned"], {}),
    ("delta", ["base", "tuned"], {"lossless": True}),
    ("graft", ["base", "instruct", "tuned"], {"scale": "0.5", "exclude": "*norm*"}),
    ("interpolate", ["base", "instruct"], {"lam": "0.3", "memory": "50kB"}),
    ("timber", ["base", "instruct"], {"gamma": "0.2", "cache": "spectra"}),
    ("rotate", ["small"], {"seed": 1}),
    ("ptqtp", ["small"], {"planes": "3"}),
    ("unpack", ["packed"], {}),
    ("graft", ["base", "renamed", "tuned"], {"rename": "instruct:s/^other\\.//"}),
    ("slerp", ["base", "instruct"], {"t": "0.3"}),
    ("ties", ["base", "tuned", "instruct"], {"density": "0.5,0.3"}),
    ("dare", ["base", "tuned", "instruct"], {"density": "0.3", "seed": 1}),
    ("layers", ["base"], {"order": "1,0,1"}),
    ("memristor", ["small"], {"device": "pcm", "time": "1d", "scale": "tensor"}),
]


@pytest.mark.parametrize(("name", "inputs", "given"), COMMANDS, ids=lambda value: str(value)[:20])
def test_same_bytes_and_figures(
    name: str,
    inputs: list[str],
    given: dict[str, Any],
    models: Path,
    here: Path,
    cluster: OneProcess,
) -> None:
    command = getattr(package, name)
    local = command(*(models / i for i in inputs), output="local", **given)
    ticks = command(*(models / i for i in inputs), output="ray", executor="ray", **given)
    assert len(cluster.needs) == len(local.tensors)
    files = {path.name for path in Path("local").iterdir()}
    assert files == {path.name for path in Path("ray").iterdir()}
    for file in files:
        assert Path("local", file).read_bytes() == Path("ray", file).read_bytes(), file
    assert ticks.figures == {
        tensor: pytest.approx(figures) for tensor, figures in local.figures.items()
    }


def test_addresses_may_be_relative(models: Path, here: Path, cluster: OneProcess) -> None:
    Path("base").symlink_to(models / "base")
    package.cat("base", output="out.safetensors", executor="ray")
    assert read(Path("out.safetensors")) == read(models / "base")


def test_small_tensors_go_together(models: Path, here: Path, cluster: OneProcess) -> None:
    share._SHARE_BYTES = 12_000
    package.graft(*(models / r for r in ("base", "instruct", "tuned")), output="o", executor="ray")
    assert 1 < len(cluster.needs) < 8
    assert {"num_cpus": 1, "memory": 512 << 20} in cluster.needs


def test_what_a_task_needs(models: Path, here: Path, cluster: OneProcess) -> None:
    pair = (models / "base", models / "instruct")
    package.timber(
        *pair, output="o", executor="ray", device="cpu", jobs=2, memory=1, select="*embed*"
    )
    # Ten times the matrix in float32, inputs and output, where that is more than --memory.
    assert {"num_cpus": 2, "memory": (10 * 4 + 3 * 2) * 96 * 24} in cluster.needs
    assert {"num_cpus": 2, "memory": 1} in cluster.needs
    with pytest.raises(WeightsmithError, match="no machine of the cluster is large enough"):
        package.cat(models / "base", output="p", executor="ray", jobs=3)
    assert {path.name for path in here.iterdir()} == {"o"}


def overflowing(directory: Path) -> Path:
    values = to_bf16([1e38] * 6)
    tensors = {f"t{i}.weight": ("BF16", (6,), values.tobytes()) for i in range(3)}
    return write_directory(directory, random_tensors(0) | tensors)


def message(call: Callable[[], Any]) -> tuple[type, str]:
    with pytest.raises(WeightsmithError) as caught:
        call()
    return type(caught.value), str(caught.value)


def test_overflows_are_one_error(here: Path, cluster: OneProcess) -> None:
    source = overflowing(here / "large")
    cat = package.cat
    local = message(lambda: cat(source, output="out", dtype="float16"))
    again = message(lambda: cat(source, output="out", dtype="float16", executor="ray"))
    assert local == again
    assert "18 values in 3 tensors" in local[1]
    assert local[0] is Overflow
    assert {p.name for p in here.iterdir()} == {"large"}


def test_an_operators_error_is_the_same(here: Path, cluster: OneProcess) -> None:
    trio = make_trio(here)
    name = "model.layers.1.mlp.up_proj.weight"
    dtype, shape, data = trio.tensors["base"][name]
    broken = trio.tensors["base"] | {name: (dtype, shape, b"\x80\x7f" + data[2:])}
    (trio.base / "model.safetensors").write_bytes(encode(broken))
    pair = (trio.base, trio.instruct)
    local = message(lambda: package.timber(*pair, output="out"))
    assert message(lambda: package.timber(*pair, output="out", executor="ray")) == local
    assert name in local[1]
    assert "\n  --exclude" in local[1], "the remedy stands on a line of its own"
    assert cluster.cancelled, "what was still waiting"


@pytest.mark.parametrize("kind", [WeightsmithError, UsageError, Mismatch, Overflow])
def test_errors_travel(kind: type[WeightsmithError]) -> None:
    error = kind("bad\x1b", file="f", tensor="t", expected=1, got=2, remedy="do\nit")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.exit_code) == (kind, str(error), error.exit_code)
    assert isinstance(errors.Unfinished("x"), WeightsmithError)


def jobs_of(
    models: Path, monkeypatch: pytest.MonkeyPatch, **given: Any
) -> list[tuple[share.Job, share.Share]]:
    """What a run would send; it ends at the first task."""
    sent: list[tuple[share.Job, share.Share]] = []

    def keep(job: share.Job, given: share.Share) -> share.Done:
        sent.append((job, given))
        raise WeightsmithError("enough")

    monkeypatch.setattr(executor, "work", keep)
    with pytest.raises(WeightsmithError, match="enough"):
        package.cat(models / "base", output="out", executor="ray", **given)
    return sent


def test_a_share_of_a_run_that_ended_writes_nothing(
    models: Path, here: Path, cluster: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((job, given),) = jobs_of(models, monkeypatch)
    with pytest.raises(WeightsmithError, match=r"does not see this path.*tree"):
        share.work(job, given)
    # A later run of another plan has files of the same names.
    job.tree.mkdir(parents=True)
    for name in given.files:
        (job.tree / name).write_bytes(b"later")
    job.journal.write_text('{"plan": "another"}\n')
    with pytest.raises(WeightsmithError, match="has ended"):
        share.work(job, given)
    assert {(job.tree / name).read_bytes() for name in given.files} == {b"later"}


def test_what_a_machine_does_not_see(
    trio: Trio, here: Path, cluster: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    make_trio(here)
    ((job, given),) = jobs_of(here, monkeypatch)
    (here / "base").rename("away")
    with pytest.raises(
        WeightsmithError, match=r"cannot open.*base/model.safetensors.*\n.*the same path"
    ):
        share.work(job, given)
    (here / "instruct").rename("base")
    with pytest.raises(WeightsmithError, match="other data under this name"):
        share.work(job, given)
    (here / "base/model.safetensors").write_bytes(encode(random_tensors(0, {"a": (3,)})))
    with pytest.raises(WeightsmithError, match="another file than the run has there"):
        share.work(job, given)
    old = replace(job, version="0.0.1")
    with pytest.raises(WeightsmithError, match=r"versions of weightsmith.*0\.0\.1"):
        share.work(old, given)


def test_streams_are_refused(trio: Trio, here: Path) -> None:
    file = trio.base / "model.safetensors"
    done = shell(f"cat {file} | weightsmith cat --executor ray -o out.safetensors")
    assert_fails(done, 2, "--executor ray needs files at both ends", "standard input is a stream")
    done = shell(f"weightsmith cat {file} --executor ray | cat")
    assert_fails(done, 2, "--executor ray needs files at both ends", "the output is a stream")


def test_usage(trio: Trio, here: Path) -> None:
    assert_fails(weightsmith("cat", trio.base, "--executor", "dask"), 2, "local or ray")
    done = weightsmith("cat", trio.base, "--address", "auto", "-o", "out")
    assert_fails(done, 2, "--executor ray uses it")


def test_without_ray(trio: Trio, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs Ray"):
        package.cat(trio.base, output="out", executor="ray")
    assert not list(here.iterdir())


def test_a_local_run_imports_no_ray(trio: Trio, here: Path) -> None:
    code = f"import sys, weightsmith; weightsmith.cat({str(trio.base)!r}, output='out')\n"
    code += "sys.exit(any(n.partition('.')[0] == 'ray' for n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == 0
