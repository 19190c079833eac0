"""Decide on one tensor of several checkpoints: compute it, copy it, leave it out, or refuse."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch, UsageError
from weightsmith.families import EMBEDDINGS, HEADS, VOCABULARY, matches
from weightsmith.header import TensorSpec
from weightsmith.operators.expert_names import layout_of
from weightsmith.operators.operator import InputView, Request, Segment, Slot, TensorPlan, whole
from weightsmith.operators.policies import JoiningOperator


@dataclass(frozen=True)
class Match:
    """A tensor that all inputs have.

    Attributes:
        spec: name, dtype and shape that the output has if nothing else is said.
        slots: the tensor in each participating input.
        common: elements that all inputs have.
        tail: where the elements after the common ones come from.
    """

    spec: TensorSpec
    slots: tuple[Slot, ...]
    common: int
    tail: Slot | None = None

    def plan(self, spec: TensorSpec, slots: tuple[Slot, ...], parameters: Any) -> TensorPlan:
        """Compute the common elements from `slots`, copy the rest."""
        first = Segment(0, self.common, slots, parameters)
        if self.tail is None:
            return TensorPlan(spec, (first,))
        rest = Segment(self.common, spec.numel, (self.tail,))
        rows = (spec.numel - self.common) // prod(spec.shape[1:])
        return TensorPlan(spec, (first, rest), f"{rows} rows copied that not all inputs have")


@dataclass
class Joined:
    """The outcome: each output tensor is a Match to compute or a TensorPlan that copies."""

    items: list[Match | TensorPlan] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    config_patch: dict[str, Any] = field(default_factory=dict)

    @property
    def matches(self) -> list[Match]:
        """The tensors to compute."""
        return [item for item in self.items if isinstance(item, Match)]

    @property
    def matched(self) -> list[str]:
        """Their names."""
        return [match.spec.name for match in self.matches]

    def tensors(
        self, compute: Callable[[Match], TensorPlan], request: Request
    ) -> tuple[TensorPlan, ...]:
        """The output's tensors: `compute` plans each match, copies take the output dtype."""
        return tuple(
            compute(item)
            if isinstance(item, Match)
            else TensorPlan(request.output(item.spec), item.segments, item.note)
            for item in self.items
        )


def lacking_inputs(
    name: str, inputs: Sequence[InputView], participants: Sequence[int]
) -> list[InputView]:
    """The participants that do not have a tensor."""
    return [inputs[i] for i in participants if name not in inputs[i].header.by_name]


def is_tied_head(name: str, lacking: Sequence[InputView]) -> bool:
    """Whether a tensor is a head for which all inputs that lack it have an embedding."""
    return matches(name, HEADS) and all(embedding_of(view) is not None for view in lacking)


def embedding_of(view: InputView) -> TensorSpec | None:
    """The embedding of an input, if it has one."""
    return next((spec for spec in view.header.tensors if matches(spec.name, EMBEDDINGS)), None)


