"""A checkpoint whose tensors go by other names than those they are stored under."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.header import Header, TensorSpec

if TYPE_CHECKING:
    from weightsmith.checkpoint.source import Source


class RenamedSource:
    """Another source under new names; see `source.Source` for the protocol.

    Args:
        source: where the data is.
        names: new names by old ones; tensors that it lacks keep theirs.
    """

    def __init__(self, source: "Source", names: Mapping[str, str]) -> None:
        self.label = source.label
        self.sequential = source.sequential
        self.sidecars: Sidecars | None = source.sidecars
        specs = [
            TensorSpec(names.get(spec.name, spec.name), spec.dtype, spec.shape)
            for spec in source.header.tensors
        ]
        self.header = Header(tuple(specs), source.header.metadata)
        self.shard_of = {names.get(name, name): file for name, file in source.shard_of.items()}
        self.source = source
        self._old = {new: old for old, new in names.items()}

    def stored(self, tensor: str) -> str:
        """The name under which the source has a tensor."""
        return self._old.get(tensor, tensor)

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """See Source."""
        return self.source.read(self.stored(tensor), start, nbytes, area)

    def keep(self, tensors: Iterable[str]) -> None:
        """See Source."""
        self.source.keep(map(self.stored, tensors))

    def drop(self, tensor: str) -> None:
        """See Source."""
        self.source.drop(self.stored(tensor))

    def finish(self) -> None:
        """See Source."""
        self.source.finish()

    def identity(self) -> object:
        """See Source."""
        return self.source.identity()

    def close(self) -> None:
        """See Source."""
        self.source.close()
