"""A LoRA adapter among the inputs: which tensors of a model it changes, and by what.

A weight gains `factor * B A`. What PEFT saves whole (`modules_to_save`, trained biases,
embeddings) takes the place of the base's tensor, so its change is saved - base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch, printable
from weightsmith.families import DECODERS, LINEARS, TRANSPOSED, matches
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of
from weightsmith.operators.lora import LoraConfig
from weightsmith.operators.operator import InputView, Slot
from weightsmith.operators.roles import family_of
from weightsmith.operators.terms import Kind, Part

_PREFIX = "base_model.model."
# What the names of an adapter's tensors end in, after the module: (part of a change, its tensor).
_ENDINGS = {
    ".lora_A.weight": ("a", ".weight"),
    ".lora_B.weight": ("b", ".weight"),
    ".lora_embedding_A": ("embedding_a", ".weight"),
    ".lora_embedding_B": ("embedding_b", ".weight"),
    ".lora_B.bias": ("bias", ".bias"),
}
_PAIRS = (("a", "b"), ("embedding_a", "embedding_b"))
Pieces = dict[str, TensorSpec]


@dataclass(frozen=True)
class Adapter:
    """An adapter of a model.

    Attributes:
        view: the input that it is.
        source: the index of that input.
        base: the model that was tuned, and its index.
        config: what its configuration says.
        pieces: its tensors, by the name of the model's tensor that they change and their part.
    """

    view: InputView
    source: int
    base: tuple[InputView, int]
    config: LoraConfig
    pieces: Mapping[str, Pieces] = field(repr=False)

    @classmethod
    def of(cls, view: InputView, source: int, base: tuple[InputView, int]) -> Adapter | None:
        """The adapter that an input is; None if it is none.

        Raises:
            Mismatch: an adapter that is not plain LoRA, or one without configuration.
        """
        if view.adapter is None:
            stray = next((s for s in view.header.tensors if ".lora_" in s.name), None)
            if stray is None:
                return None
            raise Mismatch(
                "low-rank factors without their configuration",
                file=view.label,
                tensor=stray.name,
                remedy="name the directory that holds adapter_config.json and "
                "adapter_model.safetensors",
            )
        config = LoraConfig(view.adapter, view.label)
        config.check_kind()
        return cls(view, source, base, config, _pieces(view))

    @property
    def lineage(self) -> dict[str, object]:
        """Its node in a provenance record: its tensors alone do not say how they are scaled."""
        return {**self.view.lineage, "adapter": self.config.record()}

    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the base: an adapter has only a name for it."""
        name, base = self.config.base_name, self.base[0]
        own = (base.config or {}).get("_name_or_path")
        known = {_last(base.label), _last(own) if isinstance(own, str) else ""}
        if name and _last(name) in known:
            return ()
        trained = f"was trained on {printable(name)}" if name else "does not name its base"
        return (f"the adapter {self.view.label} {trained}; BASE is taken on trust",)

    def check_names(self, model: InputView) -> None:
        """Raise Mismatch for a tensor of the adapter that changes no tensor of a model."""
        for name, pieces in self.pieces.items():
            if name not in model.header.by_name:
                raise Mismatch(
                    f"the adapter changes {printable(name)}, which is not in {model.label}",
                    file=self.view.label,
                    tensor=next(iter(pieces.values())).name,
                    remedy="the model must have the names of the adapter's base; a head that is "
                    "tied to the embedding has no tensor of its own",
                )

    def parts(self, spec: TensorSpec) -> tuple[Part, ...]:
        """What it adds to a tensor of a model; nothing where it does not change it.

        Raises:
            Mismatch: shapes or dtypes do not fit, those of the base's tensor included.
        """
        pieces = self.pieces.get(spec.name)
        return tuple(self._parts(pieces, spec)) if pieces else ()

    def _parts(self, pieces: Pieces, spec: TensorSpec) -> Iterator[Part]:
        base, index = self.base
        original = base.header.by_name.get(spec.name)
        if original is None or original.shape != spec.shape:
            raise Mismatch(
                "the base of the adapter has another tensor of this name",
                file=base.label,
                tensor=spec.name,
                expected=list(spec.shape),
                got=list(original.shape) if original else "none",
            )
        for each in (spec, original, *pieces.values()):
            if not is_arithmetic(each.dtype):
                raise Mismatch(
                    f"cannot compute on {each.dtype}", file=self.view.label, tensor=each.name
                )
        if saved := pieces.get("saved"):
            self._check_shape(saved, spec)
            yield Part(Kind.DIFFERENCE, (Slot(self.source, saved), Slot(index, original)))
        for first, second in _PAIRS:
            if first in pieces:
                yield self._product(pieces[first], pieces[second], spec)
        if bias := pieces.get("bias"):
            self._check_shape(bias, spec)
            factor = self.config.factor(spec.name.removesuffix(".bias"))
            yield Part(Kind.SCALED, (Slot(self.source, bias),), factor)

    def _product(self, a: TensorSpec, b: TensorSpec, spec: TensorSpec) -> Part:
        module = spec.name.removesuffix(".weight")
        rank = self.config.rank(module)
        if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
            raise Mismatch(
                "the factors do not have the rank of the configuration",
                file=self.view.label,
                tensor=a.name,
                expected=f"A [{rank}, in] and B [out, {rank}]",
                got=f"A {list(a.shape)}, B {list(b.shape)}",
            )
        made = (b.shape[0], a.shape[1])
        transposed = self._transposed(a, made, spec)
        if (made[::-1] if transposed else made) != spec.shape:
            raise Mismatch(
                "the factors do not make the tensor that they change",
                file=self.view.label,
                tensor=a.name,
                expected=f"{list(spec.shape)} as in {printable(spec.name)}",
                got=f"B A {list(made)}",
            )
        # Transposed, the rows of the result are columns of A, and each takes all of B.
        slots = (Slot(self.source, a, whole=True), Slot(self.source, b, whole=transposed))
        return Part(Kind.LOW_RANK, slots, self.config.factor(module), transposed)

    def _transposed(self, a: TensorSpec, made: tuple[int, int], spec: TensorSpec) -> bool:
        """Whether the tensor is (B A)^T.

        PEFT goes by the class of the module, and its fan_in_fan_out tells only what the last one
        was. The shape tells it where the family or the configuration allows for it; of a square
        weight the family alone does, and then the configuration.
        """
        if a.name.endswith(".lora_embedding_A"):
            return True
        family = family_of(config_of(self.base[0]))
        if made[0] != made[1]:
            allowed = family in TRANSPOSED or self.config.transposed
            return allowed and spec.shape == made[::-1]
        if family in TRANSPOSED:
            return matches(spec.name, LINEARS)
        return self.config.transposed and family not in DECODERS

    def _check_shape(self, piece: TensorSpec, spec: TensorSpec) -> None:
        if piece.shape != spec.shape:
            raise Mismatch(
                "shapes do not match",
                file=self.view.label,
                tensor=piece.name,
                expected=f"{list(spec.shape)} as in {printable(spec.name)}",
                got=list(piece.shape),
            )


