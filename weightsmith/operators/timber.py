"""timber: keep the dominant directions of Instruct - Base, damp the tail (arXiv 2509.23595)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.families import FUSED_EXPERTS, VOCABULARY, matches
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.numbers import decimal, natural
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
from weightsmith.operators.registry import register
from weightsmith.selection import Values

if TYPE_CHECKING:
    from torch import Tensor

    from weightsmith.spectral import Matrix, Spectrum

BASE, INSTRUCT = range(2)
# The kind of cached results; to be changed with the method that computes them.
_SPECTRUM = "spectrum-1"


def _share(text: str) -> Decimal:
    share = decimal(text)
    if not 0 < share <= 1:
        raise ValueError("not a share in (0, 1]")
    return share


@register
@dataclass(frozen=True, kw_only=True)
class Timber(JoiningOperator):
    """Refine INSTRUCT: keep the top ceil(eRank) directions of INSTRUCT - BASE, damp the others.

    With the singular values s of INSTRUCT - BASE, those after the first k = ceil(eRank) are
    multiplied by gamma. Gamma 1 gives INSTRUCT back; gamma 0 drops the tail. As in the paper's
    script, every tensor of two or more dimensions takes part, embeddings and head included;
    one-dimensional tensors and those that only INSTRUCT has are copied from INSTRUCT; the output
    has the dtype of BASE.
    """

    name: ClassVar[str] = "timber"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the pretrained model"),
        Input("instruct", "the post-trained model", stdin=True),
    )
    primary: ClassVar[int] = INSTRUCT
    granularity: ClassVar[Granularity] = Granularity.TENSOR
    uses: ClassVar[frozenset[str]] = frozenset({"device", "cache"})
    examples: ClassVar[str] = """
    weightsmith timber base/ instruct/ --gamma 0.2 --cache spectra/ -o refined/
    weightsmith graft base/ instruct/ tuned/ | weightsmith timber base/ -o refined/
    """

    missing: str = option(
        "--missing",
        "a tensor that only one input has: keep INSTRUCT's, or drop it",
        default="keep",
        choices=("error", "keep", "drop"),
        metavar="error|keep|drop",
    )
    gamma: Values[Decimal] = option(
        "--gamma", "factor on the tail", default="0", convert=decimal, per_tensor=True
    )
    k: Values[int] | None = option(
        "--k",
        "directions to keep, instead of ceil(eRank)",
        default=None,
        convert=natural,
        per_tensor=True,
        metavar="K",
    )
    energy: Values[Decimal] | None = option(
        "--energy",
        "share of the squared norm to keep, instead of ceil(eRank)",
        default=None,
        convert=_share,
        per_tensor=True,
        metavar="SHARE",
    )
    no_embeddings: bool = option(
        "--no-embeddings", "copy embeddings and head from INSTRUCT", default=False
    )

    def record(self) -> dict[str, Any]:
        """See Operator; only the rules that were given."""
        return {key: value for key, value in super().record().items() if value is not None}

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        for view in inputs:
            refuse_delta(view, "timber takes the delta of two models itself")
        if self.k is not None and self.energy is not None:
            raise UsageError("--k and --energy are two answers to one question")
        joined = join(self, inputs, (BASE, INSTRUCT), request)
        refined = [item.spec.name for item in joined.items if self._refines(item)]
        gammas = self.gamma.resolve(refined)
        ranks = self.k.resolve(refined) if self.k else {}
        energies = self.energy.resolve(refined) if self.energy else {}

        def refine(match: Match) -> TensorPlan:
            base, instruct = match.slots
            spec = request.output(match.spec, base.spec.dtype)
            name = spec.name
            if name not in gammas:
                return match.plan(spec, (instruct,), None)
            if gammas[name] == 1:
                return replace(match.plan(spec, (instruct,), None), note="gamma is 1")
            rule = (float(gammas[name]), ranks.get(name), energies.get(name))
            return match.plan(spec, match.slots, rule)

        fused = [name for name in gammas if gammas[name] != 1 and matches(name, FUSED_EXPERTS)]
        warning = (
            f"{len(fused)} tensors hold several experts, and each is taken for one matrix; "
            "weightsmith experts --to separate first gives every expert its own"
        )
        return Draft(
            joined.tensors(refine, request),
            joined.skipped,
            joined.config_patch,
            warnings=(warning,) if fused else (),
        )

    def _refines(self, item: Match | TensorPlan) -> bool:
        return (
            isinstance(item, Match)
            and len(item.spec.shape) >= 2
            and item.common > 0
            and not (self.no_embeddings and matches(item.spec.name, VOCABULARY))
        )

    def function(self) -> Function:
        """See Operator."""
        import torch

        from weightsmith.matrices import StoredMatrix, difference
        from weightsmith.spectral import NotFinite, add_damped

        def refine(unit: Any) -> int:
            base, instruct, out = (
                StoredMatrix.of(block.data, block.dtype, block.shape)
                for block in (*unit.inputs, unit.out)
            )
            gamma, k, energy = unit.parameters
            # As the paper's script: the difference in float32, everything that decides in float64.
            delta = difference(instruct, base, torch.device(unit.device))
            try:
                spectrum = _spectrum(unit, delta)
            except NotFinite:
                raise WeightsmithError(
                    "INSTRUCT - BASE is not finite, which would spread over the whole tensor",
                    tensor=unit.name,
                    remedy=f"--exclude {unit.name} copies INSTRUCT's",
                ) from None
            kept = _directions(spectrum.values, k, energy)
            overflows = 0
            # A bfloat16 result hides what float32 loses in the product with the projector.
            exact = out.dtype != "BF16"
            for cut, values in add_damped(delta.right, delta, spectrum, kept, gamma, exact=exact):
                overflows += out.store(cut, values.cpu())
            return overflows

        return refine


def _spectrum(unit: Any, matrix: Matrix) -> Spectrum:
    """The spectrum of a matrix, from the cache if it is there."""
    from weightsmith.spectral import Spectrum, decompose

    def compute() -> dict[str, Tensor]:
        found = decompose(matrix)
        return {"values": found.values, "vectors": found.vectors}

    arrays = {name: a.to(unit.device) for name, a in unit.remember(_SPECTRUM, compute).items()}
    rows = matrix.shape[0] <= matrix.shape[1]
    return Spectrum(arrays["values"], arrays["vectors"], rows)


def _directions(values: Tensor, k: int | None, energy: Decimal | None) -> int:
    from weightsmith.spectral import rank_for_energy, rank_of

    if k is not None:
        return min(k, len(values))
    return rank_of(values) if energy is None else rank_for_energy(values, float(energy))