@dataclass
class Matching:
    """The decision on one tensor."""

    policy: JoiningOperator
    inputs: Sequence[InputView]
    participants: Sequence[int]
    joined: Joined
    copies: bool
    any_dtype: bool

    def add(self, name: str, selected: bool) -> None:
        """Put the tensor where it belongs in `joined`, or raise Mismatch."""
        lacking = lacking_inputs(name, self.inputs, self.participants)
        if not selected:
            self._keep(name, "not selected")
        elif lacking and is_tied_head(name, lacking) and self.policy.lm_head != "error":
            self._head(name)
        elif lacking:
            if self.policy.missing == "keep":
                self._keep(name, f"not in {lacking[0].role}")
            else:
                self.joined.skipped[name] = f"not in {lacking[0].role}"
        else:
            self._match(name, tuple(self._slots(name)))

    def _slots(self, name: str) -> Iterator[Slot]:
        for index in self.participants:
            yield Slot(index, self.inputs[index].header.by_name[name])

    def _keep(self, name: str, reason: str) -> None:
        spec = self.inputs[self.policy.primary].header.by_name.get(name)
        if spec is None or not self.copies:
            self.joined.skipped[name] = reason
        else:
            self.joined.items.append(whole(spec, (Slot(self.policy.primary, spec),), None, reason))

    def _head(self, name: str) -> None:
        tie = self.policy.lm_head == "tie"
        self.joined.config_patch["tie_word_embeddings"] = tie
        if tie:
            self.joined.skipped[name] = "tied to the embedding"
            return
        slots = []
        for index in self.participants:
            view = self.inputs[index]
            spec = view.header.by_name.get(name) or embedding_of(view)
            assert spec is not None, "checked by is_tied_head"
            if spec.name != name and view.sequential:
                raise UsageError(
                    "--lm-head untie reads the embedding twice, which a stream cannot give",
                    file=view.label,
                )
            slots.append(Slot(index, spec))
        self._match(name, tuple(slots))

    def _match(self, name: str, slots: tuple[Slot, ...]) -> None:
        computable = [is_arithmetic(slot.spec.dtype) for slot in slots]
        if self.any_dtype:
            odd = next((s for s in slots if s.spec.dtype != slots[0].spec.dtype), None)
            computable = [slot is not odd for slot in slots]
        if not any(computable):
            self._opaque(name, slots)
            return
        if not all(computable):
            odd = slots[computable.index(False)]
            raise self._differs("dtypes do not go together", slots, odd, lambda s: s.dtype)
        primary = next((s for s in slots if s.source == self.policy.primary), slots[0])
        spec = TensorSpec(name, primary.spec.dtype, primary.spec.shape)
        if all(slot.spec.shape == spec.shape for slot in slots):
            self.joined.items.append(Match(spec, slots, spec.numel))
        else:
            self._vocabulary(spec, slots)

    def _opaque(self, name: str, slots: tuple[Slot, ...]) -> None:
        if self.policy.opaque == "error":
            raise Mismatch(
                f"cannot compute on {slots[0].spec.dtype}",
                file=self.inputs[slots[0].source].label,
                tensor=name,
                remedy="--opaque copy keeps the primary input's, --opaque drop leaves it out",
            )
        if self.policy.opaque == "copy":
            self._keep(name, f"{slots[0].spec.dtype} is not computed on")
        else:
            self.joined.skipped[name] = f"{slots[0].spec.dtype} is not computed on"

    def _vocabulary(self, spec: TensorSpec, slots: tuple[Slot, ...]) -> None:
        shapes = [slot.spec.shape for slot in slots]
        odd = next(slot for slot in slots if slot.spec.shape != spec.shape)
        rows_only = len({shape[1:] for shape in shapes}) == 1 and all(shapes)
        if not (rows_only and matches(spec.name, VOCABULARY)):
            remedy = self._transposed(slots, odd)
            raise self._differs("shapes do not match", slots, odd, lambda s: list(s.shape), remedy)
        roles = {self.inputs[slot.source].role: slot for slot in slots}
        allowed = {"error", "common", *roles}
        if self.policy.vocab not in allowed:
            raise UsageError(
                f"--vocab {self.policy.vocab}", expected="one of " + ", ".join(sorted(allowed))
            )
        if self.policy.vocab == "error":
            remedy = "--vocab common, or --vocab and the input whose rows to keep: "
            raise self._differs(
                "vocabularies have different sizes",
                slots,
                odd,
                lambda s: f"{s.shape[0]} rows",
                remedy + ", ".join(sorted(roles)),
            )
        common = min(shape[0] for shape in shapes)
        owner = roles.get(self.policy.vocab)
        rows = owner.spec.shape[0] if owner else common
        self.joined.config_patch["vocab_size"] = rows
        shape = (rows, *spec.shape[1:])
        tail = owner if rows > common else None
        per_row = prod(shape[1:])
        match = Match(TensorSpec(spec.name, spec.dtype, shape), slots, common * per_row, tail)
        self.joined.items.append(match)

    def _transposed(self, slots: Sequence[Slot], odd: Slot) -> str | None:
        """The command that turns fused experts round, if that is all that is odd about them."""
        primary = next((s for s in slots if s.source == self.policy.primary), slots[0])
        ours, theirs = (
            layout_of(slot.spec.name, self.inputs[slot.source].header) for slot in (primary, odd)
        )
        if ours is None or theirs is None or ours == theirs:
            return None
        return (
            f"weightsmith experts {self.inputs[odd.source].label} --to separate | "
            f"weightsmith experts --to fused --layout {ours} | ..."
        )

    def _differs(
        self, what: str, slots: Sequence[Slot], odd: Slot, of: Any, remedy: str | None = None
    ) -> Mismatch:
        reference = next(slot for slot in slots if of(slot.spec) != of(odd.spec))
        return Mismatch(
            what,
            file=self.inputs[odd.source].label,
            tensor=odd.spec.name,
            expected=f"{of(reference.spec)} as in {self.inputs[reference.source].label}",
            got=of(odd.spec),
            remedy=remedy,
        )
