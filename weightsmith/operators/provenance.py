"""The record of how a checkpoint was made, kept in its `__metadata__`.

A node is `{"operator", "version", "parameters", "inputs"}`; each input is `{"fingerprint"}`, with
`"from"` where it has a node of its own. There is one normal form, whether operators were piped or
run one by one, and no time or path: same inputs, same bytes.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from weightsmith.header import Header

PROVENANCE = "weightsmith.provenance"
CONFIG_PATCH = "weightsmith.config_patch"
SIDECARS = "weightsmith.sidecars"
# What only the next command of a pipe needs to know.
TRANSIENT = (SIDECARS,)


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


def lineage(header: Header, fingerprint: str) -> dict[str, Any]:
    """The node of an input: its fingerprint, and how it was made if it says so."""
    node = read_object(header.metadata, PROVENANCE)
    return {"fingerprint": fingerprint, **({"from": node} if node else {})}


def stream_fingerprint(header: Header) -> str:
    """What a stream is known by before its data: its provenance, else its header."""
    node = read_object(header.metadata, PROVENANCE)
    if node is not None:
        return f"chain:{_hash(canonical(node))}"
    specs = sorted(f"{len(spec.name)}:{spec.name}{spec}" for spec in header.tensors)
    return f"header:{_hash(canonical(specs))}"


def describe(node: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """A record as an indented list, for cards and terminals."""
    indent = "  " * depth
    parameters = ", ".join(f"{k} = {v}" for k, v in sorted(node.get("parameters", {}).items()))
    title = f"{indent}- {node.get('operator', '?')} {node.get('version', '')}".rstrip()
    yield f"{title}: {parameters}" if parameters else title
    for role, given in node.get("inputs", {}).items():
        for each in given if isinstance(given, list) else [given]:
            yield f"{indent}  - {role}: {each.get('fingerprint', '?')}"
            if isinstance(each.get("from"), Mapping):
                yield from describe(each["from"], depth + 2)


def inputs_of(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, fingerprint) of every input in a record, nested ones included."""
    for role, given in node.get("inputs", {}).items():
        for each in given if isinstance(given, list) else [given]:
            yield role, str(each.get("fingerprint"))
            if isinstance(each.get("from"), Mapping):
                yield from inputs_of(each["from"])


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
