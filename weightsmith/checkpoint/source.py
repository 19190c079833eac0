"""Where a checkpoint is read from: one file, a sharded directory, a stream, or the Hub."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from weightsmith.checkpoint.hub import is_hub
from weightsmith.checkpoint.index import (
    PICKLES,
    check_index,
    find_index,
    pickle_refused,
    read_index,
    weight_files,
)
from weightsmith.checkpoint.shard import Shard
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.stream import StreamSource
from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.header import Header, TensorSpec


class Source(Protocol):
    """A checkpoint that can be read.

    Attributes:
        label: how messages call it.
        header: its tensors in byte order (shard after shard) and its metadata.
        sequential: whether it can be read only once, in order.
        sidecars: the files that belong to it, or None where nothing is known of them.
        shard_of: the file name of each tensor; empty for a stream.
    """

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def header(self) -> Header: ...  # noqa: D102
    @property
    def sequential(self) -> bool: ...  # noqa: D102
    @property
    def sidecars(self) -> Sidecars | None: ...  # noqa: D102
    @property
    def shard_of(self) -> Mapping[str, str]: ...  # noqa: D102

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """Read bytes of a tensor into page-aligned scratch and return the part that holds them."""

    def keep(self, tensors: Iterable[str]) -> None:
        """Called before the first read: these are read late, or more than once, until `drop`."""

    def drop(self, tensor: str) -> None:
        """A tensor that was to be kept is not read any more."""

    def finish(self) -> None:
        """Called after the last read: whatever is left must be as the header says."""

    def identity(self) -> object:
        """What changes when the data under the same name changes."""

    def close(self) -> None:
        """Give back what is open."""


class WeightFile(Protocol):
    """One safetensors file that can be read anywhere, as Shard is."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def header(self) -> Header: ...  # noqa: D102

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview: ...  # noqa: D102
    def identity(self) -> object: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class FileSource:
    """A checkpoint in files: one, or the shards of a directory."""

    sequential = False

    def __init__(self, label: str, shards: Sequence[WeightFile], sidecars: Sidecars | None) -> None:
        self.label = label
        self.sidecars = sidecars
        self._shards = shards
        self._of: dict[str, WeightFile] = {}
        specs: list[TensorSpec] = []
        for shard in shards:
            for spec in shard.header.tensors:
                if spec.name in self._of:
                    raise InvalidFile(
                        f"tensor stands in two files, {self._of[spec.name].name} too",
                        file=shard.label,
                        tensor=spec.name,
                    )
                self._of[spec.name] = shard
            specs += shard.header.tensors
        metadata = shards[0].header.metadata
        self.header = shards[0].header if len(shards) == 1 else Header(tuple(specs), metadata)
        self.shard_of = {name: shard.name for name, shard in self._of.items()}

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """See Source."""
        return self._of[tensor].read(tensor, start, nbytes, area)

    def keep(self, tensors: Iterable[str]) -> None:
        """See Source: a file can be read in any order."""

    def drop(self, tensor: str) -> None:
        """See Source."""

    def finish(self) -> None:
        """See Source: sizes were checked when the files were opened."""

    def identity(self) -> object:
        """See Source."""
        return [shard.identity() for shard in self._shards]

    def close(self) -> None:
        """See Source."""
        for shard in self._shards:
            shard.close()


def open_source(
    address: str, notice: Callable[[str], None] = lambda _: None, *, stream: bool = False
) -> Source:
    """Open whatever an argument names: `-`, a pipe, a file, a directory or a hub address.

    Args:
        address: as given on the command line.
        notice: told when an input is waited for.
        stream: read a hub address by byte ranges rather than download it.

    Raises:
        UsageError: standard input is a terminal or empty.
        InvalidFile: the data is not valid safetensors.
        WeightsmithError: nothing can be read there.
    """
    if is_hub(address):
        from weightsmith.checkpoint.remote import open_hub  # which is made of what is here

        return open_hub(address, notice, stream=stream)
    path = Path("/dev/stdin" if address == "-" else address)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise WeightsmithError(f"cannot open: {error.strerror}", file=address) from None
    if stat.S_ISDIR(mode):
        return open_directory(path)
    if stat.S_ISREG(mode):
        # A redirected file (`< model.safetensors`) is known by its real name.
        path = Path(os.path.realpath(path)) if str(path).startswith("/dev/") else path
        if path.suffix in PICKLES:
            raise pickle_refused(path)
        shard = Shard(path)
        return FileSource(str(path), [shard], Sidecars.beside(path))
    return StreamSource(path, "standard input" if address == "-" else address, notice)


def open_directory(directory: Path, label: str | None = None) -> "FileSource":
    """Open the checkpoint in a directory.

    Args:
        directory: where it is.
        label: what messages call it; the path unless given.
    """
    label = label or str(directory)
    present = [path.name for path in directory.iterdir()]
    index = find_index(present, label)
    weight_map = read_index(directory / index, f"{label}/{index}") if index else None
    names = sorted(set(weight_map.values())) if weight_map else weight_files(present, label)
    shards: list[Shard] = []
    try:
        for name in names:
            shards.append(Shard(directory / name, f"{label}/{name}"))
        source = FileSource(label, shards, Sidecars.of_directory(directory))
        if weight_map is not None:
            check_index(weight_map, source.shard_of, f"{label}/{index}")
    except BaseException:
        for shard in shards:
            shard.close()
        raise
    return source
