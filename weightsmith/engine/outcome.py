"""What a run did, tensor by tensor: the end report."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from weightsmith.engine.link import behind, links_of
from weightsmith.engine.plan import Plan


@dataclass(frozen=True)
class Outcome:
    """The report of a run, or of a plan that was not run.

    Attributes:
        operator: its name.
        output: where the result is.
        changed, copied: names of tensors that were computed, or only copied.
        skipped: tensors of the inputs that are not in the output, with the reason.
        notes: what there is to say about single output tensors.
        nbytes: size of the output's data.
        resumed: tensors that an earlier run had finished.
        seconds: wall time from the first read to the last rename.
        warnings: what the user should know.
        tensors: name, dtype and shape of every output tensor.
        summary: lines for the end of the report.
        figures: what the operator has to say about each tensor that this run computed.
        links: the earlier links of a chain, in order; their output is who reads it.
    """

    operator: str
    output: str
    changed: tuple[str, ...]
    copied: tuple[str, ...]
    skipped: dict[str, str]
    notes: dict[str, str]
    nbytes: int
    resumed: int
    seconds: float
    warnings: tuple[str, ...]
    tensors: tuple[dict[str, Any], ...]
    summary: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    links: tuple["Outcome", ...] = ()

    @classmethod
    def of(
        cls,
        plan: Plan,
        output: str,
        *,
        sums: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
        resumed: int = 0,
        seconds: float = 0.0,
    ) -> "Outcome":
        """The report of a plan that was carried out, and of the links that it is made of."""
        links = tuple(links_of(plan))
        of_links = []
        for link in links:
            reading = [
                each
                for each in (*(x.plan for x in links), plan)
                if link in map(behind, each.sources)
            ]
            readers = ", ".join(each.link or "" for each in reading)
            of_links.append(cls._of(link.plan, readers, link.maker.sums))
        own = cls._of(plan, output, sums)
        return replace(own, resumed=resumed, seconds=seconds, links=tuple(of_links))

    @classmethod
    def _of(cls, plan: Plan, output: str, sums: Mapping[str, Mapping[str, float]]) -> "Outcome":
        return cls(
            plan.operator.name,
            output,
            tuple(t.spec.name for t in plan.tensors if t.changed),
            tuple(t.spec.name for t in plan.tensors if not t.changed),
            dict(plan.draft.skipped),
            {t.spec.name: t.note for t in plan.tensors if t.note},
            plan.header.nbytes,
            0,
            0.0,
            plan.draft.warnings,
            tuple(
                {"name": t.spec.name, "dtype": t.spec.dtype, "shape": list(t.spec.shape)}
                for t in plan.tensors
            ),
            plan.draft.summary,
            {name: plan.operator.summarise(of_tensor) for name, of_tensor in sums.items()},
        )
