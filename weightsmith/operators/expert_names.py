"""Experts of a mixture by their names: a tensor for each, or all of a layer in two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from weightsmith.errors import Mismatch
from weightsmith.families import MIXTRAL_PROJECTIONS, PROJECTIONS
from weightsmith.header import Header, TensorSpec

_SEPARATE = re.compile(r"(.+\.experts)\.([0-9]{1,6})\.([a-z0-9_]+)\.weight")
_FUSED = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")
_PART = re.compile(r"(.+\.experts)\.(?:[0-9]{1,6}\.)?[^.]+(?:\..+)?")


class Form(StrEnum):
    """How experts are stored; see the page of the command."""

    FUSED = "fused"
    SEPARATE = "separate"


def other(form: Form) -> Form:
    """The form that experts may have instead."""
    return Form.SEPARATE if form is Form.FUSED else Form.FUSED


@dataclass
class Experts:
    """The experts of one layer.

    Attributes:
        prefix: up to and with `experts`.
        label: how messages call the checkpoint.
        gate_up, down: where they are fused.
        single: else by projection and number.
    """

    prefix: str
    label: str
    gate_up: TensorSpec | None = None
    down: TensorSpec | None = None
    single: dict[str, dict[int, TensorSpec]] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """Fused or separate.

        Raises:
            Mismatch: some of both.
        """
        if self.single and (self.gate_up or self.down):
            raise Mismatch(
                "experts both fused and separate", file=self.label, tensor=self.specs[0].name
            )
        return Form.SEPARATE if self.single else Form.FUSED

    @property
    def specs(self) -> list[TensorSpec]:
        """All tensors."""
        fused = [spec for spec in (self.gate_up, self.down) if spec]
        return fused + [spec for each in self.single.values() for spec in each.values()]

    def projections(self) -> list[list[TensorSpec]]:
        """Gate, up and down of separate experts, each in the order of the experts.

        Raises:
            Mismatch: one is missing, or they differ in shape or dtype.
        """
        names = PROJECTIONS if PROJECTIONS[0] in self.single else MIXTRAL_PROJECTIONS
        count = 1 + max(number for each in self.single.values() for number in each)
        found = []
        for name in names:
            numbered = self.single.get(name, {})
            for number in range(count):
                if number not in numbered:
                    missing = f"{self.prefix}.{number}.{name}.weight"
                    raise Mismatch("an expert lacks a tensor", file=self.label, tensor=missing)
            found.append([numbered[number] for number in range(count)])
        gate, up, down = found
        self._check_alike(gate + up, gate[0].shape)
        self._check_alike(down, gate[0].shape[::-1])
        self._check_alike(gate + down, None)
        return found

    def _check_alike(self, specs: Sequence[TensorSpec], shape: tuple[int, ...] | None) -> None:
        first = specs[0]
        for spec in specs:
            odd = spec.dtype != first.dtype or shape not in (None, spec.shape)
            if odd or len(spec.shape) != 2:
                raise Mismatch(
                    "experts differ, and cannot be one tensor",
                    file=self.label,
                    tensor=spec.name,
                    expected=TensorSpec(spec.name, first.dtype, shape or first.shape),
                    got=spec,
                )

    def input_last(self) -> bool | None:
        """Whether fused experts are [experts, out, in]; None if they fit neither order.

        No shape fits both: gate and up are twice as many as the inputs of down.
        """
        if self.gate_up is None or self.down is None:
            return None
        _, a, b = self.gate_up.shape
        _, c, d = self.down.shape
        if (a, b) == (2 * d, c):
            return True
        return False if (a, b) == (d, 2 * c) else None


def experts_of(specs: Iterable[TensorSpec], label: str) -> dict[str, Experts]:
    """The experts of every layer by their prefix.

    Raises:
        Mismatch: a tensor among them is of neither form, such as a bias or a scale.
    """
    found: dict[str, Experts] = {}
    others: dict[str, str] = {}
    for spec in specs:
        if (part := _PART.fullmatch(spec.name)) is None:
            continue
        experts = found.setdefault(part[1], Experts(part[1], label))
        single = _SEPARATE.fullmatch(spec.name)
        if single and single[3] in (*PROJECTIONS, *MIXTRAL_PROJECTIONS):
            experts.single.setdefault(single[3], {})[int(single[2])] = spec
        elif spec.name == f"{part[1]}.gate_up_proj" and len(spec.shape) == 3:
            experts.gate_up = spec
        elif spec.name == f"{part[1]}.down_proj" and len(spec.shape) == 3:
            experts.down = spec
        else:
            others[part[1]] = spec.name
    for prefix, name in others.items():
        raise Mismatch(
            "a tensor of the experts that can be neither fused nor separated",
            file=label,
            tensor=name,
            expected=f"{prefix}.N.gate_proj.weight and the like, or gate_up_proj and down_proj",
            remedy="float8 weights: weightsmith unpack first; else --exclude the layer's experts",
        )
    return found


def other_form(name: str, header: Header) -> Form | None:
    """The form of a tensor that another checkpoint lacks, if that has the experts in the other."""
    tensors: Mapping[str, TensorSpec] = header.by_name
    if single := _SEPARATE.fullmatch(name):
        fused = any(f"{stem}.down_proj" in tensors for stem in _stems(single[1]))
        return Form.SEPARATE if fused else None
    if fused_name := _FUSED.fullmatch(name):
        stems = _stems(fused_name[1])
        ends = (PROJECTIONS[2], MIXTRAL_PROJECTIONS[2])
        single_there = any(f"{stem}.0.{end}.weight" in tensors for stem in stems for end in ends)
        return Form.FUSED if single_there else None
    return None


def layout_of(name: str, header: Header) -> str | None:
    """What --layout calls the order of dimensions of the fused experts that a tensor belongs to."""
    if (fused := _FUSED.fullmatch(name)) is None:
        return None
    gate_up, down = (
        header.by_name.get(f"{fused[1]}.{part}") for part in ("gate_up_proj", "down_proj")
    )
    if any(spec is None or len(spec.shape) != 3 for spec in (gate_up, down)):
        return None
    order = Experts(fused[1], "", gate_up, down).input_last()
    return None if order is None else ("out-in" if order else "in-out")


def _stems(prefix: str) -> tuple[str, str, str]:
    return (
        prefix,
        prefix.replace(".block_sparse_moe.experts", ".mlp.experts"),
        prefix.replace(".mlp.experts", ".block_sparse_moe.experts"),
    )
