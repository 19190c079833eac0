"""Curves of a sweep: what comes out over one axis, a line for each combination of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from statistics import mean
from typing import Any

from weightsmith.report.grid import Axis
from weightsmith.report.plots import STYLE

# A value of this axis is a repetition, not a curve of its own.
REPETITION = "seed"


def draw_curves(given: Sequence[Axis], lines: Sequence[Mapping[str, Any]], kind: str) -> bytes:
    """A figure as "png" or "svg": perplexity if there is any, else the error.

    Over the first axis that has several values. Seeds become the mean and a band from the least to
    the most; what has one value is said in the title.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    several = [axis for axis in given if len(axis.values) > 1 and axis.name != REPETITION]
    over, *others = several or given
    shown = "perplexity" if all("perplexity" in line for line in lines) else "error"
    fixed = [f"{axis.name} {axis.values[0]}" for axis in given if len(axis.values) == 1]
    curves: dict[str, dict[Any, list[float]]] = {}
    for line in lines:
        label = ", ".join(f"{axis.name} {line[axis.name]}" for axis in others if several)
        curves.setdefault(label, {}).setdefault(line[over.name], []).append(line.get(shown, 0.0))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for label, curve in curves.items():
            middle = [mean(values) for values in curve.values()]
            (drawn,) = axes.plot(
                list(curve), middle, marker=".", linewidth=1.2, label=label or None
            )
            low, high = ([end(values) for values in curve.values()] for end in (min, max))
            axes.fill_between(list(curve), low, high, color=drawn.get_color(), alpha=0.2)
        axes.set_title(", ".join(["sweep of " + str(lines[0]["operator"]), *fixed]))
        axes.set_xlabel(over.name)
        axes.set_ylabel({"error": "relative error of the weights"}.get(shown, shown))
        axes.grid(visible=True, linewidth=0.3)
        if shown == "perplexity":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        if any(curves):
            axes.legend(fontsize=8)
        out = BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
        return out.getvalue()
