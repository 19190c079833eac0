"""A share of a plan, done by a process that has nothing of the run but the same filesystem.

Inputs are opened anew there, and results written into the files that the run has laid out.
Doing a share twice, or two processes doing it at once, writes the same bytes to the same places.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from socket import gethostname

import weightsmith
from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.sink import PlacedFiles
from weightsmith.checkpoint.source import Source
from weightsmith.engine import journal
from weightsmith.engine.plan import Plan
from weightsmith.engine.room import uncut_memory
from weightsmith.engine.run import Run, require_device
from weightsmith.errors import Overflow, UsageError, WeightsmithError
from weightsmith.header import Header
from weightsmith.operators.operator import Draft, Operator, TensorPlan

# Large enough that a task's own cost does not show, small enough to be done again.
_SHARE_BYTES = 256 << 20
_UNCUT_BYTES = 16 << 20  # where whole matrices are decomposed, a few already take seconds
_MOST_SHARES = 2048
_GLIMPSES = 64


@dataclass(frozen=True)
class Job:
    """What all shares of a run have in common.

    Attributes:
        operator: what is done.
        sources: the inputs, pickled: they travel as the paths of their files.
        sights: what `sight` said of each.
        tree: the directory that the output's files grow in.
        journal: names the plan whose files these are.
        plan: the plan's fingerprint.
        label: how messages call the target.
        threads, memory, device, cache: as in Settings, for one share.
        version: of weightsmith.
    """

    operator: Operator
    sources: bytes
    sights: tuple[str, ...]
    tree: Path
    journal: Path
    plan: str
    label: str
    threads: int
    memory: int
    device: str
    cache: str | None
    version: str = weightsmith.__version__


@dataclass(frozen=True)
class Share:
    """Tensors that are made together.

    Attributes:
        tensors: their plans.
        files: the files they go to, and at which byte each begins there.
    """

    tensors: tuple[TensorPlan, ...]
    files: Mapping[str, Mapping[str, int]]

    @property
    def nbytes(self) -> int:
        """Bytes that it reads or writes, whichever is more."""
        return sum(map(_nbytes, self.tensors))


@dataclass(frozen=True)
class Done:
    """What a share came to: the attributes of the same names of Run."""

    finished: tuple[str, ...]
    sums: Mapping[str, Mapping[str, float]]
    overflows: Counter[str]


def pack(sources: Sequence[Source]) -> bytes:
    """The inputs, to be opened by another process.

    Raises:
        UsageError: one of them is nothing that can be opened anew.
    """
    for source in sources:
        try:
            pickle.dumps(source)
        except (TypeError, AttributeError, pickle.PicklingError):
            raise UsageError(
                "this input cannot be read on other machines",
                file=source.label,
                remedy="--executor local, or write it to files first",
            ) from None
    return pickle.dumps(tuple(sources))


def sight(source: Source) -> str:
    """What tells at a glance whether two machines see the same data: header and some bytes."""
    digest = blake2b(source.header.encode(), digest_size=16)
    area = memoryview(bytearray(3 * 4096))
    tensors = [spec for spec in source.header.tensors if spec.nbytes]
    for spec in tensors[:: 1 + len(tensors) // _GLIMPSES]:
        size = min(64, spec.nbytes)
        digest.update(source.read(spec.name, (spec.nbytes - size) // 2, size, area))
    return digest.hexdigest()


def shares(plan: Plan, layout: Layout, done: frozenset[str]) -> list[Share]:
    """Cut what is left of a plan into shares, the largest first: they should not come last."""
    starts: dict[str, tuple[str, int]] = {}
    for name, header in layout.files:
        data = len(header.encode())
        starts |= {tensor: (name, data + offset) for tensor, offset in header.offsets.items()}
    left = [tensor for tensor in plan.tensors if tensor.spec.name not in done]
    found = []
    for tensors in _together(left, plan):
        files: dict[str, dict[str, int]] = {}
        for tensor in tensors:
            name, start = starts[tensor.spec.name]
            files.setdefault(name, {})[tensor.spec.name] = start
        found.append(Share(tuple(tensors), files))
    return sorted(found, key=lambda share: -share.nbytes)


def _together(left: Sequence[TensorPlan], plan: Plan) -> Iterator[list[TensorPlan]]:
    uncut = uncut_memory(left, plan.operator) > 0
    limit = max(_UNCUT_BYTES if uncut else _SHARE_BYTES, sum(map(_nbytes, left)) // _MOST_SHARES)
    together: list[TensorPlan] = []
    size = 0
    for tensor in left:
        if together and size + _nbytes(tensor) > limit:
            yield together
            together, size = [], 0
        together.append(tensor)
        size += _nbytes(tensor)
    if together:
        yield together


def _nbytes(tensor: TensorPlan) -> int:
    slots = [slot for segment in tensor.segments for slot in segment.slots]
    return max(tensor.spec.nbytes, sum(slot.spec.nbytes for slot in slots))


def work(job: Job, share: Share) -> Done:
    """Make the tensors of a share and write them where they belong, so that a crash keeps them.

    Raises:
        WeightsmithError: whatever the same tensors would raise in a run on one machine, but for
            overflows, which are counted; this machine does not see what the run sees; the run
            has ended.
    """
    if job.version != weightsmith.__version__:
        raise WeightsmithError(
            "machines have different versions of weightsmith",
            expected=job.version,
            got=f"{weightsmith.__version__} on {gethostname()}",
        )
    require_device(job.device)
    sources = _desk.sources(job)
    header = Header(tuple(tensor.spec for tensor in share.tensors))
    plan = Plan(job.operator, sources, Draft(share.tensors), header, {}, None)
    sink = PlacedFiles(job.label)
    try:
        for name, starts in share.files.items():
            # For writing only: a client of NFS that may read a page writes all of it back, and so
            # the bytes of a neighbour that another machine writes.
            sink.add(_seen(job.tree / name), os.O_WRONLY, starts)
        # Checked with the files open: if it holds, they are not those of a later run.
        if not journal.belongs(job.journal, job.plan):
            raise WeightsmithError("the run that this share belongs to has ended", file=job.label)
        run = Run(
            plan,
            sink,
            workers=job.threads,
            memory=job.memory,
            device=job.device,
            cache=job.cache,
        )
        with suppress(Overflow):  # the run counts those of all shares
            run()
        sink.sync()
    finally:
        sink.close()
    return Done(tuple(run.finished), run.sums, run.overflows)


class _Desk:
    """The inputs of the run that this process works for; they stay open from share to share."""

    def __init__(self) -> None:
        self._plan: str | None = None
        self._sources: tuple[Source, ...] = ()
        self._open = ExitStack()

    def sources(self, job: Job) -> tuple[Source, ...]:
        """The inputs of a job.

        Raises:
            WeightsmithError: this machine does not see them, or others of the same name.
        """
        if self._plan != job.plan:
            self._plan = None
            self._open.close()
            try:
                self._sources = pickle.loads(job.sources)  # noqa: S301 - our own run made it
            except WeightsmithError as error:
                raise WeightsmithError(f"{gethostname()}: {error}", remedy=_REMEDY) from None
            for source, expected in zip(self._sources, job.sights, strict=True):
                self._open.callback(source.close)
                if sight(source) != expected:
                    raise WeightsmithError(
                        f"{gethostname()} has other data under this name than the run",
                        file=source.label,
                        remedy=_REMEDY,
                    )
            self._plan = job.plan
        return self._sources


_desk = _Desk()
_REMEDY = "inputs and target have to lie on a filesystem that all machines see by the same path"


def _seen(path: Path) -> Path:
    if not path.exists():
        raise WeightsmithError(f"{gethostname()} does not see this path", file=path, remedy=_REMEDY)
    return path
