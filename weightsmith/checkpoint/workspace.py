"""The hidden directory beside a target in which its files grow, and whose lock is the target's."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from weightsmith.errors import ClosedPipe, WeightsmithError


@contextlib.contextmanager
def write_errors(label: str) -> Iterator[None]:
    """Turn what the system says about a failed write into our errors."""
    try:
        yield
    except BrokenPipeError:
        raise ClosedPipe("the reader of our output went away", file=label) from None
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise WeightsmithError(
            f"cannot write: {error.strerror}", file=label, remedy=remedy
        ) from None


class Workspace:
    """The hidden directory beside a target in which its files grow; locked while we live.

    Attributes:
        tree: where the output's files are.
        journal: the path of the journal of finished tensors.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.parent / f".{target.name}.weightsmith"
        self.tree = self.path / "tree"
        self.journal = self.path / "journal.jsonl"
        self._old = self.path / "old"
        with write_errors(str(target)):
            self._lock = self._acquire(target)
            if self._old.exists() and not target.exists():
                # A run was killed between its two renames; put back what it had moved away.
                os.rename(self._old, target)

    def _acquire(self, target: Path) -> int:
        while True:
            self.path.mkdir(exist_ok=True)
            try:
                lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The run before us may have removed the directory between our two calls.
                if self.path.exists() and os.path.samestat(os.fstat(lock), os.stat(self.path)):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise WeightsmithError(
                    "another run is writing this target", file=target, remedy="wait for it to end"
                ) from None
            os.close(lock)

    def replace_directory(self, target: Path) -> None:
        """Give the tree the target's name; a directory that has it is moved away first."""
        if target.exists():
            os.rename(target, self._old)
        os.rename(self.tree, target)

    def clear(self) -> None:
        """Drop what an earlier run left."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.journal.unlink(missing_ok=True)
        self.tree.mkdir()

    def remove(self) -> None:
        """Remove the directory and give up the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Give up the lock and leave the files, if there are any, for --resume."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        os.close(self._lock)
