"""The arithmetic of a plan: makes its units, and keeps figures and overflows of each tensor."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.engine.cache import Cache
from weightsmith.engine.units import WorkUnit
from weightsmith.errors import Overflow, WeightsmithError
from weightsmith.operators.operator import Function
from weightsmith.operators.unit import Block, Unit

if TYPE_CHECKING:
    from weightsmith.engine.plan import Plan


class Maker:
    """Makes units of a plan's output; threads may do so at once.

    Args:
        plan: what to do.
        device: where operators on whole tensors compute.
        cache: directory for what they want to keep.

    Attributes:
        sums: what the operator reported of each tensor, added up.
        overflows: how many values of each tensor were too large for its dtype.
    """

    def __init__(self, plan: Plan, *, device: str = "cpu", cache: str | None = None) -> None:
        self.sums: dict[str, dict[str, float]] = {}
        self.overflows: Counter[str] = Counter()
        self._plan = plan
        self._device = device
        self._cache_directory = cache
        self._cache: Cache | None = None
        self._function: Function | None = None
        self._counts = threading.Lock()

    def load(self) -> None:
        """Import what the operator needs; before the first unit, in one thread."""
        self._function = self._plan.operator.function()
        if self._cache_directory is not None:
            self._cache = Cache(Path(self._cache_directory))

    def __call__(self, unit: WorkUnit, out: memoryview, inputs: Sequence[memoryview]) -> None:
        """Make one unit.

        Args:
            unit: what is made.
            out: where the result goes.
            inputs: what the unit needs of each slot of its segment.
        """
        spec, slots = unit.tensor.spec, unit.segment.slots
        if unit.segment.parameters is None:
            overflows = _copy(out, spec.dtype, inputs[0], slots[0].spec.dtype)
        else:
            blocks = tuple(
                Block(slot.spec.dtype, data, unit.span(slot).shape)
                for slot, data in zip(slots, inputs, strict=True)
            )
            overflows = self._compute(unit, Block(spec.dtype, out, unit.shape), blocks)
        if overflows:
            with self._counts:
                self.overflows[spec.name] += overflows

    def _compute(self, unit: WorkUnit, out: Block, blocks: tuple[Block, ...]) -> int:
        given = Unit(
            unit.name,
            unit.start,
            out,
            blocks,
            unit.segment.parameters,
            self._device,
            report=lambda sums: self._add(unit.name, sums),
        )
        if self._cache is not None:
            cache = self._cache
            given = replace(given, remember=lambda kind, make: cache.remember(kind, blocks, make))
        assert self._function is not None, "loaded before the first unit"
        try:
            return self._function(given) or 0
        except WeightsmithError as error:
            error.within(self._plan.link)
            raise

    def _add(self, name: str, sums: Mapping[str, float]) -> None:
        with self._counts:
            total = self.sums.setdefault(name, {})
            for key, value in sums.items():
                total[key] = total.get(key, 0.0) + value

    def refuse_overflows(self, label: str) -> None:
        """Raise Overflow if a value was too large; `label` is what the output is called."""
        refuse_overflows(self.overflows, self._plan, label)


def refuse_overflows(overflows: Counter[str], plan: Plan, label: str) -> None:
    """Raise Overflow if any value of these tensors was too large; it names the first of them."""
    if not overflows:
        return
    name = next(tensor.spec.name for tensor in plan.tensors if tensor.spec.name in overflows)
    error = Overflow(
        f"{overflows.total()} values in {len(overflows)} tensors are too large "
        f"for {plan.header.by_name[name].dtype}",
        file=label,
        tensor=name,
        remedy="--dtype bfloat16 or float32 has room for them",
    )
    error.within(plan.link)
    raise error


def _copy(out: memoryview, dtype: str, data: memoryview, data_dtype: str) -> int:
    if dtype == data_dtype:
        out[:] = data
        return 0
    from weightsmith.kernels import elementwise  # a plain copy needs no arithmetic

    return elementwise.cast(out, dtype, data, data_dtype)
