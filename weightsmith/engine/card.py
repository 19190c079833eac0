"""The model card of a checkpoint we write: what was done to what, without paths or times."""

from weightsmith.engine.plan import Plan
from weightsmith.operators.delta import DeltaMark
from weightsmith.operators.provenance import describe

README = "README.md"


def model_card(plan: Plan) -> str:
    """The text of README.md."""
    changed = sum(tensor.changed for tensor in plan.tensors)
    lines = [
        "---",
        "library_name: transformers",
        "tags:",
        "- weightsmith",
        f"- {plan.operator.name}",
        "---",
        "",
        f"# weightsmith {plan.operator.name}",
        "",
        f"{changed} of {len(plan.tensors)} tensors were computed, the others copied.",
        "",
    ]
    if DeltaMark.of(plan.header.metadata):
        lines += ["**This is a delta, not a model:** `weightsmith graft` adds it to one.", ""]
    if plan.provenance is not None:
        lines += ["## How it was made", "", *describe(plan.provenance), ""]
        lines += [
            "The metadata of every file here has the same record: `weightsmith inspect` shows it.",
            "",
        ]
    return "\n".join(lines)
