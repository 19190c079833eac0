"""What goes wrong, with the exit code it ends in.

Every message says what, where, what was expected, what was found, and the remedy. Names and
metadata come from files nobody vouches for, so `printable` escapes them before they are shown.
"""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INVALID = 3
    MISMATCH = 4
    INTERNAL = 70
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class WeightsmithError(Exception):
    """Base of all errors that a user can cause; the operation failed.

    Args:
        what: one sentence, lower case, no full stop.
        file: path or label of the checkpoint at fault.
        tensor: name of the tensor at fault.
        expected: what was wanted there.
        got: what was found instead.
        remedy: what to do about it.
    """

    exit_code = ExitCode.FAILED

    def __init__(
        self,
        what: str,
        *,
        file: object = None,
        tensor: str | None = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        where = [f"tensor {printable(tensor)}"] if tensor is not None else []
        where += [f"in {printable(str(file))}"] if file is not None else []
        message = " ".join([what, *([f"({' '.join(where)})"] if where else [])])
        if expected is not None:
            message += f"; expected {expected}"
        if got is not None:
            message += f"{',' if expected is not None else ';'} got {got}"
        message = printable(message, limit=2000)
        if remedy is not None:
            message += f"\n  {printable(remedy)}"
        super().__init__(message)
        self._within: str | None = None

    def within(self, link: str | None) -> None:
        """Say in which link of a chain it happened; the first who says so is right."""
        if link is not None and self._within is None:
            self._within = link
            self.args = (f"{link}: {self.args[0]}", *self.args[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        # From another process the message arrives made: it must not be made a second time.
        return _as_it_was, (type(self), str(self))


def _as_it_was(kind: type[WeightsmithError], message: str) -> WeightsmithError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


class UsageError(WeightsmithError):
    """The command line asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


class NoInput(UsageError):
    """Standard input was to be read, and there is nothing on it."""


class InvalidFile(WeightsmithError):
    """A file or stream is not valid safetensors, or breaks off."""

    exit_code = ExitCode.INVALID


class Mismatch(WeightsmithError):
    """Inputs are each valid but do not go together."""

    exit_code = ExitCode.MISMATCH


class Overflow(WeightsmithError):
    """Finite values became infinite in the output dtype."""


class Unfinished(WeightsmithError):
    """The machines gave up, not the work: what is done is kept for --resume."""


class ClosedPipe(WeightsmithError):
    """The reader of our output went away; nobody is there to be told."""

    exit_code = ExitCode.CLOSED_PIPE


def printable(text: str, limit: int = 200) -> str:
    """Escape control characters and cut very long names, for terminals and logs.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit]
    )
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"
