"""task-arithmetic: BASE + lambda * sum of weight * (MODEL - BASE) (arXiv 2212.04089)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from weightsmith.operators.operator import option
from weightsmith.operators.registry import register
from weightsmith.operators.taskvectors import TaskVectors


@register
@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(TaskVectors):
    """Add task vectors to BASE: BASE + lambda * sum of weight * (MODEL - BASE).

    A negative weight takes a skill away. Names, sidecar files and sharding are those of BASE.
    """

    name: ClassVar[str] = "task-arithmetic"
    examples: ClassVar[str] = """
    weightsmith task-arithmetic base/ maths/ code/ --weight 0.6,0.4 -o merged/
    weightsmith task-arithmetic base/ rude/ --weight=-1 -o polite/
    """

    normalize: bool = option("--normalize", "divide by the sum of the weights", default=False)

    @property
    def normalizes(self) -> bool:
        """See TaskVectors."""
        return self.normalize
