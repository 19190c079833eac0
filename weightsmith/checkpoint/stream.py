"""A checkpoint that arrives through a pipe: read once, in order, never whole.

Tensors that are wanted later than they pass by, or more than once, wait in a spool.
"""

import contextlib
import fcntl
import os
import select
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.workspace import write_errors
from weightsmith.errors import InvalidFile, NoInput
from weightsmith.header import header_length, parse_header

_PATIENCE = 1.0  # seconds of silence before we say what we wait for
_SKIP = 1 << 20
_IN_MEMORY = 1 << 16  # a spool up to this size needs no file
_PIPE_BYTES = 1 << 20  # what Linux allows everyone; 64 KiB by default


def widen_pipe(fd: int) -> None:
    """Let a pipe hold as much as it may: fewer switches between its two ends."""
    with contextlib.suppress(OSError, AttributeError):  # not a pipe, or not Linux
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def allow_files(count: int) -> None:
    """Raise the limit on open files by so many, as far as we may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # Unix only

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
        self._ends = [self.header.offsets[s.name] + s.nbytes for s in self.header.tensors]
        self._scratch = memoryview(bytearray(_SKIP))
        self._spools: dict[str, tempfile.SpooledTemporaryFile[bytes]] = {}

    def _take(self, nbytes: int) -> bytes:
        parts, left = [], nbytes
        while left and (part := os.read(self._fd, min(left, _SKIP))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def keep(self, tensors: Iterable[str]) -> None:
        """See Source: each waits in a file without a name, in the directory for such (TMPDIR)."""
        self._spools = {name: tempfile.SpooledTemporaryFile(_IN_MEMORY) for name in tensors}  # noqa: SIM115 - closed by drop
        allow_files(len(self._spools))  # the experts of a layer can be more than a thousand

    def drop(self, tensor: str) -> None:
        """See Source."""
        if (spool := self._spools.pop(tensor, None)) is not None:
            spool.close()

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """Read the next bytes of the stream, passing over what nobody asked for, or of a spool."""
        offset = self.header.offsets[tensor]
        if (spool := self._spools.get(tensor)) is not None:
            end = offset + self.header.by_name[tensor].nbytes
            if self._position < end:
                self._skip_to(end)
            spool.seek(start)
            got = spool.readinto(area[:nbytes])
            assert got == nbytes, "a spool holds all of its tensor"
        else:
            self._skip_to(offset + start)
            self._fill(area[:nbytes])
        return area[:nbytes]

    def _skip_to(self, position: int) -> None:
        assert position >= self._position, "a stream cannot be read backwards"
        while self._position < position:
            at = bisect_right(self._ends, self._position)
            spool = self._spools.get(self.header.tensors[at].name)
            stop = min(position, self._ends[at], self._position + len(self._scratch))
            part = self._scratch[: stop - self._position]
            self._fill(part)
            if spool is not None:
                with write_errors("a temporary file"):
                    spool.write(part)

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
        for tensor in list(self._spools):
            self.drop(tensor)
        self._skip_to(self.header.nbytes)
        if extra := os.read(self._fd, 1):
            raise InvalidFile("bytes after the last tensor", file=self.label, got=f"{extra!r}...")

    def identity(self) -> object:
        """A stream cannot be read again, so nothing may be resumed on its word."""
        return None

    def close(self) -> None:
        """Close our end; a writer then learns that nobody reads."""
        for tensor in list(self._spools):
            self.drop(tensor)
        os.close(self._fd)
