"""One safetensors file that can be read anywhere: a file, or a shell's `< file`."""

import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.header import Header, header_length, parse_header

PAGE = 4096
# MADV_POPULATE_READ of Linux 5.14: the pages are there afterwards, or the call fails; without it a
# file that was cut short meanwhile would end the process by a signal.
_POPULATE_READ = 22
_WORTH_MAPPING = 1 << 16


class Shard:
    """An open file with its validated header.

    Args:
        path: the file; symlinks are followed, for hub caches are made of them.
        label: what messages call it; the path unless given.

    Raises:
        InvalidFile: where the header breaks a rule or the size of the file does not fit it.
    """

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.name = path.name
        self._path = path
        self.label = label or str(path)
        self._mappable = sys.platform == "linux"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise WeightsmithError(f"cannot open: {error.strerror}", file=self.label) from None
        try:
            length = header_length(os.pread(self._fd, 8, 0), self.label)
            text = os.pread(self._fd, length, 8)
            if len(text) < length:
                raise InvalidFile(
                    "header is cut short", file=self.label, expected=length, got=len(text)
                )
            self.header: Header = parse_header(text, self.label)
            self._data = 8 + length
            check_size(self.header, self._data, os.fstat(self._fd).st_size, self.label)
        except BaseException:
            self.close()
            raise

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """Bytes [start, start + nbytes) of a tensor; threads may call this at once.

        Args:
            area: page-aligned scratch with room for nbytes and two pages.

        Returns:
            A view of the page cache, or the part of `area` that the bytes were read into.
        """
        position = self._data + self.header.offsets[tensor] + start
        if nbytes >= _WORTH_MAPPING and self._mappable:
            try:
                return self._map(position, nbytes)
            except (OSError, ValueError) as error:
                # Cut short or unreadable: the copy says which. EINVAL: a kernel before 5.14.
                self._mappable = getattr(error, "errno", None) != errno.EINVAL
        return self._copy(tensor, position, nbytes, area)

    def _map(self, position: int, nbytes: int) -> memoryview:
        """Map the bytes: they are used where the page cache has them, which saves a copy.

        The mapping ends with the view, so resident memory does not grow with the file.
        """
        lead = position % mmap.ALLOCATIONGRANULARITY
        os.posix_fadvise(self._fd, position, 2 * nbytes, os.POSIX_FADV_WILLNEED)
        mapped = mmap.mmap(
            self._fd, lead + nbytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=position - lead
        )
        mapped.madvise(_POPULATE_READ)
        return memoryview(mapped)[lead:]

    def _copy(self, tensor: str, position: int, nbytes: int, area: memoryview) -> memoryview:
        # A destination a few bytes off the source's page offset makes the kernel's copy four times
        # slower, so the read begins on a page of the file and lands on a page of memory.
        lead = position % PAGE
        done, wanted = 0, lead + nbytes
        while done < wanted:
            got = os.preadv(self._fd, [area[done:wanted]], position - lead + done)
            if got == 0:
                raise InvalidFile(
                    "the file became shorter while it was read",
                    file=self.label,
                    tensor=tensor,
                    expected=f"{nbytes} bytes",
                    got=max(0, done - lead),
                )
            done += got
        return area[lead:wanted]

    def identity(self) -> tuple[str, int, int]:
        """Real path, size, and time of the last change in ns: enough to notice a change."""
        status = os.fstat(self._fd)
        return os.path.realpath(self._path), status.st_size, status.st_mtime_ns

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Any, ...]:
        # What travels to another process is where the file is; it must be the same one there.
        return _opened_again, (os.path.abspath(self._path), self.label, self.header)


def _opened_again(path: str, label: str, expected: Header) -> Shard:
    shard = Shard(Path(path), label)
    if shard.header != expected:
        shard.close()
        raise InvalidFile("another file than the run has there", file=path)
    return shard


def check_size(header: Header, data: int, size: int, label: str) -> None:
    """Raise InvalidFile unless a file ends where its header says.

    Args:
        header: of the file.
        data: where the tensors begin, in bytes.
        size: of the file, in bytes.
        label: what messages call it.
    """
    wanted = data + header.nbytes
    if size == wanted:
        return
    what = "bytes after the last tensor" if size > wanted else "file is truncated"
    offsets = header.offsets
    ends = ((spec.name, data + offsets[spec.name] + spec.nbytes) for spec in header.tensors)
    first_lost = next((name for name, end in ends if end > size), None)
    raise InvalidFile(
        what, file=label, tensor=first_lost, expected=f"{wanted:,} bytes", got=f"{size:,}"
    )
