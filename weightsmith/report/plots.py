"""Figures: where in a model two checkpoints differ, and how the difference is spread."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, Any

from weightsmith.errors import UsageError, printable
from weightsmith.report.comparison import Compared, Comparison, mean
from weightsmith.report.names import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LONGEST_LABEL = 48
_MOST_TICKS = 32
# A fixed salt and no date: same comparison, same bytes. Names are no formulas, whatever is in them.
STYLE: Any = {
    "svg.hashsalt": "weightsmith",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
}


def require_matplotlib() -> None:
    """Raise UsageError with the remedy where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib", remedy="pip install 'weightsmith[plot]'")


def draw(comparison: Comparison, kind: str) -> bytes:
    """The figure of a comparison as "png" or "svg"."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        rows, layers, cells = _grid(comparison)
        spectra = [each for each in comparison.tensors if each.spectra and each.sums.square_delta]
        height = max(3.2, 0.26 * len(rows) + 1.6)
        width = min(18.0, max(7.5, 0.24 * len(layers) + 4.5))
        extra = 4.2 if spectra else 0.0
        figure = Figure(figsize=(width, height + extra), layout="constrained")
        figure.suptitle(
            f"A: {_short(comparison.a)}    B: {_short(comparison.b)}\n"
            f"mean sigma {_number(comparison.mean_sigma)} (biases and norms left out)",
            fontsize=10,
        )
        panels = figure.subplots(
            2 if spectra else 1,
            1,
            squeeze=False,
            height_ratios=[height, extra][: 1 + bool(spectra)],
        )[:, 0]
        _heat_map(figure, panels[0], rows, layers, cells)
        if spectra:
            _spectra(panels[1], spectra)
        out = BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
        return out.getvalue()


def _grid(comparison: Comparison) -> tuple[list[str], list[str], list[list[float]]]:
    """Row labels, column labels and sigma of each cell; NaN where there is no such tensor.

    Cells that hold several tensors (experts) show their mean. Tensors outside the layers have rows
    of their own, in a last column.
    """
    label = labels([each.place for each in comparison.tensors])
    found: dict[str, dict[int | None, list[float]]] = {}
    inside = sorted(comparison.tensors, key=lambda each: each.place.layer is None)
    for each in inside:
        row = found.setdefault(label[each.place], {})
        row.setdefault(each.place.layer, []).append(each.sums.sigma)
    places = [each.place.layer for each in inside]
    layers: list[int | None] = [*sorted({layer for layer in places if layer is not None})]
    layers += [None] if None in places else []
    cells = [
        [float("nan") if (m := mean(row.get(layer, []))) is None else m for layer in layers]
        for row in found.values()
    ]
    names = ["outside" if layer is None else str(layer) for layer in layers]
    return [_short(name) for name in found], names, cells


def _heat_map(
    figure: Figure, axes: Axes, rows: list[str], layers: list[str], cells: list[list[float]]
) -> None:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import PowerNorm

    values = np.array(cells)
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.92")
    top = float(np.nanmax(values)) or 1.0
    # One norm that moved far must not turn all the others into one dark colour.
    scale = PowerNorm(0.5, vmin=0, vmax=top)
    image = axes.imshow(values, cmap=colours, norm=scale, aspect="auto")
    axes.set_title("Relative gap of each tensor (grey: no such tensor)")
    axes.set_xlabel("layer")
    axes.set_yticks(range(len(rows)), rows)
    step = ceil(len(layers) / _MOST_TICKS)
    ticks = list(range(0, len(layers), step))
    if layers[-1] == "outside":
        # It is wide: it stands upright, and no number crowds it.
        ticks = [tick for tick in ticks if tick < len(layers) - step] + [len(layers) - 1]
    axes.set_xticks(ticks, [layers[tick] for tick in ticks])
    for text in axes.get_xticklabels():
        if text.get_text() == "outside":
            text.set_rotation(90)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("sigma = Σ|A - B| / (Σ|A| + Σ|B|)\n(square-root scale)")


def _spectra(axes: Axes, tensors: list[Compared]) -> None:
    """Singular values of the delta for tensors at quantiles of its effective rank."""
    from matplotlib.ticker import LogFormatter

    def erank(each: Compared) -> float:
        assert each.spectra is not None
        return each.spectra.erank_delta

    ranked = sorted(tensors, key=erank)
    chosen = dict.fromkeys(round(q * (len(ranked) - 1)) for q in _QUANTILES)
    for position in chosen:
        each = ranked[position]
        assert each.spectra is not None
        values = each.spectra.values
        shown = values[values > 1e-9 * values[0]]
        name = f"{_short(each.name)} (eRank {erank(each):.1f} of {len(values)})"
        marker: dict[str, Any] = {"marker": "."} if len(shown) < 16 else {}
        line = axes.plot(range(1, len(shown) + 1), shown / shown[0], linewidth=1.2, **marker)[0]
        # Matplotlib keeps names that begin with an underscore out of a legend.
        line.set_label(f" {name}" if name.startswith("_") else name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # The usual labels of a logarithmic axis are formulas, which are off.
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axes.set_title("Spectra of A - B: tensors from the least to the most effective rank")
    axes.set_xlabel("index of the singular value")
    axes.set_ylabel("singular value / the largest")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(fontsize=7, loc="lower left")


def _short(text: str) -> str:
    shown = printable(text)
    if len(shown) <= _LONGEST_LABEL:
        return shown
    half = (_LONGEST_LABEL - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
