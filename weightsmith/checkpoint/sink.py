"""Where a checkpoint is written to: a stream, or files that appear whole or not at all.

Files grow in a hidden working directory beside the target (`.NAME.weightsmith/`), whose lock is the
lock of the target. `publish` makes them durable and renames them into place.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from weightsmith.checkpoint.layout import INDEX, Layout
from weightsmith.checkpoint.shard import PAGE
from weightsmith.checkpoint.stream import widen_pipe
from weightsmith.checkpoint.workspace import Workspace, write_errors
from weightsmith.errors import UsageError, WeightsmithError


class Writer(Protocol):
    """Takes the bytes of tensors.

    Attributes:
        label: how messages call it.
        ordered: whether `write` must be called in the order of the bytes.
    """

    label: str
    ordered: bool

    def lead(self, tensor: str, start: int) -> int:
        """The page offset at which these bytes will land; write from memory at the same offset."""

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """Write bytes of a tensor; threads may call this at once."""


class Sink(Writer, Protocol):
    """A checkpoint that can be written."""

    def open(self, layout: Layout) -> None:
        """Reserve room and write the headers."""

    def publish(self) -> None:
        """Everything is written: make it durable and give it its name."""

    def discard(self) -> None:
        """Give up: nothing is left under the target's name."""


class StreamSink:
    """A stream: one header, then the tensors in order. A short one fails `verify`."""

    ordered = True

    def __init__(self, fd: int, label: str) -> None:
        self.label = label
        self._fd = fd
        self._offsets: dict[str, int] = {}
        widen_pipe(fd)

    def open(self, layout: Layout) -> None:
        """Write the header: from here on the reader can plan."""
        ((_, header),) = layout.files
        encoded = header.encode()
        self._offsets = {n: len(encoded) + offset for n, offset in header.offsets.items()}
        self._write_all(memoryview(encoded))

    def lead(self, tensor: str, start: int) -> int:
        """See Writer; it matters where a shell has redirected the stream into a file."""
        return (self._offsets[tensor] + start) % PAGE

    def write(self, tensor: str, start: int, data: memoryview) -> None:  # noqa: ARG002
        """See Writer; the engine keeps the order."""
        self._write_all(data)

    def _write_all(self, data: memoryview) -> None:
        with write_errors(self.label):
            while data:
                data = data[os.write(self._fd, data) :]

    def publish(self) -> None:
        """Nothing more to do."""

    def discard(self) -> None:
        """What is written is written; the reader sees a short stream."""

    def close(self) -> None:
        """Close our end: the reader need not wait for the end of this process."""
        os.close(self._fd)


def check_target(target: Path, *, directory: bool, force: bool) -> None:
    """Raise UsageError unless the target may be written: it is free, or may be replaced.

    Args:
        target: the final path.
        directory: whether it is to be a directory.
        force: whether an existing checkpoint may be replaced.
    """
    if not target.parent.is_dir():
        raise UsageError("no such directory", file=target.parent)
    if not target.exists():
        return
    if target.is_dir() != directory:
        kind = "a directory" if target.is_dir() else "a file"
        raise UsageError(f"the target is {kind}", file=target)
    if directory and not any(target.iterdir()):
        return
    if not force:
        raise UsageError("the target exists", file=target, remedy="--force replaces it")
    if directory and not any(target.glob("*.safetensors")):
        # --force means "replace that checkpoint", never "delete whatever is there".
        raise UsageError(
            "the target is a directory without safetensors files, so it is not replaced",
            file=target,
        )


class PlacedFiles:
    """Open files in which every tensor has its place; what lies where is decided before.

    Args:
        label: how messages call them.
    """

    ordered = False

    def __init__(self, label: str) -> None:
        self.label = label
        self._fds: dict[str, int] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._place: dict[str, tuple[int, int]] = {}

    def add(self, path: Path, flags: int, places: Mapping[str, int]) -> int:
        """Open a file, in which tensors begin at these bytes; returns its descriptor."""
        with write_errors(self.label):
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._fds[path.name] = fd
        self._locks[fd] = threading.Lock()
        self._place |= {tensor: (fd, start) for tensor, start in places.items()}
        return fd

    def lead(self, tensor: str, start: int) -> int:
        """See Writer."""
        return (self._place[tensor][1] + start) % PAGE

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """See Writer."""
        fd, offset = self._place[tensor]
        offset += start
        # Two writers of one file would only spin on the kernel's lock of it.
        with self._locks[fd], write_errors(self.label):
            while data:
                written = os.pwrite(fd, data, offset)
                data, offset = data[written:], offset + written

    def sync(self) -> None:
        """Make what is written so far survive a crash of the machine."""
        with write_errors(self.label):
            for fd in self._fds.values():
                os.fdatasync(fd)

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


class FileSink(PlacedFiles):
    """One file or a directory, written in any order and published by rename.

    Args:
        target: the final path; its parent must exist.
        directory: whether the target is a directory of files.
        force: whether an existing target may be replaced.
        furnish: called with the finished tree to add sidecars and the model card.
    """

    def __init__(
        self,
        target: Path,
        *,
        directory: bool,
        force: bool,
        furnish: Callable[[Path], None] = lambda _: None,
    ) -> None:
        super().__init__(str(target))
        self.target = Path(os.path.realpath(target))
        self._directory = directory
        self._furnish = furnish
        check_target(self.target, directory=directory, force=True)
        self.workspace = Workspace(self.target)
        try:
            # Again, now that nobody else can change it.
            check_target(self.target, directory=directory, force=force)
        except UsageError:
            self.workspace.release()
            raise
        self._index: str | None = None

    def open(self, layout: Layout, *, keep: bool = False) -> None:
        """Check free space, create the files in full length, write their headers.

        Args:
            layout: the files.
            keep: go on with the files of an interrupted run of the same plan.
        """
        if not keep:
            self.workspace.clear()
            self._check_space(layout)
        self._index = layout.index
        for name, header in layout.files:
            encoded = header.encode()
            places = {n: len(encoded) + offset for n, offset in header.offsets.items()}
            fd = self.add(self.workspace.tree / name, os.O_RDWR | os.O_CREAT, places)
            with write_errors(self.label):
                os.pwrite(fd, encoded, 0)
                os.ftruncate(fd, len(encoded) + header.nbytes)

    def _check_space(self, layout: Layout) -> None:
        status = os.statvfs(self.workspace.path)
        free = status.f_bavail * status.f_frsize
        if free < layout.nbytes:
            raise WeightsmithError(
                "not enough free space",
                file=self.label,
                expected=f"{layout.nbytes:,} bytes",
                got=f"{free:,}",
            )

    def publish(self) -> None:
        """Add index, sidecars and card, fsync, rename, clean up."""
        with write_errors(self.label):
            self.sync()
            self.close()
            tree = self.workspace.tree
            if not self._directory:
                (file,) = tree.iterdir()
                os.replace(file, self.target)
            else:
                if self._index is not None:
                    (tree / INDEX).write_text(self._index, encoding="utf-8")
                self._furnish(tree)
                _sync_tree(tree)
                self.workspace.replace_directory(self.target)
            _sync(self.target.parent)
            self.workspace.remove()

    def discard(self) -> None:
        """See Sink."""
        self.close()
        self.workspace.remove()

    def suspend(self) -> None:
        """Stop here but keep the work for --resume."""
        self.close()
        self.workspace.release()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_tree(tree: Path) -> None:
    for path in tree.iterdir():
        _sync(path)
    _sync(tree)
