"""What an interrupted run has finished, so that --resume need not do it again.

The first line names the plan; each further line names tensors whose bytes are on the disk. A line
is written only after the data has been synced, so the journal never promises too much.
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from weightsmith.errors import Mismatch, Unfinished

_SECONDS = 0.25


def begin(path: Path, plan: str) -> None:
    """Start a journal for a plan."""
    path.write_text(json.dumps({"plan": plan}) + "\n")


def read(path: Path, plan: str) -> frozenset[str] | None:
    """Names of the finished tensors; None if there is no journal.

    Raises:
        Mismatch: the journal belongs to another plan.
    """
    if not path.exists():
        return None
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # the line that was being written when the run was killed
    if not entries or entries[0].get("plan") != plan:
        raise Mismatch(
            "the interrupted run had other inputs or parameters",
            file=path.parent,
            remedy="run without --resume to start anew",
        )
    return frozenset(name for entry in entries[1:] for name in entry["done"])


def belongs(path: Path, plan: str) -> bool:
    """Whether a journal is there and that of this plan."""
    try:
        with path.open() as file:
            return bool(json.loads(file.readline())["plan"] == plan)
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Journal:
    """Writes finished tensors to the journal every two seconds, from a thread of its own.

    Args:
        path: the journal, begun.
        finished: the growing list of finished tensors.
        sync: makes all that is written so far survive a crash.
    """

    def __init__(self, path: Path, finished: Sequence[str], sync: Callable[[], None]) -> None:
        self._path = path
        self._finished = finished
        self._sync = sync
        self._noted = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if kind is None or issubclass(kind, KeyboardInterrupt | Unfinished):
            self.note()

    def _keep(self) -> None:
        while not self._end.wait(_SECONDS):
            self.note()

    def note(self) -> None:
        """Sync, then append what is new."""
        until = len(self._finished)
        if until == self._noted:
            return
        self._sync()
        with self._path.open("a") as file:
            file.write(json.dumps({"done": self._finished[self._noted : until]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._noted = until
