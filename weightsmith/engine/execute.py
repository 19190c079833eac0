"""Carry out an operator: open, plan, run, publish."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weightsmith.checkpoint.hub import is_hub
from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.sink import FileSink, Sink
from weightsmith.checkpoint.source import Source
from weightsmith.engine import journal
from weightsmith.engine.cache import Cache
from weightsmith.engine.card import README, model_card
from weightsmith.engine.inputs import find_sidecars, opened, renamed, view
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.plan import Plan, make_plan
from weightsmith.engine.run import Run
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
from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.header import Header
from weightsmith.operators.operator import Input, Operator
from weightsmith.operators.provenance import CONFIG_PATCH, SIDECARS, canonical
from weightsmith.tritplanes import remote


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
    if not dry_run:
        refuse_terminal(settings.output)
    # A plan needs no more than headers and samples, unless all bytes are to be hashed for it.
    stream = settings.stream or (dry_run and not settings.full_digest)
    with opened(addresses, observer.notice, stream=stream) as sources:
        described = _describe(operator, len(sources))
        views = [
            view(
                source,
                given,
                full_digest=settings.full_digest,
                asked=settings.sidecars if index == operator.primary else None,
            )
            for index, (source, given) in enumerate(zip(sources, described, strict=True))
        ]
        named, views = renamed(operator, sources, views)
        plan = make_plan(operator, named, views, settings.request)
        sidecars = find_sidecars(plan.primary, settings.sidecars, allow_code=settings.allow_code)
        plan = _complete(plan, settings, sidecars)
        _check_target(plan, settings, sidecars)
        layout = lay_out(plan, settings)
        if dry_run:
            dry_check(settings)
            return Outcome.of(plan, settings.output)
        started = time.monotonic()
        if is_stream(settings.output):
            run = _run_stream(plan, layout, settings, observer)
        elif is_hub(settings.output):
            run = _run_hub(plan, layout, settings, observer, sidecars)
        else:
            run = _run_files(plan, layout, settings, observer, sidecars)
        return Outcome.of(
            plan,
            settings.output,
            sums=run.sums,
            resumed=len(run.done),
            seconds=time.monotonic() - started,
        )


def _describe(operator: Operator, count: int) -> list[Input]:
    described = list(operator.inputs)[:count]
    if described[-1].many:
        described += [described[-1]] * (count - len(described))
    return described


def _complete(plan: Plan, settings: Settings, sidecars: Sidecars | None) -> Plan:
    """Settle what the output's metadata must carry because no config.json travels with it."""
    metadata = {k: v for k, v in plan.header.metadata.items() if k != CONFIG_PATCH}
    if plan.config_patch and not is_directory(settings.output):
        metadata[CONFIG_PATCH] = canonical(plan.config_patch)
    untouched_file = plan.draft.transparent and sidecars is not None and sidecars.implied
    if sidecars is not None and is_pipe(settings.output) and not untouched_file:
        # Only for the next command of a pipe on this machine: paths are not for published files.
        metadata[SIDECARS] = str(sidecars.settled())
    header = Header(plan.header.tensors, metadata)
    original = plan.primary.header
    # Where nothing changed at all, the very bytes of the header are passed on.
    return replace(plan, header=original if header == original else header)


def _check_target(plan: Plan, settings: Settings, sidecars: Sidecars | None) -> None:
    if is_directory(settings.output) and sidecars is None and settings.sidecars != "none":
        raise UsageError(
            "no config.json and tokenizer are known for the target directory",
            file=plan.primary.label,
            remedy="--sidecars DIR names their directory, --sidecars none does without, "
            "-o NAME.safetensors writes one file",
        )
    streams = [source.label for source in plan.sources if source.sequential]
    streams += ["the output"] if is_stream(settings.output) else []
    if settings.resume and (streams or is_hub(settings.output)):
        got = f"{streams[0]} is a stream" if streams else settings.output
        raise UsageError("--resume needs files at both ends", got=got)


def _run_stream(plan: Plan, layout: Layout, settings: Settings, observer: Observer) -> Run:
    sink = open_stream(settings.output)
    sink.open(layout)
    run = _run(plan, sink, settings, observer, frozenset())
    run()
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
) -> Run:
    before = [source.identity() for source in plan.sources]
    resumable = not any(source.sequential for source in plan.sources)
    sink = open_files(settings, _furnisher(plan, sidecars))
    identity = plan.fingerprint(layout)
    done = _finished_before(sink, identity, settings, observer)
    try:
        sink.open(layout, keep=done is not None)
        if done is None:
            journal.begin(sink.workspace.journal, identity)
        run = _run(plan, sink, settings, observer, done or frozenset())
        with journal.Journal(sink.workspace.journal, run.finished, sink.sync):
            run()
        _refuse_changed(plan.sources, before)
        sink.publish()
    except KeyboardInterrupt:
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


def _run(
    plan: Plan, sink: Sink, settings: Settings, observer: Observer, done: frozenset[str]
) -> Run:
    observer.begin(sum(t.spec.nbytes for t in plan.tensors if t.spec.name not in done))
    return Run(
        plan,
        sink,
        workers=settings.workers,
        memory=settings.memory,
        done=done,
        device=settings.device,
        cache=Cache(Path(settings.cache)) if settings.cache else None,
        tick=observer.tick,
    )


def _refuse_changed(sources: Sequence[Source], before: Sequence[object]) -> None:
    for source, identity in zip(sources, before, strict=True):
        if source.identity() != identity:
            raise WeightsmithError("the input changed while it was read", file=source.label)
