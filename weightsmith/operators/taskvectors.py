"""The base of operators that add task vectors, MODEL - BASE, to BASE (arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar

from weightsmith.operators.blending import Numbers, numbered, numbers, rounded
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.numbers import decimal
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    Input,
    InputView,
    Request,
    TensorPlan,
    option,
)
from weightsmith.selection import Values

# BASE moves little from a sum of weights that is zero but for rounding.
_NO_SUM = Fraction(1, 10**8)


@dataclass(frozen=True)
class Trim:
    """Which elements of a task vector stay.

    Attributes:
        density: the share that stays.
        key: of the random draw; None where the largest stay.
        rescale: what the others are multiplied by: "density" (its inverse), "l1" (what keeps the
            sum of the absolute values) or "none".
    """

    density: float
    key: int | None = None
    rescale: str = "none"

    @property
    def whole(self) -> bool:
        """Whether it needs the tensor as a whole."""
        return self.key is None or self.rescale == "l1"


@dataclass(frozen=True)
class Mix:
    """How task vectors are added.

    Attributes:
        weights: one for each.
        scale: lambda, the factor on their sum.
        trims: one for each; None where all elements stay.
        elect: whether only those stay, element by element, that have the sign of the sum.
        normalize: whether the sum is divided by the weights of those that stay.
    """

    weights: tuple[float, ...]
    scale: float
    trims: tuple[Trim | None, ...]
    elect: bool = False
    normalize: bool = False

    @property
    def granularity(self) -> Granularity:
        """Where the tensor may be cut."""
        whole = any(trim is not None and trim.whole for trim in self.trims)
        return Granularity.TENSOR if whole else Granularity.ELEMENT


@dataclass(frozen=True, kw_only=True)
class TaskVectors(JoiningOperator):
    """Base of the operators; a subclass says what it trims, elects and divides by."""

    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the model that the others were tuned from"),
        Input("model", "the tuned models", many=True),
    )
    working_arrays: ClassVar[int] = 0

    weight: Values[Numbers] = option(
        "--weight",
        "a weight for each MODEL, separated by commas, or one for all",
        default="1",
        convert=numbers,
        per_tensor=True,
        metavar="W,W,...",
    )
    lam: Values[Decimal] = option(
        "--lambda",
        "factor on the sum of the task vectors",
        default="1",
        convert=decimal,
        per_tensor=True,
    )

    @property
    def elects(self) -> bool:
        """Whether elements whose sign is not that of the sum are left out."""
        return False

    @property
    def normalizes(self) -> bool:
        """Whether the sum is divided by the weights."""
        return False

    def trims(self, names: Sequence[str], count: int) -> dict[str, tuple[Trim | None, ...]]:
        """For each tensor, what stays of each of `count` task vectors."""
        return dict.fromkeys(names, (None,) * count)

    def record(self) -> dict[str, Any]:
        """See Operator; lambda under its own name."""
        return {"lambda" if k == "lam" else k: v for k, v in super().record().items()}

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        for view in inputs:
            refuse_delta(view, "graft adds deltas to a model")
        count = len(inputs) - 1
        joined = join(self, numbered(inputs), range(len(inputs)), request)
        weights, lambdas = self.weight.resolve(joined.matched), self.lam.resolve(joined.matched)
        trims = self.trims(joined.matched, count)

        def add(match: Match) -> TensorPlan:
            name = match.spec.name
            given = [Fraction(w) for w in weights[name].spread(count, "--weight", name)]
            kept = [i for i, trim in enumerate(trims[name]) if given[i] and _remains(trim)]
            slots = sorted(match.slots, key=lambda slot: slot.source)
            spec = request.output(match.spec)
            if not kept or not lambdas[name]:
                return match.plan(spec, (slots[0],), None)
            # Without an election everything that multiplies a task vector is one number.
            scale, factor = Fraction(lambdas[name]), Fraction(1)
            if not self.elects:
                total = sum(given, Fraction(0)) if self.normalizes else Fraction(1)
                factor, scale = scale / (total if abs(total) >= _NO_SUM else 1), factor
            mix = Mix(
                tuple(rounded(given[i] * factor, "--weight") for i in kept),
                rounded(scale, "--lambda"),
                tuple(trims[name][i] for i in kept),
                self.elects,
                self.normalizes and self.elects,
            )
            planned = match.plan(spec, (slots[0], *(slots[i + 1] for i in kept)), mix)
            return replace(planned, granularity=mix.granularity)

        return Draft(joined.tensors(add, request), joined.skipped, joined.config_patch)

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.arithmetic.taskvectors import add

        return add


def _remains(trim: Trim | None) -> bool:
    return trim is None or trim.density > 0


def trims_of(
    density: Values[Numbers], names: Sequence[str], count: int, trim: Any
) -> dict[str, tuple[Trim | None, ...]]:
    """What `trim(name, number, density)` says of each task vector that is not kept whole."""
    densities = density.resolve(names)
    return {
        name: tuple(
            None if share >= 1 else trim(name, number, float(share))
            for number, share in enumerate(densities[name].spread(count, "--density", name))
        )
        for name in names
    }
