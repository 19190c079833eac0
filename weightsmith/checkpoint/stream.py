"""A checkpoint that arrives through a pipe: read once, in order, never whole."""

import contextlib
import fcntl
import os
import select
from collections.abc import Callable, Mapping
from pathlib import Path

from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.errors import InvalidFile, NoInput
from weightsmith.header import header_length, parse_header

_PATIENCE = 1.0  # seconds of silence before we say what we wait for
_SKIP = 1 << 20
_PIPE_BYTES = 1 << 20  # what Linux allows everyone; 64 KiB by default


def widen_pipe(fd: int) -> None:
    """Let a pipe hold as much as it may: fewer switches between its two ends."""
    with contextlib.suppress(OSError, AttributeError):  # not a pipe, or not Linux
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class StreamSource:
    """A safetensors stream; see `source.Source` for the protocol.

    Args:
        path: what to open, such as /dev/stdin.
        label: how messages call it.
        notice: told once if nothing arrives for a while.

    Raises:
        NoInput: a terminal, or nothing at all.
        InvalidFile: the header breaks a rule.
    """

    sequential = True
    sidecars: Sidecars | None = None
    shard_of: Mapping[str, str] = {}

    def __init__(self, path: Path, label: str, notice: Callable[[str], None]) -> None:
        self.label = label
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if os.isatty(self._fd):
            raise NoInput(f"{label} is a terminal, not a checkpoint")
        widen_pipe(self._fd)
        if not select.select([self._fd], [], [], _PATIENCE)[0]:
            notice(f"reading {label}")
        prefix = self._take(8)
        if not prefix:
            raise NoInput(f"{label} ended before the first byte")
        length = header_length(prefix, label)
        text = self._take(length)
        if len(text) < length:
            raise InvalidFile("header is cut short", file=label, expected=length, got=len(text))
        self.header = parse_header(text, label)
        self._position = 0

    def _take(self, nbytes: int) -> bytes:
        parts, left = [], nbytes
        while left and (part := os.read(self._fd, min(left, _SKIP))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """Read the next bytes of the stream, passing over what nobody asked for."""
        self._skip_to(self.header.offsets[tensor] + start, area)
        self._fill(area[:nbytes])
        return area[:nbytes]

    def _skip_to(self, position: int, scratch: memoryview) -> None:
        assert position >= self._position, "a stream cannot be read backwards"
        while self._position < position:
            self._fill(scratch[: min(len(scratch), position - self._position)])

    def _fill(self, area: memoryview) -> None:
        done = 0
        while done < len(area):
            got = os.readv(self._fd, [area[done:]])
            if got == 0:
                raise self._truncated(self._position + done)
            done += got
        self._position += done

    def _truncated(self, end: int) -> InvalidFile:
        spec = next(
            spec
            for spec in self.header.tensors
            if self.header.offsets[spec.name] + spec.nbytes > end
        )
        return InvalidFile(
            "stream is truncated",
            file=self.label,
            tensor=spec.name,
            expected=f"{spec.nbytes} bytes",
            got=end - self.header.offsets[spec.name],
            remedy="the command before this one probably failed; its message says why",
        )

    def finish(self) -> None:
        """Read to the end, which must come where the header says."""
        self._skip_to(self.header.nbytes, memoryview(bytearray(_SKIP)))
        if extra := os.read(self._fd, 1):
            raise InvalidFile("bytes after the last tensor", file=self.label, got=f"{extra!r}...")

    def identity(self) -> object:
        """A stream cannot be read again, so nothing may be resumed on its word."""
        return None

    def close(self) -> None:
        """Close our end; a writer then learns that nobody reads."""
        os.close(self._fd)
