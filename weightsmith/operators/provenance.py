"""The record of how a checkpoint was made, kept in its `__metadata__`.

A node is `{"operator", "version", "parameters", "inputs"}`; each input is `{"fingerprint"}`, with
`"from"` where it has a node of its own. There is one normal form, whether operators were piped or
run one by one, and no time or path: same inputs, same bytes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from weightsmith.dtypes import DTYPES
from weightsmith.errors import printable
from weightsmith.header import Header
from weightsmith.tritplanes.encoding import Quantization
from weightsmith.tritplanes.int4 import is_config as is_int4

PROVENANCE = "weightsmith.provenance"
CONFIG_PATCH = "weightsmith.config_patch"
SIDECARS = "weightsmith.sidecars"
# The key of config.json that says how weights are packed.
QUANTIZATION = "quantization_config"
OLD_QUANTIZATION = "compression_config"  # of compressed-tensors before its version 0.5
# What only the next command of a pipe needs to know.
TRANSIENT = (SIDECARS,)
_MAX_DEPTH = 50


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(item) is kind for item in value)


_PATCHES: dict[str, Callable[[Any], bool]] = {
    "dtype": lambda value: value in [dtype.torch_name for dtype in DTYPES.values()],
    "tie_word_embeddings": lambda value: isinstance(value, bool),
    "vocab_size": lambda value: type(value) is int and value >= 0,
    OLD_QUANTIZATION: lambda value: value is None,
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "first_k_dense_replace"),
        lambda value: type(value) is int and value >= 0,
    ),
    **dict.fromkeys(("layer_types", "layers_block_type", "mlp_layer_types"), _is_list_of(str)),
    **dict.fromkeys(
        ("no_rope_layers", "mlp_only_layers", "moe_layers", "cross_attention_layers"),
        _is_list_of(int),
    ),
    QUANTIZATION: lambda value: value is None or _is_ours(value),
}


def canonical(node: Any) -> str:
    """JSON with sorted keys and no spaces: equal objects give equal text."""
    return json.dumps(node, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_object(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    """A metadata entry parsed as a JSON object; None where there is none or it is not ours."""
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def trusted_patch(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config patch of a pipe's earlier stages: only keys and values that our operators make."""
    patch = read_object(metadata, CONFIG_PATCH) or {}
    return {key: value for key, value in patch.items() if key in _PATCHES and _PATCHES[key](value)}


def _is_ours(quantization: object) -> bool:
    if is_int4(quantization):
        return True
    try:
        Quantization.parse(quantization)
    except ValueError:
        return False
    return True


def record_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record in a header's metadata; None where there is none or it is not one of ours."""
    node = read_object(metadata, PROVENANCE)
    return node if node is not None and _is_record(node) else None


def _is_record(node: object, depth: int = 0) -> bool:
    # Metadata is untrusted: everything that is read from a record later is checked here.
    if not isinstance(node, dict) or depth > _MAX_DEPTH:
        return False
    inputs, parameters = node.get("inputs"), node.get("parameters")
    if not isinstance(node.get("operator"), str) or not isinstance(node.get("version"), str):
        return False
    if not isinstance(inputs, dict) or not isinstance(parameters, dict):
        return False
    given = [each for value in inputs.values() for each in _listed(value)]
    return all(
        isinstance(each, dict)
        and isinstance(each.get("fingerprint"), str)
        and ("from" not in each or _is_record(each["from"], depth + 1))
        for each in given
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def lineage(header: Header, fingerprint: str) -> dict[str, Any]:
    """The node of an input: its fingerprint, and how it was made if it says so."""
    node = record_of(header.metadata)
    return {"fingerprint": fingerprint, **({"from": node} if node else {})}


def stream_fingerprint(header: Header) -> str:
    """What a stream is known by before its data: its provenance, else its header."""
    node = record_of(header.metadata)
    if node is not None:
        return f"chain:{_hash(canonical(node))}"
    specs = sorted(f"{len(spec.name)}:{spec.name}{spec}" for spec in header.tensors)
    return f"header:{_hash(canonical(specs))}"


def describe(node: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """A record as an indented list, for cards and terminals."""
    indent = "  " * depth
    parameters = ", ".join(f"{key} = {value}" for key, value in sorted(node["parameters"].items()))
    title = f"{indent}- {node['operator']} {node['version']}"
    yield printable(f"{title}: {parameters}" if parameters else title)
    for role, given in node["inputs"].items():
        for each in _listed(given):
            yield printable(f"{indent}  - {role}: {each['fingerprint']}")
            if "from" in each:
                yield from describe(each["from"], depth + 2)


def inputs_of(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, fingerprint) of every input in a record, nested ones included."""
    for role, given in node["inputs"].items():
        for each in _listed(given):
            yield role, each["fingerprint"]
            if "from" in each:
                yield from inputs_of(each["from"])


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
