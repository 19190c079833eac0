"""compare: how far apart two checkpoints are, layer by layer and module by module."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.cli.options import Exclude, Force, Json, Quiet, Select, Stream, Verbose
from weightsmith.cli.screen import Screen
from weightsmith.engine.inputs import opened
from weightsmith.errors import UsageError
from weightsmith.selection import Selection

PLOTS = (".png", ".svg", ".html")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="a checkpoint", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="another", show_default=False)],
    spectrum: Annotated[
        bool,
        typer.Option("--spectrum", help="Effective ranks, and the energy of leading directions."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A heat map as NAME.png, NAME.svg or NAME.html."),
    ] = None,
    select: Select = [],  # noqa: B006 - typer reads the default and copies it
    exclude: Exclude = [],  # noqa: B006
    force: Force = False,
    stream: Stream = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two checkpoints of one architecture, tensor by tensor.

    sigma = sum|A - B| / (sum|A| + sum|B|) of each tensor; its mean over tensors, biases and norms
    left out, tells models that can exchange a delta (below 0.05, say) from strangers. Tensors that
    are not in both with one shape are listed, not compared.

    \b
    Examples:
      weightsmith compare base/ instruct/
      weightsmith compare base/ tuned/ --spectrum --plot gap.html
    """
    check_plot(plot, PLOTS, force=force)
    selection = Selection(tuple(select), tuple(exclude))
    screen = Screen(
        "compare",
        {"quiet": quiet, "verbose": verbose, "json": as_json, "output": "", "dry_run": False},
    )
    with opened([a, b], screen.notice, stream=stream) as (left, right):
        from weightsmith.report.comparison import compare as run
        from weightsmith.report.pairs import pair

        pairing = pair(left, right, selection)
        screen.observer.begin(pairing.nbytes)
        try:
            comparison = run(left, right, pairing, spectrum=spectrum, tick=screen.observer.tick)
        finally:
            screen.close()
    if plot is not None:
        from weightsmith.report.page import render

        write_plot(plot, render(comparison, plot.suffix.lower()))
    if as_json:
        print(json.dumps(comparison.facts(), ensure_ascii=False))
    elif not quiet:
        from weightsmith.report.tables import comparison_lines

        for line in comparison_lines(comparison, verbose=verbose):
            print(line)


def check_plot(plot: Path | None, endings: tuple[str, ...], *, force: bool) -> None:
    """All that can be wrong with --plot, before hours of work."""
    if plot is None:
        return
    if plot.suffix.lower() not in endings:
        raise UsageError(f"--plot {plot}", expected=f"a name that ends in {', '.join(endings)}")
    if not plot.absolute().parent.is_dir():
        raise UsageError("no such directory", file=plot.parent)
    if plot.exists() and not (force and plot.is_file()):
        raise UsageError("the target exists", file=plot, remedy="--force replaces it")
    from weightsmith.report.plots import require_matplotlib

    require_matplotlib()


def write_plot(path: Path, content: bytes) -> None:
    """Appear whole or not at all."""
    from weightsmith.checkpoint.workspace import write_errors

    beside = path.with_name(f".{path.name}.weightsmith")
    with write_errors(str(path)):
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
