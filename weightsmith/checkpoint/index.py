"""Which files of a directory or repository hold its weights, and what its index says of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from weightsmith.errors import InvalidFile, UsageError, WeightsmithError, printable

INDEX_SUFFIX = ".safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def find_index(names: Iterable[str], label: object) -> str | None:
    """The one index file among the names, if there is one.

    Raises:
        UsageError: there are several.
    """
    indexes = sorted(name for name in names if name.endswith(INDEX_SUFFIX))
    if len(indexes) > 1:
        raise UsageError(
            "several index files",
            file=label,
            got=", ".join(indexes),
            remedy="name one safetensors file instead of the directory",
        )
    return indexes[0] if indexes else None


def weight_files(names: Iterable[str], label: object) -> list[str]:
    """The weights where no index names them: model.safetensors, else all *.safetensors.

    Raises:
        InvalidFile: there are only pickles.
        WeightsmithError: there are no weights.
    """
    given = sorted(names)
    files = [name for name in given if name.endswith(".safetensors")]
    if SINGLE in files:
        return [SINGLE]
    if files:
        return files
    pickles = [name for name in given if Path(name).suffix in PICKLES]
    if pickles:
        raise pickle_refused(f"{label}/{pickles[0]}")
    raise WeightsmithError("no *.safetensors file", file=label)


def pickle_refused(label: object) -> InvalidFile:
    """The error for a file that could run code."""
    return InvalidFile(
        "this is a pickle, which can run code when opened; weightsmith reads safetensors only",
        file=label,
        remedy="convert it once: transformers' save_pretrained writes safetensors",
    )


def read_index(path: Path, label: object = None) -> dict[str, str]:
    """The file of each tensor, as an index file says.

    Args:
        path: the file.
        label: what messages call it; its path unless given.

    Raises:
        InvalidFile: it is no index, or names files elsewhere.
    """
    label = label or path
    try:
        content = json.loads(path.read_text())
        weight_map = content["weight_map"]
        if not all(type(v) is str for v in weight_map.values()) or not weight_map:
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidFile("not a valid index file", file=label) from None
    for name in set(weight_map.values()):
        # Checked as text: hub caches are symlinks, and lead outside rightly.
        if (
            Path(name).is_absolute()
            or ".." in Path(name).parts
            or not name.endswith(".safetensors")
        ):
            raise InvalidFile(
                "index names a file outside the checkpoint", file=label, got=printable(repr(name))
            )
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def check_index(weight_map: Mapping[str, str], shard_of: Mapping[str, str], label: object) -> None:
    """Raise InvalidFile unless the index says where the tensors really are."""
    for tensor, name in weight_map.items():
        found = shard_of.get(tensor)
        if found != Path(name).name:
            raise InvalidFile(
                "index and shards disagree",
                file=label,
                tensor=tensor,
                expected=f"the tensor in {printable(name)}",
                got=f"it in {found}" if found else "no such tensor",
            )
    for tensor in shard_of.keys() - weight_map.keys():
        raise InvalidFile("tensor is in a shard but not in the index", file=label, tensor=tensor)
