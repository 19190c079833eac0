"""Reports as text for a terminal: columns, and what to put in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

from weightsmith.errors import printable
from weightsmith.report.comparison import Compared, Comparison, mean
from weightsmith.report.extracted import Extraction
from weightsmith.report.names import counts, labels, place_of

_RANKS = (1, 4, 16, 64)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()


def number(value: float | None, digits: int = 4) -> str:
    """A few significant digits; a dash where there is nothing to say."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as per cent."""
    return "-" if share is None else f"{100 * share:.1f}%"


def comparison_lines(comparison: Comparison, *, verbose: bool) -> Iterator[str]:
    """The report of compare: by module, by layer, and what is outside the layers one by one.

    Layers are means as the model's is, without biases and norms; modules show those too.

    Args:
        comparison: what to show.
        verbose: a line for every tensor, and the reason for each that was not compared.
    """
    spectrum = any(each.spectra for each in comparison.tensors)
    yield f"A  {printable(comparison.a)}"
    yield f"B  {printable(comparison.b)}"
    for title, groups in _groups(comparison, verbose=verbose).items():
        yield ""
        rows = [[printable(name, 60), *_cells(group, spectrum)] for name, group in groups.items()]
        yield from columns([title, *_head(spectrum)], rows)
    yield ""
    counted = sum(counts(each.name) for each in comparison.tensors)
    yield f"mean sigma {number(comparison.mean_sigma)} over {counted} tensors (no biases, norms)"
    if comparison.apart:
        yield f"not compared: {len(comparison.apart)} tensors"
        shown = list(comparison.apart.items())
        for name, reason in shown if verbose else shown[:5]:
            yield f"  {printable(name)}: {reason}"
        if len(shown) > 5 and not verbose:
            yield f"  and {len(shown) - 5} more (--verbose, --json)"


def _groups(comparison: Comparison, *, verbose: bool) -> dict[str, dict[str, list[Compared]]]:
    modules: dict[str, list[Compared]] = {}
    layers: dict[str, list[Compared]] = {}
    outside: dict[str, list[Compared]] = {}
    label = labels([each.place for each in comparison.tensors])
    for each in sorted(comparison.tensors, key=lambda each: each.place.layer or 0):
        if each.place.layer is None:
            outside[each.name] = [each]
        else:
            modules.setdefault(label[each.place], []).append(each)
            if counts(each.name):
                layers.setdefault(str(each.place.layer), []).append(each)
    groups = {"module": modules, "layer": layers, "outside the layers": outside}
    if verbose:
        groups = {"tensor": {each.name: [each] for each in comparison.tensors}}
    return {title: group for title, group in groups.items() if group}


def _head(spectrum: bool) -> list[str]:
    head = ["n", "sigma", "least", "most", "same", "|A-B|/|A|", "cosine"]
    if spectrum:
        head += ["eRank A", "B", "A-B", *(f"top {rank}" for rank in _RANKS)]
    return head


def _cells(group: list[Compared], spectrum: bool) -> list[str]:
    """Means over the tensors of a group; the shares and the relative norm are of all elements."""
    sigmas = [each.sums.sigma for each in group]
    elements = sum(each.sums.elements for each in group)
    square_a = sum(each.sums.square_a for each in group)
    square_delta = sum(each.sums.square_delta for each in group)
    cells = [
        str(len(group)),
        number(mean(sigmas)),
        number(min(sigmas)),
        number(max(sigmas)),
        percent(sum(each.sums.unchanged for each in group) / elements if elements else None),
        number(sqrt(square_delta / square_a) if square_a else None),
        _cosine(mean([each.sums.cosine for each in group if each.sums.cosine is not None])),
    ]
    if spectrum:
        spectra = [each.spectra for each in group if each.spectra]
        cells += [
            number(mean([each.erank_a for each in spectra])),
            number(mean([each.erank_b for each in spectra])),
            number(mean([each.erank_delta for each in spectra])),
        ]
        for rank in _RANKS:
            shares = [s for each in spectra if (s := each.energy(rank)) is not None]
            cells.append(percent(mean(shares)))
    return cells


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def extraction_lines(done: Extraction, *, verbose: bool) -> Iterator[str]:
    """The report of extract-lora: ranks and energy by module, then what is not in the adapter.

    Args:
        done: what to show.
        verbose: a line for every tensor.
    """
    groups: dict[str, list[int]] = {}
    label = labels([place_of(each.name) for each in done.extracted])
    for index, each in enumerate(done.extracted):
        key = each.name if verbose else label[place_of(each.name)]
        groups.setdefault(key, []).append(index)
    rows = []
    for name, indices in groups.items():
        group = [done.extracted[index] for index in indices]
        ranks = [each.rank for each in group]
        square = sum(each.square for each in group)
        held = sum(each.energy * each.square for each in group)
        span = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)}-{max(ranks)}"
        erank = mean([each.erank for each in group])
        rows.append(
            [
                printable(name, 60),
                str(len(group)),
                span,
                percent(held / square),
                number(erank),
                number(sqrt(square)),
            ]
        )
    title = "tensor" if verbose else "module"
    yield from columns([title, "n", "rank", "energy", "eRank", "|delta|"], rows)
    yield f"the adapter holds {percent(done.energy)} of the squared norm of all that changed"
    if done.missed:
        yield f"not captured: {len(done.missed)} tensors"
        shown = list(done.missed.items())
        for name, (reason, norm) in shown if verbose else shown[:8]:
            size = "" if norm is None else f", |delta| {number(norm)}"
            yield f"  {printable(name)}: {reason}{size}"
        if len(shown) > 8 and not verbose:
            yield f"  and {len(shown) - 8} more (--verbose, --json)"


def statistics_lines(found: dict[str, dict[str, Any]], *, spectrum: bool) -> Iterator[str]:
    """The report of inspect --stats: a line for every tensor."""
    head = ["tensor", "mean", "std", "max", "zero", "norm", *(["eRank"] if spectrum else [])]
    rows = []
    for name, facts in found.items():
        cells = [number(facts[key]) for key in ("mean", "std", "max_abs")]
        cells += [percent(facts["zeros"]), number(facts["norm"])]
        rows.append([printable(name, 60), *cells, *([number(facts["erank"])] if spectrum else [])])
    yield from columns(head, rows)
    for name, facts in found.items():
        if facts["nonfinite"]:
            yield f"  {printable(name)}: {facts['nonfinite']} elements NaN or infinite, left out"
