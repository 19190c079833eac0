"""cat: copy a checkpoint, or join several; select, cast and shard on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from weightsmith.errors import Mismatch
from weightsmith.operators.configuration import config_of
from weightsmith.operators.operator import (
    Draft,
    Function,
    Input,
    InputView,
    Operator,
    Request,
    Slot,
    option,
    whole,
)
from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.operators.registry import register
from weightsmith.renaming import Rule, renamed


@register
@dataclass(frozen=True, kw_only=True)
class Cat(Operator):
    """Copy a checkpoint: shard it anew, cast it, keep a selection, or join several into one.

    A file without options is copied byte for byte. Of several, no two may have a tensor of the
    same name; metadata and sidecar files are those of the first.
    """

    name: ClassVar[str] = "cat"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("model", "the checkpoints to copy", stdin=True, many=True),
    )
    examples: ClassVar[str] = """
    weightsmith cat model/ --shard-size 2GB -o sharded/
    weightsmith cat model/ --select '*.layers.{0..3}.*' --dtype float32 > part.safetensors
    weightsmith cat text/ --rename 's/^model\\./model.language_model./' -o renamed/
    """

    rename: tuple[Rule, ...] = option(
        "--rename",
        "change the names of tensors",
        default=(),
        convert=Rule.parse,
        metavar="s/REGEX/NEW/",
        repeated=True,
    )

    def renamed(self, inputs: Sequence[InputView]) -> Sequence[Mapping[str, str]]:
        """See Operator."""
        return renamed(self.rename, [(view.role, view.header) for view in inputs], ["model"])

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        if self.rename:
            for view in inputs:
                _refuse_quantised(view)
        owner: dict[str, InputView] = {}
        plans = []
        skipped = {}
        # A stream passes by only once, so it comes first.
        for index in sorted(range(len(inputs)), key=lambda i: not inputs[i].sequential):
            view = inputs[index]
            for spec in view.header.tensors:
                if spec.name not in request.selection:
                    skipped[spec.name] = "not selected"
                    continue
                if spec.name in owner:
                    raise Mismatch(
                        f"tensor is in {owner[spec.name].label} too",
                        file=view.label,
                        tensor=spec.name,
                        remedy="--exclude it, or cat a --select of one of them first",
                    )
                owner[spec.name] = view
                plans.append(whole(request.output(spec), (Slot(index, spec),), None))
        request.selection.check([*owner, *skipped])
        untouched = (
            len(inputs) == 1
            and not (skipped or self.rename)
            and all(p.spec == p.segments[0].slots[0].spec for p in plans)
        )
        return Draft(tuple(plans), skipped, transparent=untouched)

    def function(self) -> Function:
        """Nothing is computed."""
        return lambda _: 0


def _refuse_quantised(view: InputView) -> None:
    if config_of(view).get(QUANTIZATION):
        raise Mismatch(
            "the checkpoint is quantised, and its config.json calls tensors by their names",
            file=view.label,
            remedy="weightsmith unpack makes it dense; or rename in what it is made from",
        )
