"""From the -o argument to a sink and a layout."""

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.checkpoint.hub import Address, is_hub
from weightsmith.checkpoint.layout import Layout, shard_by_size, shard_like, single_file
from weightsmith.checkpoint.sink import FileSink, StreamSink, check_target
from weightsmith.engine.plan import Plan
from weightsmith.engine.settings import Settings
from weightsmith.errors import UsageError
from weightsmith.header import Header

if TYPE_CHECKING:
    from weightsmith.checkpoint.upload import HubSink

SUFFIX = ".safetensors"


def is_stream(output: str) -> bool:
    """Whether an output is written in order and cannot be renamed: `-`, a FIFO, a device."""
    if output == "-":
        return True
    try:
        mode = os.stat(output).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_pipe(output: str) -> bool:
    """Whether the output goes straight into another process."""
    if not is_stream(output):
        return False
    status = os.fstat(sys.stdout.fileno()) if output == "-" else os.stat(output)
    return stat.S_ISFIFO(status.st_mode)


def is_directory(output: str) -> bool:
    """Whether an output is a directory of files, here or on the Hub, rather than one file."""
    return is_hub(output) or not (is_stream(output) or output.endswith(SUFFIX))


def refuse_terminal(output: str) -> None:
    """Raise UsageError rather than write weights to a terminal, or to nothing at all."""
    if output == "-" and sys.stdout is None:
        raise UsageError("standard output is closed", remedy="name a target with -o")
    if output == "-" and sys.stdout.isatty():
        raise UsageError(
            "the output is binary and standard output is a terminal",
            remedy="name a target with -o, redirect with >, or pipe it on",
        )


def open_stream(output: str) -> StreamSink:
    """A sink on standard output, a FIFO or a device."""
    if output == "-":
        return StreamSink(os.dup(sys.stdout.fileno()), "standard output")
    return StreamSink(os.open(output, os.O_WRONLY | os.O_CLOEXEC), output)


def open_files(settings: Settings, furnish: Callable[[Path], None]) -> FileSink:
    """A sink on one file or a directory; takes the target's lock."""
    return FileSink(
        Path(settings.output),
        directory=is_directory(settings.output),
        force=settings.force,
        furnish=furnish,
    )


def open_hub(settings: Settings, furnish: Callable[[Path], None], message: str) -> "HubSink":
    """A sink on a repository of the Hub; refuses one that may not be replaced."""
    from weightsmith.checkpoint.upload import HubSink, Repository  # not at every start

    repository = Repository(Address.parse(settings.output), force=settings.force)
    return HubSink(repository, furnish, message)


def dry_check(settings: Settings) -> None:
    """Raise UsageError where a real run would find that the target may not be written."""
    if is_hub(settings.output):
        from weightsmith.checkpoint.upload import Repository

        Repository(Address.parse(settings.output), force=settings.force)
    elif not is_stream(settings.output):
        target = Path(os.path.realpath(settings.output))
        check_target(target, directory=is_directory(settings.output), force=settings.force)


def lay_out(plan: Plan, settings: Settings) -> Layout:
    """The output's files: one for a stream or file, else --shard-size or the primary's sharding."""
    header: Header = plan.header
    if not is_directory(settings.output):
        if settings.shard_size is not None:
            raise UsageError("--shard-size needs a directory as the target", got=settings.output)
        return single_file(header)
    if settings.shard_size is not None:
        return shard_by_size(header, settings.shard_size)
    return shard_like(header, plan.shard_of)


def file_by_file(plan: Plan, layout: Layout) -> Plan:
    """The plan in the order of the output's files, so that they are complete one after the other.

    What is read from a stream keeps the stream's order.
    """
    if any(source.sequential for source in plan.sources):
        return plan
    specs = (spec for _, header in layout.files for spec in header.tensors)
    position = {spec.name: number for number, spec in enumerate(specs)}
    tensors = sorted(plan.tensors, key=lambda tensor: position[tensor.spec.name])
    return replace(plan, draft=replace(plan.draft, tensors=tuple(tensors)))
