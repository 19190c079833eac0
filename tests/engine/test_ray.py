"""A real Ray cluster of two nodes on this machine, whose processes and nodes are killed.

Needs the extra `ray`: `make ray`.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support import Trio, assert_fails, random_tensors, weightsmith, write_directory

from weightsmith.engine import share
from weightsmith.engine.execute import Observer, execute
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.settings import Settings
from weightsmith.errors import Unfinished, WeightsmithError
from weightsmith.operators.operator import Function, Operator

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray")

LAYERS = {f"layer.{i}.weight": (64, 32 + i) for i in range(24)}
STORE = 80 << 20  # bytes; the least that Ray takes


@dataclass(frozen=True, kw_only=True)
class Watched(Operator):
    """Invert all bits, and write down who did it; some never come back."""

    name: ClassVar[str] = "watched"
    diary: str
    hangs: str = ""  # a node, which the others wait for
    dies: str = ""  # a tensor, whose first worker is killed
    always: bool = False
    fails: str = ""

    def record(self) -> dict[str, Any]:
        return {}

    def function(self) -> Function:
        def watched(unit: Any) -> int:
            node = os.environ.get("WATCHED_BY") or ray.get_runtime_context().get_node_id()
            before = note(self.diary, f"{node} {unit.name}")
            while self.hangs and self.hangs != node and self.hangs not in before:
                before = Path(self.diary).read_text()
            if node == self.hangs:
                threading.Event().wait()  # until the node is killed
            if unit.name == self.dies and (self.always or f" {unit.name}\n" not in before):
                os.kill(os.getpid(), signal.SIGKILL)
            if unit.name == self.fails:
                raise WeightsmithError("as it should", tensor=unit.name, remedy="nothing")
            unit.out.data[:] = bytes(byte ^ 255 for byte in unit.inputs[0].data)
            return 0

        return watched


def note(diary: str, line: str) -> str:
    """Append a line; returns what stood there before."""
    before = Path(diary).read_text() if Path(diary).exists() else ""
    with Path(diary).open("a") as file:
        file.write(line + "\n")
    return before


def entries(diary: str) -> list[tuple[str, str]]:
    return [(line.split()[0], line.split()[1]) for line in Path(diary).read_text().splitlines()]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node, one CPU each; this module's classes travel by value."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE},
    )
    yield found
    found.shutdown()


@pytest.fixture
def node(cluster: Any) -> Any:
    """The other node; a new one if it was killed."""
    if len(cluster.worker_nodes) == 0:
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
    return next(iter(cluster.worker_nodes))


@pytest.fixture
def model(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(share, "_SHARE_BYTES", 1)  # every tensor is a share of its own
    return write_directory(here / "model", random_tensors(0, LAYERS), shard_size=30_000)


def run(cluster: Any, model: Path, output: str, tick: Any = None, **given: Any) -> Outcome:
    resume = given.pop("resume", False)
    return execute(
        Watched(diary=str(model.parent / "diary"), **given),
        [str(model)],
        Settings(output=output, executor="ray", address=cluster.address, resume=resume),
        Observer(tick=tick or (lambda _: None)),
    )


def local(model: Path) -> dict[str, bytes]:
    os.environ["WATCHED_BY"] = "here"
    try:
        execute(Watched(diary="local"), [str(model)], Settings(output="local.out"))
    finally:
        del os.environ["WATCHED_BY"]
    return content("local.out")


def content(directory: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_a_node_is_killed_half_way(cluster: Any, node: Any, model: Path) -> None:
    half = sum(64 * 2 * (32 + i) for i in range(24)) / 2
    written = 0

    def tick(nbytes: int) -> None:
        nonlocal written
        written += nbytes
        if written > half and len(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)

    outcome = run(cluster, model, "out", tick, hangs=node.node_id)
    assert len(outcome.changed) == len(LAYERS)
    assert not cluster.worker_nodes
    assert content("out") == local(model)
    lost = {tensor for who, tensor in entries("diary") if who == node.node_id}
    again = {tensor for who, tensor in entries("diary") if who != node.node_id}
    assert lost, "the node was in the middle of a share"
    assert lost <= again == LAYERS.keys()


def test_a_worker_is_killed(cluster: Any, node: Any, model: Path) -> None:
    run(cluster, model, "out", dies="layer.7.weight")
    assert content("out") == local(model)
    assert [tensor for _, tensor in entries("diary")].count("layer.7.weight") == 2
    assert len({who for who, _ in entries("diary")}) <= 2


def test_what_always_kills_its_worker_can_be_resumed(cluster: Any, node: Any, model: Path) -> None:
    with pytest.raises(Unfinished, match="Ray gave up"):
        run(cluster, model, "out", dies="layer.0.weight", always=True)
    assert not Path("out").exists()
    assert Path(".out.weightsmith/journal.jsonl").exists()
    outcome = run(cluster, model, "out", resume=True)
    assert 0 < outcome.resumed < len(LAYERS)
    assert content("out") == local(model)
    seen = [tensor for _, tensor in entries("diary")]
    assert len(seen) < 2 * len(LAYERS), "what was done is not done again"


def test_an_interruption_can_be_resumed(cluster: Any, node: Any, model: Path) -> None:
    def tick(_: int) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 5:
            raise KeyboardInterrupt

    ticks = 0
    with pytest.raises(KeyboardInterrupt):
        run(cluster, model, "out", tick)
    assert not ray.is_initialized()
    outcome = run(cluster, model, "out", resume=True)
    assert outcome.resumed >= 5
    assert content("out") == local(model)


def test_an_error_ends_the_run(cluster: Any, node: Any, model: Path) -> None:
    with pytest.raises(WeightsmithError) as caught:
        run(cluster, model, "out", fails="layer.3.weight")
    assert str(caught.value) == "as it should (tensor layer.3.weight)\n  nothing"
    assert {path.name for path in Path().iterdir()} == {"model", "diary"}


def test_the_command(cluster: Any, node: Any, trio: Trio, here: Path) -> None:
    graft = ("timber", trio.base, trio.instruct, "--cache", "spectra")
    assert weightsmith(*graft, "-o", "local").returncode == 0
    done = weightsmith(
        *graft, "--executor", "ray", "--address", cluster.address, "--json", "-o", "out"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert content("out") == content("local")
    assert done.stderr == b""


def test_no_cluster_there(trio: Trio, here: Path) -> None:
    done = weightsmith("cat", trio.base, "--executor", "ray", "--address", "nowhere", "-o", "out")
    assert_fails(done, 1, "no Ray cluster", "ray start")
    assert not list(here.iterdir())
