"""A comparison as a file: a picture, or a page that needs nothing else and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from weightsmith.errors import printable
from weightsmith.report.comparison import Comparison
from weightsmith.report.plots import draw
from weightsmith.report.tables import number, percent

_CSS = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; margin-top: 1em }
th, td { padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right }
th { position: sticky; top: 0; background: #fff }
th:first-child, td:first-child { text-align: left; font-family: monospace; overflow-wrap: anywhere }
"""
# Whatever a name smuggled past the escaping could not run or load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(comparison: Comparison, suffix: str) -> bytes:
    """The content of a file with this suffix: ".png", ".svg" or ".html"."""
    if suffix != ".html":
        return draw(comparison, suffix.removeprefix("."))
    svg = draw(comparison, "svg").decode()
    return "\n".join(_page(comparison, svg[svg.index("<svg") :])).encode()


def _page(comparison: Comparison, svg: str) -> Iterator[str]:
    a, b = (escape(printable(label)) for label in (comparison.a, comparison.b))
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<title>{a} and {b}</title><style>{_CSS}</style></head><body>"
    yield f"<h1>How far apart</h1><p>A: <code>{a}</code><br>B: <code>{b}</code></p>"
    yield (
        "<p>sigma = Σ|A - B| / (Σ|A| + Σ|B|); mean over tensors, biases and norms left out: "
        f"<strong>{number(comparison.mean_sigma)}</strong></p>"
    )
    yield svg
    yield "<table><thead><tr>"
    heads = ["tensor", "sigma", "same", "‖A‖", "‖B‖", "‖A - B‖", "cosine"]
    spectrum = any(each.spectra for each in comparison.tensors)
    heads += ["eRank A", "eRank B", "eRank A - B", "top 16"] if spectrum else []
    yield "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>"
    for each in comparison.tensors:
        facts = each.facts()
        cells = [printable(each.name), number(facts["sigma"]), percent(facts["unchanged"])]
        cells += [number(facts[key]) for key in ("norm_a", "norm_b", "norm_delta")]
        cells += [number(facts["cosine"], 7)]
        if spectrum:
            cells += [number(facts.get(f"erank_{of}")) for of in ("a", "b", "delta")]
            cells += [percent(facts.get("energy", {}).get("16"))]
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table>"
    if comparison.apart:
        yield "<h2>Not compared</h2><ul>"
        for name, reason in comparison.apart.items():
            yield f"<li><code>{escape(printable(name))}</code>: {escape(reason)}</li>"
        yield "</ul>"
    yield "</body></html>"
