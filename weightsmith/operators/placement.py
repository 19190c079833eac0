"""Which tensors of a checkpoint go onto devices, how often each, and what stays digital and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import UsageError
from weightsmith.families import layer_of, matches
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import quantization_of
from weightsmith.operators.float8 import refuse_float8
from weightsmith.operators.operator import InputView
from weightsmith.operators.roles import Role, role_of
from weightsmith.selection import Selection, Values, require_match
from weightsmith.tritplanes.encoding import Encoding, dense_spec


@dataclass(frozen=True)
class Placement:
    """The tensors of an input.

    Attributes:
        specs: of all, in order, as they are once they are dense.
        packed: how ptqtp has packed some of them.
        digital: why those that are no linear weights stay as they are; empty for the others.
        copies: how often each tensor that goes onto devices is held.
    """

    specs: tuple[TensorSpec, ...]
    packed: Mapping[str, Encoding]
    digital: Mapping[str, str]
    copies: Mapping[str, int]

    @classmethod
    def of(
        cls,
        view: InputView,
        selection: Selection,
        also: str | None,
        copies: Values[int],
        layers: str | None,
    ) -> Placement:
        """Decide from headers.

        Args:
            also: a glob on tensors that go onto devices though they are no linear weights.
            layers: ranges of layers to hold more than once, such as "0-7,12-12"; None for all.

        Raises:
            UsageError: nothing goes onto devices, or something that cannot.
        """
        refuse_float8(view.label, view.header, Selection())
        quantization = quantization_of(view)
        packed = quantization.tensors if quantization else {}
        specs = tuple(
            dense_spec(spec.name, packed[spec.name]) if spec.name in packed else spec
            for spec in view.header.tensors
        )
        names = [spec.name for spec in specs]
        selection.check(names)
        if also is not None:
            require_match([also], names, "--also")
        digital = {
            spec.name: ""
            if role_of(spec) is Role.LINEAR or (also and spec.shape and matches(spec.name, (also,)))
            else f"{role_of(spec)} stay digital"
            for spec in specs
        }
        chosen = [s for s in specs if not digital[s.name] and s.name in selection]
        _refuse_others(chosen, view)
        number = copies.resolve([spec.name for spec in chosen])
        return cls(specs, packed, digital, _in_layers(number, layers))

    @property
    def weights(self) -> int:
        """How many weights go onto devices."""
        return sum(spec.numel for spec in self.specs if spec.name in self.copies)

    def held(self, name: str) -> int:
        """How many cells hold a weight once: one, or one for each trit plane of a packed tensor."""
        return getattr(self.packed.get(name), "planes", 1)

    def cost(self, per_cell: int) -> str:
        """How many devices it takes, as a line for the report."""
        once = {s.name: s.numel * self.held(s.name) for s in self.specs if s.name in self.copies}
        cells = sum(number * self.copies[name] for name, number in once.items())
        return (
            f"{self.weights:,} weights of {len(once)} tensors on {cells * per_cell:,} devices, "
            f"{cells / max(1, sum(once.values())):.4g} times those of one copy"
        )


def _refuse_others(chosen: list[TensorSpec], view: InputView) -> None:
    if not chosen:
        raise UsageError(
            "no selected tensor goes onto devices",
            file=view.label,
            expected="linear weights of attention and MLP",
            remedy="--also GLOB puts embeddings, heads, vectors and whatever else on devices too",
        )
    for spec in chosen:
        if not is_arithmetic(spec.dtype):
            raise UsageError(
                f"{spec.dtype} has no weights that could be put on devices",
                file=view.label,
                tensor=spec.name,
                expected="float32, float16 or bfloat16",
                remedy=f"--exclude {spec.name} copies it",
            )


def _in_layers(copies: dict[str, int], layers: str | None) -> dict[str, int]:
    if layers is None:
        return copies
    ranges = [part.split("-") for part in layers.split(",")]
    wanted = {i for first, last in ranges for i in range(int(first), int(last) + 1)}
    if missing := wanted - {layer_of(name) for name in copies}:
        raise UsageError(f"--copies-layers {layers}: no layer {min(missing)} is on devices")
    return {name: n if layer_of(name) in wanted else 1 for name, n in copies.items()}
