"""Curves with their spread over seeds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from experiment import Line
from matplotlib.figure import Figure


@contextmanager
def panels(target: Path, count: int, title: str, *, share: bool = False) -> Iterator[Sequence[Any]]:
    """A row of `count` axes, written to `target` at the end."""
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "weightsmith"}):
        figure = Figure(figsize=(max(3.9 * count, 5.5), 3.9), layout="constrained")
        axes = figure.subplots(1, count, sharey=share, squeeze=False)[0]
        figure.suptitle(title, fontsize=10)
        yield axes
        for each in axes:
            each.grid(visible=True, linewidth=0.3)
        figure.savefig(target, dpi=130)


def curve(
    axes: Any,
    lines: Sequence[Line],
    x: str | Callable[[Line], float],
    y: Callable[[Line], float],
    **look: Any,
) -> None:
    """The mean of `y` over the lines with the same `x`, and a band from the least to the most."""
    of_x: dict[float, list[float]] = {}
    for line in lines:
        of_x.setdefault(line[x] if isinstance(x, str) else x(line), []).append(y(line))
    at = sorted(of_x)
    (drawn,) = axes.plot(
        at, [mean(of_x[each]) for each in at], **{"marker": ".", "linewidth": 1.2} | look
    )
    low, high = ([end(of_x[each]) for each in at] for end in (min, max))
    axes.fill_between(at, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)


def level(axes: Any, lines: Sequence[Line], y: Callable[[Line], float], **look: Any) -> None:
    """A horizontal line at the mean, and a band from the least to the most."""
    found = [y(line) for line in lines]
    drawn = axes.axhline(mean(found), **{"linewidth": 1.0, "linestyle": "--"} | look)
    axes.axhspan(min(found), max(found), color=drawn.get_color(), alpha=0.12, linewidth=0)
