"""Where a checkpoint is read from: one file, a sharded directory, or a stream.

Hub addresses (`hf://owner/name@revision`) have their door in `open_source`.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from weightsmith.checkpoint.shard import Shard
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.stream import StreamSource
from weightsmith.errors import InvalidFile, UsageError, WeightsmithError, printable
from weightsmith.header import Header, TensorSpec

INDEX_SUFFIX = ".safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


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


class FileSource:
    """A checkpoint in files: one, or the shards of a directory."""

    sequential = False

    def __init__(self, label: str, shards: list[Shard], sidecars: Sidecars | None) -> None:
        self.label = label
        self.sidecars = sidecars
        self._shards = shards
        self._of: dict[str, Shard] = {}
        specs: list[TensorSpec] = []
        for shard in shards:
            for spec in shard.header.tensors:
                if spec.name in self._of:
                    raise InvalidFile(
                        f"tensor stands in two files, {self._of[spec.name].path.name} too",
                        file=shard.path,
                        tensor=spec.name,
                    )
                self._of[spec.name] = shard
            specs += shard.header.tensors
        metadata = shards[0].header.metadata
        self.header = shards[0].header if len(shards) == 1 else Header(tuple(specs), metadata)
        self.shard_of = {name: shard.path.name for name, shard in self._of.items()}

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


def open_source(address: str, notice: Callable[[str], None] = lambda _: None) -> Source:
    """Open whatever an argument names: `-`, a pipe, a file or a directory.

    Args:
        address: as given on the command line.
        notice: told when an input is waited for.

    Raises:
        UsageError: standard input is a terminal or empty.
        InvalidFile: the data is not valid safetensors.
        WeightsmithError: nothing can be read there.
    """
    if address.startswith("hf://"):
        raise UsageError("hf:// sources are not supported yet", file=address)
    path = Path("/dev/stdin" if address == "-" else address)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise WeightsmithError(f"cannot open: {error.strerror}", file=address) from None
    if stat.S_ISDIR(mode):
        return _open_directory(path)
    if stat.S_ISREG(mode):
        # A redirected file (`< model.safetensors`) is known by its real name.
        path = Path(os.path.realpath(path)) if str(path).startswith("/dev/") else path
        if path.suffix in PICKLES:
            raise _pickle(path)
        shard = Shard(path)
        return FileSource(str(path), [shard], Sidecars.beside(path))
    return StreamSource(path, "standard input" if address == "-" else address, notice)


def _pickle(path: Path) -> InvalidFile:
    return InvalidFile(
        "this is a pickle, which can run code when opened; weightsmith reads safetensors only",
        file=path,
        remedy="convert it once: transformers' save_pretrained writes safetensors",
    )


def _open_directory(directory: Path) -> Source:
    indexes = sorted(directory.glob("*" + INDEX_SUFFIX))
    if len(indexes) > 1:
        raise UsageError(
            "several index files",
            file=directory,
            got=", ".join(i.name for i in indexes),
            remedy="name one safetensors file instead of the directory",
        )
    weight_map = _read_index(indexes[0]) if indexes else None
    names = sorted(set(weight_map.values())) if weight_map is not None else _weight_files(directory)
    shards: list[Shard] = []
    try:
        for name in names:
            shards.append(Shard(directory / name))
        source = FileSource(str(directory), shards, Sidecars.of_directory(directory))
        if weight_map is not None:
            _check_index(weight_map, source, indexes[0])
    except BaseException:
        for shard in shards:
            shard.close()
        raise
    return source


def _weight_files(directory: Path) -> list[str]:
    files = sorted(path.name for path in directory.glob("*.safetensors"))
    if "model.safetensors" in files:
        return ["model.safetensors"]
    if files:
        return files
    pickles = sorted(p for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise WeightsmithError("no *.safetensors file", file=directory)


def _read_index(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
        weight_map = content["weight_map"]
        if not all(type(v) is str for v in weight_map.values()) or not weight_map:
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidFile("not a valid index file", file=path) from None
    for name in set(weight_map.values()):
        # Checked as text: hub caches are symlinks, and lead outside rightly.
        if (
            Path(name).is_absolute()
            or ".." in Path(name).parts
            or not name.endswith(".safetensors")
        ):
            raise InvalidFile(
                "index names a file outside the checkpoint", file=path, got=printable(repr(name))
            )
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _check_index(weight_map: dict[str, str], source: FileSource, index: Path) -> None:
    for tensor, name in weight_map.items():
        found = source.shard_of.get(tensor)
        if found != Path(name).name:
            raise InvalidFile(
                "index and shards disagree",
                file=index,
                tensor=tensor,
                expected=f"the tensor in {printable(name)}",
                got=f"it in {found}" if found else "no such tensor",
            )
    for tensor in source.header.by_name.keys() - weight_map.keys():
        raise InvalidFile("tensor is in a shard but not in the index", file=index, tensor=tensor)
