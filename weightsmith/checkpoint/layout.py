"""How an output's tensors are spread over files, known before any data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from weightsmith.header import Header, TensorSpec

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Layout:
    """File names and the header of each; the index is None for a single file."""

    files: tuple[tuple[str, Header], ...]
    index: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all files, headers included."""
        return sum(len(header.encode()) + header.nbytes for _, header in self.files)


def single_file(header: Header, name: str = SINGLE) -> Layout:
    """Everything in one file."""
    return Layout(((name, header),))


def shard_by_size(header: Header, limit: int) -> Layout:
    """Greedy in the header's order: a shard is closed before it would pass `limit` bytes."""
    groups: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in header.tensors:
        if groups[-1] and filled + spec.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(spec)
        filled += spec.nbytes
    return _sharded(header, groups)


def shard_like(header: Header, shard_of: Mapping[str, str]) -> Layout:
    """The sharding of another checkpoint; tensors it does not know join the last shard."""
    groups: dict[str, list[TensorSpec]] = {name: [] for name in dict.fromkeys(shard_of.values())}
    last = next(reversed(groups), SINGLE)
    for spec in header.tensors:
        groups.setdefault(shard_of.get(spec.name, last), []).append(spec)
    return _sharded(header, [group for group in groups.values() if group])


def _sharded(header: Header, groups: list[list[TensorSpec]]) -> Layout:
    if len(groups) <= 1:
        return single_file(header)
    files = tuple(
        (
            f"model-{number:05}-of-{len(groups):05}.safetensors",
            Header(tuple(group), header.metadata),
        )
        for number, group in enumerate(groups, start=1)
    )
    metadata = {
        "total_parameters": sum(spec.numel for spec in header.tensors),
        "total_size": header.nbytes,
    }
    weight_map = {spec.name: name for name, shard in files for spec in shard.tensors}
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return Layout(files, json.dumps(index, indent=2, ensure_ascii=False) + "\n")