def refuse_adapter(view: InputView, why: str) -> None:
    """Raise Mismatch if an input is an adapter."""
    if view.adapter is not None:
        raise Mismatch(
            f"{view.role.upper()} is an adapter, not a model", file=view.label, remedy=why
        )


def _pieces(view: InputView) -> dict[str, Pieces]:
    found: dict[str, Pieces] = {}
    for spec in view.header.tensors:
        name = spec.name.removeprefix(_PREFIX)
        ending = next((each for each in _ENDINGS if name.endswith(each)), None)
        if ending is not None:
            part, kind = _ENDINGS[ending]
            target = name.removesuffix(ending) + kind
        elif ".lora_" in name:
            raise Mismatch("not a tensor of plain LoRA", file=view.label, tensor=spec.name)
        else:
            # A targeted module is wrapped, and its own tensors are in the base layer.
            part, target = "saved", name.replace(".base_layer.", ".")
        pieces = found.setdefault(target, {})
        if part in pieces:
            raise Mismatch(
                f"{printable(pieces[part].name)} is for the same tensor",
                file=view.label,
                tensor=spec.name,
            )
        pieces[part] = spec
    for pieces in found.values():
        for pair in _PAIRS:
            present = [pieces[part] for part in pair if part in pieces]
            if len(present) == 1:
                raise Mismatch(
                    "a factor without the other", file=view.label, tensor=present[0].name
                )
    return found


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
