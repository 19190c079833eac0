"""What a quantised checkpoint keeps, and what all of it takes: the lines of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from weightsmith.dtypes import DTYPES, is_arithmetic
from weightsmith.header import Header, TensorSpec
from weightsmith.operators.operator import TensorPlan
from weightsmith.operators.roles import Role, role_of
from weightsmith.tritplanes.encoding import Encoding, Int8Encoding, TritEncoding


def reason_to_keep(spec: TensorSpec) -> str:
    """Why a tensor is not quantised."""
    if not is_arithmetic(spec.dtype):
        return f"{spec.dtype} is not quantised"
    role = role_of(spec)
    return "not selected" if role is Role.LINEAR else f"one of the {role}"


def dense_linears(header: Header, quantised: Collection[str]) -> list[str]:
    """Modules that compressed-tensors must leave alone: its `targets` means every linear layer."""
    kept = [
        spec.name.removesuffix(".weight")
        for spec in header.tensors
        if spec.name not in quantised
        and len(spec.shape) == 2
        and spec.name.endswith(".weight")
        and role_of(spec) is not Role.EMBEDDING
    ]
    return list(dict.fromkeys([*kept, "lm_head"]))


def without_statistics(
    hessians: Mapping[str, TensorSpec], encodings: Mapping[str, Encoding]
) -> tuple[str, ...]:
    """A warning where only some of the tensors have statistics."""
    bare = [
        name
        for name, encoding in encodings.items()
        if isinstance(encoding, TritEncoding) and name not in hessians
    ]
    if not hessians or not bare:
        return ()
    return (f"{len(bare)} tensors have no statistics and are fitted without, such as {bare[0]}",)


def summary(
    header: Header, encodings: Mapping[str, Encoding], tensors: Sequence[TensorPlan]
) -> tuple[str, ...]:
    """What is quantised and what is kept, with everything that is stored counted.

    Args:
        header: of the input.
        encodings: of the tensors that are quantised.
        tensors: of the output.
    """
    stored: Counter[str] = Counter()
    for plan in tensors:
        for slot in plan.segments[0].slots[:1]:  # the shape of an int4 weight is made of none
            stored[slot.spec.name] += plan.spec.nbytes
    lines = []
    for kind, what in ((TritEncoding, "in trit planes"), (Int8Encoding, "in 8 bits")):
        names = [name for name, encoding in encodings.items() if isinstance(encoding, kind)]
        if names:
            weights = sum(header.by_name[name].numel for name in names)
            bits = 8 * sum(stored[name] for name in names) / weights
            lines.append(f"{len(names)} tensors {what}, stored at {bits:.3f} bits per weight")
    kept = Counter(str(role_of(s)) for s in header.tensors if s.name not in encodings)
    if kept:
        lines.append("kept: " + ", ".join(f"{role} ({n})" for role, n in sorted(kept.items())))
    total = sum(spec.numel for spec in header.tensors if is_arithmetic(spec.dtype))
    size = sum(plan.spec.nbytes for plan in tensors)
    before = sum(DTYPES[spec.dtype].bits * spec.numel for spec in header.tensors)
    lines.append(f"all in: {8 * size / total:.3f} bits per weight, {before / total:.3f} before")
    return tuple(lines)
