"""Carry an operator out and keep nothing but the report."""

import time

from weightsmith.checkpoint.layout import Layout
from weightsmith.engine.inputs import opened, view
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.plan import Plan, make_plan
from weightsmith.engine.run import Run
from weightsmith.engine.settings import Settings
from weightsmith.operators.operator import Operator


class NoSink:
    """Takes everything and keeps nothing."""

    label = "nowhere"
    ordered = False

    def open(self, layout: Layout) -> None:
        """See Sink."""

    def lead(self, tensor: str, start: int) -> int:  # noqa: ARG002
        """See Sink."""
        return 0

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """See Sink."""

    def publish(self) -> None:
        """See Sink."""

    def discard(self) -> None:
        """See Sink."""


def rehearse(
    operator: Operator, address: str, settings: Settings, *, dry_run: bool = False
) -> Outcome:
    """The report of an operator with one input, as if it had written its output.

    Raises:
        WeightsmithError: as the operator's command would.
    """
    with opened([address], lambda _: None) as sources:
        views = [view(sources[0], operator.inputs[0], full_digest=False)]
        plan: Plan = make_plan(operator, sources, views, settings.request)
        if dry_run:
            return Outcome.of(plan, NoSink.label)
        started = time.monotonic()
        run = Run(plan, NoSink(), workers=settings.workers, memory=settings.memory)
        run()
        seconds = time.monotonic() - started
        return Outcome.of(plan, NoSink.label, sums=run.maker.sums, seconds=seconds)
