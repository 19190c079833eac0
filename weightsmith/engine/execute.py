"""Carry out an operator: open, plan, run, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.checkpoint.hub import is_hub
from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.sink import FileSink, Sink
from weightsmith.checkpoint.source import Source
from weightsmith.engine import journal
from weightsmith.engine.card import README, model_card
from weightsmith.engine.chain import Step, complete, planned, streams_of
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.plan import Plan
from weightsmith.engine.run import Run, require_device
from weightsmith.engine.settings import Settings
from weightsmith.engine.target import (
    dry_check,
    file_by_file,
    is_directory,
    is_pipe,
    is_stream,
    lay_out,
    open_files,
    open_hub,
    open_stream,
    refuse_terminal,
)
from weightsmith.errors import Unfinished, UsageError, WeightsmithError
from weightsmith.operators.operator import Operator
from weightsmith.tritplanes import remote

if TYPE_CHECKING:
    from weightsmith.engine.ray import RayRun


@dataclass(frozen=True)
class Observer:
    """Who is told what happens; the defaults listen to nothing.

    Attributes:
        notice: one-line messages.
        begin: called with the bytes that will be written, before the first.
        tick: called with the bytes of each unit written.
    """

    notice: Callable[[str], None] = lambda _: None
    begin: Callable[[int], None] = lambda _: None
    tick: Callable[[int], None] = lambda _: None


def execute(
    operator: Operator,
    addresses: Sequence[str],
    settings: Settings,
    observer: Observer = Observer(),
    *,
    dry_run: bool = False,
) -> Outcome:
    """Run an operator on the inputs at `addresses` and publish the result.

    Raises:
        WeightsmithError: see the exit codes; nothing half-written stands under the target's name.
    """
    return execute_chain([Step(operator, addresses, settings)], observer, dry_run=dry_run)


def execute_chain(
    steps: Sequence[Step], observer: Observer = Observer(), *, dry_run: bool = False
) -> Outcome:
    """Run several operators, each on the results of those before, and publish the last result.

    The output has the bytes that the same commands, joined by pipes, would write. No result between
    two steps is kept: what the last one reads of it is made when it is read.

    Raises:
        WeightsmithError: as `execute` does; the message says in which step.
    """
    settings = steps[-1].settings
    if len(steps) > 1 and settings.executor != "local":
        raise UsageError(
            f"--executor {settings.executor}: a chain runs on one machine",
            remedy="run its commands one by one, with files between them",
        )
    for step in steps:
        _check_executor(step.settings)
    if not dry_run:
        refuse_terminal(settings.output)
    # A plan needs no more than headers and samples, unless all bytes are to be hashed for it.
    headers = dry_run and not any(step.settings.full_digest for step in steps)
    with planned(steps, observer.notice, headers=headers) as (last, sidecars):
        plan = _complete(last, sidecars, settings.output)
        _check_target(plan, settings, sidecars)
        layout = lay_out(plan, settings)
        if dry_run:
            dry_check(settings)
            return Outcome.of(plan, settings.output)
        started = time.monotonic()
        run: Run | RayRun
        if is_stream(settings.output):
            run = _run_stream(plan, layout, settings, observer)
        elif is_hub(settings.output):
            run = _run_hub(plan, layout, settings, observer, sidecars)
        else:
            with _machines(settings):
                run = _run_files(plan, layout, settings, observer, sidecars)
        return Outcome.of(
            plan,
            settings.output,
            sums=run.sums,
            resumed=len(run.done),
            seconds=time.monotonic() - started,
        )


def _complete(plan: Plan, sidecars: Sidecars | None, output: str) -> Plan:
    return complete(plan, sidecars, directory=is_directory(output), pipe=is_pipe(output))


def _check_target(plan: Plan, settings: Settings, sidecars: Sidecars | None) -> None:
    if is_directory(settings.output) and sidecars is None and settings.sidecars != "none":
        raise UsageError(
            "no config.json and tokenizer are known for the target directory",
            file=plan.primary.label,
            remedy="--sidecars DIR names their directory, --sidecars none does without, "
            "-o NAME.safetensors writes one file",
        )
    streams = [*streams_of(plan)]
    streams += ["the output"] if is_stream(settings.output) else []
    local = [
        ("--resume", settings.resume),
        ("--executor ray", settings.executor != "local"),
    ]
    for option, given in local:
        if given and (streams or is_hub(settings.output)):
            got = f"{streams[0]} is a stream" if streams else settings.output
            raise UsageError(f"{option} needs files at both ends", got=got)


def _check_executor(settings: Settings) -> None:
    if settings.executor == "local":
        require_device(settings.device)
    if settings.executor not in ("local", "ray"):
        raise UsageError(f"--executor {settings.executor}", expected="local or ray")
    if settings.address is not None and settings.executor == "local":
        raise UsageError("--address is that of a Ray cluster", remedy="--executor ray uses it")


def _run_stream(plan: Plan, layout: Layout, settings: Settings, observer: Observer) -> Run:
    sink = open_stream(settings.output)
    try:
        sink.open(layout)
        run = _run(plan, sink, settings, observer, frozenset())
        run()
    finally:
        sink.close()
    return run


def _furnisher(plan: Plan, sidecars: Sidecars | None) -> Callable[[Path], None]:
    """What puts the files beside the weights."""

    def furnish(tree: Path) -> None:
        if sidecars is not None:
            sidecars.copy(tree, plan.config_patch)
            remote.furnish(tree)
        (tree / README).write_text(model_card(plan), encoding="utf-8")

    return furnish


def _run_hub(
    plan: Plan,
    layout: Layout,
    settings: Settings,
    observer: Observer,
    sidecars: Sidecars | None,
) -> Run:
    before = [source.identity() for source in plan.sources]
    message = f"weightsmith {plan.operator.name}"
    sink = open_hub(settings, _furnisher(plan, sidecars), message)
    try:
        sink.open(layout)
        run = _run(file_by_file(plan, layout), sink, settings, observer, frozenset())
        run()
        _refuse_changed(plan.sources, before)
        sink.publish()
    except BaseException:
        sink.discard()
        raise
    observer.notice(f"published as {sink.commit}")
    return run


def _run_files(
    plan: Plan,
    layout: Layout,
    settings: Settings,
    observer: Observer,
    sidecars: Sidecars | None,
) -> Run | RayRun:
    before = [source.identity() for source in plan.sources]
    resumable = not any(source.sequential for source in plan.sources)
    sink = open_files(settings, _furnisher(plan, sidecars))
    identity = plan.fingerprint(layout)
    done = _finished_before(sink, identity, settings, observer)
    try:
        sink.open(layout, keep=done is not None)
        if done is None:
            journal.begin(sink.workspace.journal, identity)
        done = done or frozenset()
        run: Run | RayRun
        if settings.executor == "local":
            run = _run(plan, sink, settings, observer, done)
        else:
            run = _run_on_cluster(plan, layout, sink, settings, observer, done)
        with journal.Journal(sink.workspace.journal, run.finished, sink.sync):
            run()
        _refuse_changed(plan.sources, before)
        sink.publish()
    except (KeyboardInterrupt, Unfinished):
        if resumable:
            sink.suspend()
            observer.notice(f"the same command with --resume goes on ({sink.workspace.path})")
        else:
            sink.discard()
        raise
    except BaseException:
        sink.discard()
        raise
    return run


def _finished_before(
    sink: FileSink, identity: str, settings: Settings, observer: Observer
) -> frozenset[str] | None:
    """What --resume finds of an earlier run; None to begin anew."""
    if not settings.resume:
        return None
    try:
        done = journal.read(sink.workspace.journal, identity)
    except WeightsmithError:
        sink.suspend()
        raise
    if done is None or not sink.workspace.tree.exists():
        observer.notice("nothing to resume; starting anew")
        return None
    return done


def _machines(settings: Settings) -> AbstractContextManager[None]:
    if settings.executor == "local":
        return nullcontext()
    from weightsmith.engine.ray import connected

    return connected(settings.address)


def _run_on_cluster(
    plan: Plan,
    layout: Layout,
    sink: FileSink,
    settings: Settings,
    observer: Observer,
    done: frozenset[str],
) -> RayRun:
    from weightsmith.engine.ray import RayRun

    observer.begin(_left(plan, done))
    return RayRun(plan, layout, sink, settings, done=done, tick=observer.tick)


def _left(plan: Plan, done: frozenset[str]) -> int:
    return sum(t.spec.nbytes for t in plan.tensors if t.spec.name not in done)


def _run(
    plan: Plan, sink: Sink, settings: Settings, observer: Observer, done: frozenset[str]
) -> Run:
    observer.begin(_left(plan, done))
    return Run(
        plan,
        sink,
        workers=settings.workers,
        memory=settings.memory,
        done=done,
        device=settings.device,
        cache=settings.cache,
        tick=observer.tick,
    )


def _refuse_changed(sources: Sequence[Source], before: Sequence[object]) -> None:
    for source, identity in zip(sources, before, strict=True):
        if source.identity() != identity:
            raise WeightsmithError("the input changed while it was read", file=source.label)
