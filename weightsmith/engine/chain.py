"""Plan the commands of a chain, each on what those before it are going to give."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.source import Source
from weightsmith.engine.inputs import STDIN, find_sidecars, opened, renamed, view
from weightsmith.engine.link import Link, behind
from weightsmith.engine.maker import Maker
from weightsmith.engine.plan import Plan, make_plan
from weightsmith.engine.settings import Settings
from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.header import Header
from weightsmith.operators.operator import Input, Operator
from weightsmith.operators.provenance import CONFIG_PATCH, SIDECARS, canonical


@dataclass(frozen=True)
class Step:
    """One command: an operator, what it reads, and how.

    Attributes:
        operator: with its parameters.
        addresses: of its inputs, in order. After the first step `-` is the result of the step
            before, and names are the results of the steps that have them.
        settings: of these, workers, memory, resume and output count in the last step only.
        name: by which later steps may read the result.
    """

    operator: Operator
    addresses: Sequence[str]
    settings: Settings
    name: str | None = None

    @property
    def asked_for(self) -> list[str]:
        """The addresses, and those that the operator's options name."""
        return [*self.addresses, *(address for _, address in self.operator.further())]

    @property
    def described(self) -> list[Input]:
        """What each of them is."""
        given, count = list(self.operator.inputs)[: len(self.addresses)], len(self.addresses)
        if given[-1].many:
            given += [given[-1]] * (count - len(given))
        return given + [described for described, _ in self.operator.further()]


@contextmanager
def planned(
    steps: Sequence[Step], notice: Callable[[str], None], *, headers: bool = False
) -> Iterator[tuple[Plan, Sidecars | None]]:
    """The plan of the last step, whose sources are open, and the sidecar files it takes.

    Args:
        steps: all of them.
        notice: told when something is waited for.
        headers: whether only the plan is wanted, so that nothing need be downloaded.

    Raises:
        WeightsmithError: whatever is wrong with a step; if there are several, it says with which.
    """
    wired = [_wire(steps, number) for number in range(len(steps))]
    readers = Counter(each for inputs in wired for each in inputs if isinstance(each, int))
    labels = [_label(steps, number) for number in range(len(steps))]
    for number in range(len(steps) - 1):
        if not readers[number]:
            raise UsageError(
                f"no later command reads the result of {labels[number]}",
                remedy="- stands for the command before: weightsmith delta A B then graft A C -",
            )
    addresses = [each for inputs in wired for each in inputs if isinstance(each, str)]
    stream = headers or any(step.settings.stream for step in steps)
    with opened(addresses, notice, stream=stream) as leaves:
        rest = iter(leaves)
        links: list[Link] = []
        for number, (step, inputs) in enumerate(zip(steps, wired, strict=True)):
            sources = tuple(links[i] if isinstance(i, int) else next(rest) for i in inputs)
            try:
                plan, sidecars = _plan(step, sources, labels[number])
            except WeightsmithError as error:
                error.within(labels[number])
                raise
            if number < len(steps) - 1:
                plan = complete(plan, sidecars, directory=False, pipe=True)
                maker = Maker(plan, device=step.settings.device, cache=step.settings.cache)
                links.append(Link(plan, maker, shared=readers[number] > 1))
        yield plan, sidecars


def _wire(steps: Sequence[Step], number: int) -> list[int | str]:
    """The inputs of a step: numbers of earlier steps, and addresses."""
    if number == 0:
        return list(steps[0].asked_for)
    earlier = {step.name: index for index, step in enumerate(steps[:number]) if step.name}
    given = steps[number].asked_for
    if sum(address in STDIN for address in given) > 1:
        raise UsageError(f"{_label(steps, number)}: - can be only one of the inputs")
    return [number - 1 if address in STDIN else earlier.get(address, address) for address in given]


def _label(steps: Sequence[Step], number: int) -> str | None:
    if len(steps) == 1:
        return None
    step = steps[number]
    return link_label(number, step.operator.name, step.name)


def link_label(number: int, operator: str, name: str | None = None) -> str:
    """What messages call a link, counted from 0."""
    return f"{name or f'link {number + 1}'} ({operator})"


def _plan(
    step: Step, sources: tuple[Source, ...], label: str | None
) -> tuple[Plan, Sidecars | None]:
    operator, settings = step.operator, step.settings
    views = [
        view(
            source,
            described,
            full_digest=settings.full_digest,
            asked=settings.sidecars if index == operator.primary else None,
        )
        for index, (source, described) in enumerate(zip(sources, step.described, strict=True))
    ]
    named, views = renamed(operator, sources, views)
    plan = make_plan(operator, named, views, settings.request, label)
    return plan, find_sidecars(plan.primary, settings.sidecars, allow_code=settings.allow_code)


def complete(plan: Plan, sidecars: Sidecars | None, *, directory: bool, pipe: bool) -> Plan:
    """Settle what the output's metadata must carry because no config.json travels with it.

    Args:
        plan: as `make_plan` gives it.
        sidecars: the files that the output takes.
        directory: whether they are going to lie beside it.
        pipe: whether another command is going to look for them.
    """
    metadata = {k: v for k, v in plan.header.metadata.items() if k != CONFIG_PATCH}
    if plan.config_patch and not directory:
        metadata[CONFIG_PATCH] = canonical(plan.config_patch)
    untouched_file = plan.draft.transparent and sidecars is not None and sidecars.implied
    if sidecars is not None and pipe and not untouched_file:
        # Only for the next command of a pipe on this machine: paths are not for published files.
        metadata[SIDECARS] = str(sidecars.settled())
    header = Header(plan.header.tensors, metadata)
    original = plan.primary.header
    # Where nothing changed at all, the very bytes of the header are passed on.
    return replace(plan, header=original if header == original else header)


def streams_of(plan: Plan) -> Iterator[str]:
    """What the streams are called that a plan is made of."""
    for source in map(behind, plan.sources):
        if isinstance(source, Link):
            yield from streams_of(source.plan)
        elif source.sequential:
            yield source.label
