"""What an input's config.json says once the patches on their way to it are applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightsmith.checkpoint.sidecar import apply_patch
from weightsmith.errors import InvalidFile, Mismatch
from weightsmith.operators.float8 import scales_of
from weightsmith.operators.operator import InputView
from weightsmith.operators.provenance import QUANTIZATION, trusted_patch
from weightsmith.tritplanes.encoding import METHOD, Quantization, packed_spec


def config_of(view: InputView) -> Mapping[str, Any]:
    """The configuration that belongs to the input's tensors; empty where none is known."""
    return apply_patch(view.config or {}, trusted_patch(view.header.metadata))


def quantization_of(view: InputView) -> Quantization | None:
    """How the input's tensors are packed by ptqtp; None if they are not quantised.

    Raises:
        Mismatch: they are quantised by another method, or the tensors belie the configuration.
        InvalidFile: the configuration cannot be read.
    """
    record = config_of(view).get(QUANTIZATION)
    if record is None:
        return None
    method = record.get("quant_method") if isinstance(record, Mapping) else None
    if method != METHOD:
        raise Mismatch(
            "the checkpoint is quantised by another method",
            file=view.label,
            expected=f"{METHOD} or none",
            got=str(method),
            remedy="weightsmith unpack makes its float8 weights dense"
            if scales_of(view.header)
            else "the tool that made it can make it dense again",
        )
    try:
        found = Quantization.parse(record)
    except ValueError as error:
        raise InvalidFile(f"{QUANTIZATION}: {error}", file=view.label) from None
    for name, encoding in found.tensors.items():
        spec = view.header.by_name.get(name)
        wanted = packed_spec(name, encoding)
        if spec is not None and spec != wanted:
            raise InvalidFile(
                "the tensor is not packed as its configuration says",
                file=view.label,
                tensor=name,
                expected=f"{wanted.dtype} {list(wanted.shape)}",
                got=f"{spec.dtype} {list(spec.shape)}",
            )
    return found
