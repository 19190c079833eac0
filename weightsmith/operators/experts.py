"""experts: the experts of a mixture, each in its own tensors or all of a layer in two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith.dtypes import DTYPES
from weightsmith.errors import Mismatch, UsageError
from weightsmith.families import (
    EXPERTS_IN_OUT,
    EXPERTS_INTERLEAVED,
    MIXTRAL_NAMES,
    MIXTRAL_PROJECTIONS,
    PROJECTIONS,
)
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of
from weightsmith.operators.expert_names import Experts, Form, experts_of
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    InputView,
    Operator,
    Request,
    Segment,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.operators.registry import register
from weightsmith.operators.roles import family_of

if TYPE_CHECKING:
    from weightsmith.operators.unit import Block, Unit

_STRIP = 32
_BLOCKS = (".block_sparse_moe", ".mlp")  # around separate and fused experts of Mixtral's kind


@register
@dataclass(frozen=True, kw_only=True)
class ConvertExperts(Operator):
    """Fuse the experts of a mixture, or separate them, bit for bit.

    Separate, every expert has its own gate_proj, up_proj and down_proj (w1, w3 and w2 in Mixtral);
    fused, all experts of a layer are the two tensors gate_up_proj and down_proj.
    """

    name: ClassVar[str] = "experts"
    granularity: ClassVar[Granularity] = Granularity.TENSOR
    working_arrays: ClassVar[int] = 2
    uses: ClassVar[frozenset[str]] = frozenset({"spool"})
    examples: ClassVar[str] = """
    weightsmith experts model/ --to separate -o separate/
    weightsmith experts tuned/ --to fused | weightsmith graft base/ instruct/ -o grafted/
    """

    to: str | None = option(
        "--to",
        "a tensor for each projection of each expert, or two for all of a layer",
        default=None,
        choices=tuple(Form),
        metavar="fused|separate",
    )
    layout: str = option(
        "--layout",
        "how fused experts are stored: [experts, out, in] or [experts, in, out]",
        default="auto",
        choices=("auto", "out-in", "in-out"),
        metavar="auto|out-in|in-out",
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        (view,) = inputs
        if self.to is None:
            raise UsageError("--to is missing", expected="--to fused or --to separate")
        request.selection.check([spec.name for spec in view.header.tensors])
        _refuse_quantised(view)
        chosen = [spec for spec in view.header.tensors if spec.name in request.selection]
        groups = [g for g in experts_of(chosen, view.label).values() if g.form != self.to]
        if not groups:
            raise UsageError(
                f"there are no experts that are not {self.to} already",
                file=view.label,
                expected="names such as model.layers.0.mlp.experts."
                + ("0.up_proj.weight" if self.to == Form.FUSED else "gate_up_proj"),
            )
        made: dict[str, list[TensorPlan]] = {}
        gone: set[str] = set()
        renames: dict[str, str] = {}
        for group in groups:
            _refuse_small(group)
            made |= self._converted(group, view, request)
            gone |= {spec.name for spec in group.specs}
            old, new = self._stems(group, view)
            if old != new:
                renames[f"{old}."] = f"{new}."
        tensors: list[TensorPlan] = []
        for spec in view.header.tensors:
            tensors += made.get(spec.name, [])
            if spec.name not in gone:
                tensors.append(_kept(spec, request, renames))
        return Draft(tuple(tensors))

    def _converted(
        self, group: Experts, view: InputView, request: Request
    ) -> dict[str, list[TensorPlan]]:
        """The tensors that a layer's experts become, by the input tensor whose place they take.

        Fused tensors take the place of the last that they are made of: by then a stream has
        brought them all.
        """
        _, stem = self._stems(group, view)
        if self.to == Form.FUSED:
            gate, up, down = group.projections()
            input_last = self._input_last(group, view)
            order = view.header.offsets
            fused = [
                _fuse(f"{stem}.experts.gate_up_proj", [gate, up], request, input_last),
                _fuse(f"{stem}.experts.down_proj", [down], request, input_last),
            ]
            last = [max(made_of, key=lambda s: order[s.name]) for made_of in (gate + up, down)]
            if last[0].name == last[1].name:  # only of empty tensors
                return {last[0].name: fused}
            return {last[0].name: fused[:1], last[1].name: fused[1:]}
        names = MIXTRAL_PROJECTIONS if _mixtral(view) else PROJECTIONS
        input_last = self._input_last(group, view)
        result: dict[str, list[TensorPlan]] = {}
        for spec, parts in ((group.gate_up, names[:2]), (group.down, names[2:])):
            if spec is not None:
                if spec.shape[1 if input_last else 2] % len(parts):
                    raise Mismatch("gate and up differ in size", file=view.label, tensor=spec.name)
                result[spec.name] = list(_separate(spec, stem, parts, request, input_last))
        return result

    def _stems(self, group: Experts, view: InputView) -> tuple[str, str]:
        """What stands before `.experts` in the input and in the output."""
        stem = group.prefix.removesuffix(".experts")
        mixtral = MIXTRAL_PROJECTIONS[0] in group.single or (
            self.to == Form.SEPARATE and _mixtral(view)
        )
        old, new = _BLOCKS if self.to == Form.FUSED else _BLOCKS[::-1]
        return stem, stem.removesuffix(old) + new if mixtral and stem.endswith(old) else stem

    def _input_last(self, group: Experts, view: InputView) -> bool:
        """Whether the fused tensors are [experts, out, in]."""
        asked = None if self.layout == "auto" else self.layout == "out-in"
        if self.to == Form.FUSED:
            return family_of(config_of(view)) not in EXPERTS_IN_OUT if asked is None else asked
        found = group.input_last()
        if found is None and (group.gate_up is None or group.down is None):
            found = asked  # one of them is elsewhere, so their shapes do not tell
        if found is None or asked not in (None, found):
            raise Mismatch(
                "the experts are not stored so",
                file=view.label,
                tensor=group.specs[0].name,
                expected="gate_up_proj and down_proj of [experts, 2 x inner, width] and "
                "[experts, width, inner], or of [experts, width, 2 x inner] and "
                "[experts, inner, width]",
                got=", ".join(str(list(spec.shape)) for spec in group.specs),
                remedy="--layout says which, where one of the two is missing",
            )
        return found

    def function(self) -> Function:
        """See Operator: only what has to be transposed gets here."""
        return transpose


def _mixtral(view: InputView) -> bool:
    return family_of(config_of(view)) in MIXTRAL_NAMES


def _refuse_quantised(view: InputView) -> None:
    config = config_of(view)
    if config.get(QUANTIZATION):
        raise Mismatch(
            "the checkpoint is quantised", file=view.label, remedy="weightsmith unpack first"
        )
    family = family_of(config)
    if family in EXPERTS_INTERLEAVED:
        raise Mismatch(
            f"{family} has no separate experts: in its fused ones gate and up take turns",
            file=view.label,
        )


def _refuse_small(group: Experts) -> None:
    for spec in group.specs:
        if DTYPES[spec.dtype].bits < 8:
            raise Mismatch(
                f"{spec.dtype} packs several elements in a byte",
                file=group.label,
                tensor=spec.name,
                remedy="--exclude the layer's experts",
            )


def _kept(spec: TensorSpec, request: Request, renames: dict[str, str]) -> TensorPlan:
    out = request.output(spec)
    for old, new in renames.items():
        if spec.name.startswith(old):
            out = TensorSpec(new + spec.name.removeprefix(old), out.dtype, out.shape)
    return whole(out, (Slot(0, spec),), None)


def _fuse(
    name: str, parts: Sequence[Sequence[TensorSpec]], request: Request, input_last: bool
) -> TensorPlan:
    """One tensor of all experts: the parts one below the other, or side by side."""
    rows, columns = parts[0][0].shape
    count, size = len(parts[0]), rows * columns
    numbered = list(zip(*parts, strict=True))
    if input_last:
        shape: tuple[int, ...] = (count, len(parts) * rows, columns)
        specs = [spec for expert in numbered for spec in expert]
        segments = [
            Segment(i * size, (i + 1) * size, (Slot(0, spec, start=-i * size),))
            for i, spec in enumerate(specs)
        ]
    else:
        shape = (count, columns, len(parts) * rows)
        step = len(parts) * size
        segments = [
            Segment(
                i * step,
                (i + 1) * step,
                tuple(Slot(0, spec, whole=True) for spec in expert),
                0,
            )
            for i, expert in enumerate(numbered)
        ]
    spec = request.output(TensorSpec(name, parts[0][0].dtype, shape))
    return TensorPlan(spec, tuple(segments), f"{count} experts in one")


def _separate(
    fused: TensorSpec, stem: str, parts: Sequence[str], request: Request, input_last: bool
) -> Iterator[TensorPlan]:
    """Every part of every expert, in the order in which the fused tensor has them."""
    count, first, second = fused.shape
    out, columns = (first, second) if input_last else (second, first)
    rows = out // len(parts)
    for expert in range(count):
        for part, name in enumerate(parts):
            full = f"{stem}.experts.{expert}.{name}.weight"
            spec = request.output(TensorSpec(full, fused.dtype, (rows, columns)))
            if input_last:
                start = (expert * len(parts) + part) * rows * columns
                piece = TensorSpec(fused.name, fused.dtype, (rows, columns))
                yield whole(spec, (Slot(0, piece, start=start),), None)
            else:
                slab = TensorSpec(fused.name, fused.dtype, (first, second))
                start = expert * first * second
                yield whole(spec, (Slot(0, slab, whole=True, start=start),), part * rows)


def transpose(unit: Unit) -> int:
    """The inputs side by side and transposed; of a single one, only what fits, from a column on."""
    rows, columns = unit.out.shape[-2:]
    if all(block.dtype == unit.out.dtype for block in unit.inputs):
        out = _bits(unit.out).reshape(rows, columns)
        _transpose_into(out, [_bits(block) for block in unit.inputs], unit.parameters)
        return 0
    import numpy as np

    result = np.empty((rows, columns), np.float32)
    _transpose_into(result, [block.float32() for block in unit.inputs], unit.parameters)
    return unit.out.store(result)


def _transpose_into(out: Any, matrices: Sequence[Any], first: int) -> None:
    width = out.shape[1] // len(matrices)
    for index, matrix in enumerate(matrices):
        # A few rows at a time, so that what is written stays in the cache until it is whole lines.
        for row in range(0, width, _STRIP):
            strip = matrix[row : min(row + _STRIP, width), first : first + len(out)]
            column = index * width + row
            out[:, column : column + len(strip)] = strip.T


def _bits(block: Block) -> Any:
    import numpy as np

    return np.frombuffer(block.data, f"u{DTYPES[block.dtype].bits // 8}").reshape(block.shape)
