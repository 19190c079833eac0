"""sweep: an operator at every point of a grid, with the error of the weights and the perplexity."""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from math import log10, sqrt
from pathlib import Path
from typing import Annotated, Any

import typer

from weightsmith.checkpoint.hub import located
from weightsmith.cli.compare import check_plot, write_plot
from weightsmith.cli.options import Exclude, Force, Json, Quiet, Select
from weightsmith.engine.execute import execute
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.rehearse import rehearse
from weightsmith.engine.settings import DEFAULT_MEMORY, Settings, parse_size
from weightsmith.errors import UsageError
from weightsmith.operators.operator import OPTION, Operator
from weightsmith.operators.registry import operators
from weightsmith.report.grid import axes, points
from weightsmith.selection import Selection


def sweep(
    operator: Annotated[
        str, typer.Argument(metavar="OPERATOR", help="memristor, say", show_default=False)
    ],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a checkpoint", show_default=False)],
    axis: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUES...",
            help="options of the operator, as A,B,C or FIRST:LAST:COUNT",
            show_default=False,
        ),
    ],
    perplexity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text on which each result is scored."),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="Tokens of the text to read.")
    ] = 4096,
    window: Annotated[
        int, typer.Option("--window", metavar="N", help="Tokens in a window.")
    ] = 1024,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Curves, as NAME.png or NAME.svg."),
    ] = None,
    select: Select = [],  # noqa: B006 - typer reads the default and copies it
    exclude: Exclude = [],  # noqa: B006
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, metavar="N", help="Threads [CPUs allowed].")
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Bound on the buffers' memory.")
    ] = f"{DEFAULT_MEMORY >> 20}MiB",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out an operator at every combination of values, and print one line for each.

    A line is a JSON object with the values, the norm of what was lost relative to the norm of the
    weights, and the perplexity if a text is given. Without a text no checkpoint is written; with
    one, each is written to a temporary directory (TMPDIR) and removed.

    \b
    Examples:
      weightsmith sweep memristor model/ sigma=0:0.05:6
      weightsmith sweep memristor model/ device=pcm copies=1,2,4 seed=0:2:3 --plot copies.png
    """
    del as_json  # there is no other form
    check_plot(plot, (".png", ".svg"), force=force)
    given = axes(axis)
    settings = Settings(
        selection=Selection(tuple(select), tuple(exclude)),
        jobs=jobs,
        memory=parse_size(memory, "--memory"),
    )
    swept = _operator(operator)
    model = located(model, partial(print, file=sys.stderr))
    plan = Plan(swept, model, settings)
    every = list(points(given))
    for point in every:
        # Whatever is wrong with the last point is said before the first.
        rehearse(plan.at(point), model, settings, dry_run=True)
    score = _scorer(perplexity, tokens, window, jobs)
    lines = []
    for point in every:
        lines.append(plan.run(point, score))
        if not quiet:
            print(json.dumps(lines[-1]), flush=True)
    if plot is not None:
        from weightsmith.report.curves import draw_curves

        write_plot(plot, draw_curves(given, lines, plot.suffix[1:].lower()))


@dataclass(frozen=True)
class Plan:
    """What is swept: an operator on a model."""

    operator: type[Operator]
    model: str
    settings: Settings

    def at(self, point: Mapping[str, str]) -> Operator:
        """The operator with the values of a point."""
        own = {
            item.metadata[OPTION].flag.removeprefix("--"): item
            for item in fields(self.operator)
            if OPTION in item.metadata and item.metadata[OPTION].convert is not None
        }
        for name in point:
            if name.replace("_", "-") not in own:
                raise UsageError(
                    f"{self.operator.name} has no option to sweep called {name}",
                    expected=", ".join(own),
                )
        return self.operator(**{own[n.replace("_", "-")].name: v for n, v in point.items()})

    def run(self, point: Mapping[str, str], score: Any) -> dict[str, Any]:
        """The line of a point."""
        line: dict[str, Any] = {"operator": self.operator.name}
        line |= {name: _number(value) for name, value in point.items()}
        if score is None:
            return line | _error(rehearse(self.at(point), self.model, self.settings))
        with tempfile.TemporaryDirectory(prefix="weightsmith-sweep-") as work:
            target = Path(work) / "model"
            settings = replace(self.settings, output=str(target))
            line |= _error(execute(self.at(point), [self.model], settings))
            return line | {"perplexity": score(target)}


def _operator(name: str) -> type[Operator]:
    known = {n: o for n, o in operators().items() if len(o.inputs) == 1 and not o.inputs[0].many}
    if name not in known:
        raise UsageError(f"{name} cannot be swept", expected=f"one of {', '.join(known)}")
    return known[name]


def _scorer(text: Path | None, tokens: int, window: int, jobs: int | None) -> Any:
    if text is None:
        return None
    from weightsmith.cli.perplexity import limit_threads
    from weightsmith.inference.model import require_transformers
    from weightsmith.inference.perplexity import perplexity
    from weightsmith.inference.tokens import read_text

    content = read_text(text)
    require_transformers()
    limit_threads(jobs)
    return lambda model: perplexity(model, content, tokens=tokens, window=window).perplexity


def _error(outcome: Outcome) -> dict[str, float]:
    """Of all tensors together, from what the operator says of each."""
    of_tensors = [each for each in outcome.figures.values() if {"norm", "error"} <= each.keys()]
    square = sum(each["norm"] ** 2 for each in of_tensors)
    lost = sum((each["norm"] * each["error"]) ** 2 for each in of_tensors)
    if not square:
        return {}
    return {"error": sqrt(lost / square)} | ({"snr_db": 10 * log10(square / lost)} if lost else {})


def _number(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number
