"""Run a plan on many machines: Ray places shares of it, and does those of lost workers again.

The target's files are laid out, journalled and published by the run itself; workers only write into
them. Ray is imported when a run asks for it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.sink import FileSink
from weightsmith.engine.maker import refuse_overflows
from weightsmith.engine.plan import Plan
from weightsmith.engine.room import memory_for_whole, uncut_memory
from weightsmith.engine.settings import Settings
from weightsmith.engine.share import Done, Job, Share, pack, shares, sight, work
from weightsmith.errors import Unfinished, UsageError, WeightsmithError

# Libraries that split a product among threads may add up in another order, and get in each other's
# way where several tasks share a machine.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
# How long interrupted tasks may take to end; what they still write is of the run they belong to.
_PATIENCE = 30.0


class RayRun:
    """One pass over a plan by the tasks of a Ray cluster; takes the place of Run.

    Args:
        plan: what to do.
        layout: where its tensors go.
        sink: open, and laid out for the plan.
        settings: threads and memory are those of one task.
        done: names of tensors that an earlier run has written.
        tick: called with the bytes of each share that is finished.

    Attributes:
        done, finished, sums: see Run.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        sink: FileSink,
        settings: Settings,
        *,
        done: frozenset[str] = frozenset(),
        tick: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = done
        self.finished: list[str] = []
        self.sums: dict[str, dict[str, float]] = {}
        self._plan = plan
        self._sink = sink
        self._settings = settings
        self._tick = tick
        self._shares = shares(plan, layout, done)
        self._job = Job(
            plan.operator,
            pack(plan.sources),
            tuple(map(sight, plan.sources)),
            sink.workspace.tree,
            sink.workspace.journal,
            plan.fingerprint(layout),
            sink.label,
            settings.jobs or 1,
            settings.memory,
            settings.device.partition(":")[0],  # Ray says which card
            os.path.abspath(settings.cache) if settings.cache else None,
        )

    def __call__(self) -> None:
        """Do it all.

        Raises:
            WeightsmithError: the first failure of any share, or values that overflowed.
            Unfinished: the cluster failed.
        """
        self._sink.sync()  # the headers, before another machine writes beside them
        overflows: Counter[str] = Counter()
        ray = _ray()
        needs = [self._needs(share) for share in self._shares]
        self._refuse_too_small(ray.nodes(), needs)
        job = ray.put(self._job)
        task = ray.remote(work)
        pending = {
            task.options(**need, runtime_env={"env_vars": _ONE_THREAD}).remote(job, share): share
            for need, share in zip(needs, self._shares, strict=True)
        }
        try:
            while pending:
                (ready,), _ = ray.wait([*pending], num_returns=1)
                overflows += self._take(pending.pop(ready), _result(ray, ready))
        except BaseException:
            _cancel(ray, [*pending])
            raise
        refuse_overflows(overflows, self._plan, self._sink.label)

    def _needs(self, share: Share) -> dict[str, float]:
        """What Ray has to set aside for a share."""
        uncut = uncut_memory(share.tensors, self._plan.operator)
        gpus = {"num_gpus": 1} if self._settings.device != "cpu" else {}
        memory = self._settings.memory
        memory = max(memory, memory - memory_for_whole(memory) + uncut)
        return {"num_cpus": self._job.threads, "memory": memory, **gpus}

    def _refuse_too_small(
        self, nodes: Sequence[dict[str, Any]], needs: Sequence[dict[str, float]]
    ) -> None:
        """Raise where no machine is large enough: Ray would wait for one for ever."""
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        for need in needs:
            wanted = {names[key]: value for key, value in need.items()}
            if any(all(m.get(k, 0) >= v for k, v in wanted.items()) for m in machines):
                continue
            raise (Unfinished if self.done else WeightsmithError)(
                "no machine of the cluster is large enough for a task",
                expected=_listed(wanted),
                got="; ".join(_listed({k: m.get(k, 0) for k in wanted}) for m in machines),
                remedy="fewer --jobs, less --memory, or larger machines",
            )

    def _take(self, share: Share, done: Done) -> Counter[str]:
        self.finished.extend(done.finished)
        self.sums |= {name: dict(sums) for name, sums in done.sums.items()}
        self._tick(sum(tensor.spec.nbytes for tensor in share.tensors))
        return done.overflows


def _cancel(ray: Any, pending: Sequence[Any]) -> None:
    for task in pending:
        ray.cancel(task)
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=_PATIENCE)


def _result(ray: Any, ready: Any) -> Done:
    try:
        done: Done = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        what = str(error).strip().partition("\n")[0]
        raise Unfinished(f"Ray gave up: {what}") from None
    return done


def _ray() -> Any:
    import ray

    return ray


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster; the connection ends with the block unless it was there before.

    Args:
        address: of the cluster; None where Ray is to find or start one.

    Raises:
        UsageError: there is no Ray.
        WeightsmithError: there is no cluster.
    """
    if find_spec("ray") is None:
        raise UsageError("--executor ray needs Ray", remedy="pip install 'weightsmith[ray]'")
    # Where no cluster is named and none runs, one is started, which would report to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WeightsmithError(
                f"no Ray cluster: {error}", file=address, remedy="ray start --head starts one"
            ) from None
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{value:,.0f} {name}" for name, value in resources.items())
