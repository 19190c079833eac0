"""inspect: what is in a checkpoint, from its header alone."""

import json
from collections import Counter
from functools import partial
from typing import Annotated, Any

import typer

from weightsmith.checkpoint.source import Source
from weightsmith.cli.options import Digest, Json, Stream, Verbose, is_full
from weightsmith.cli.screen import Screen, human_size
from weightsmith.engine.inputs import opened, view
from weightsmith.errors import printable
from weightsmith.operators.delta import DeltaMark
from weightsmith.operators.operator import Input, InputView
from weightsmith.operators.provenance import describe, record_of


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="a checkpoint [default: - (standard input)]",
            show_default=False,
        ),
    ] = "-",
    digest: Digest = "sampled",
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Read it all: mean, std, extremes, zeros and norm by tensor."),
    ] = False,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="The same, with the effective rank of matrices.")
    ] = False,
    stream: Stream = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show dtypes, sizes, fingerprint and provenance, from headers and a few samples.

    With --stats or --spectrum the whole checkpoint is read, and every tensor described.

    \b
    Examples:
      weightsmith inspect model/
      weightsmith inspect model/ --stats
      weightsmith delta base/ tuned/ | weightsmith inspect --json
    """
    full = is_full(digest)
    # Where it is not read through, a checkpoint on the Hub need not be downloaded.
    stream = stream or not (full or stats or spectrum)
    with opened([model], partial(typer.echo, err=True), stream=stream) as (source,):
        seen = view(source, Input("model", ""), full_digest=full)
        shards = sorted(set(source.shard_of.values()))
        found = _statistics(source, spectrum, verbose, as_json) if stats or spectrum else None
    facts = _facts(seen, shards)
    if found is not None:
        for tensor in facts["contents"]:
            tensor["stats"] = found.get(tensor["name"])
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    _print(facts, verbose=verbose)
    if found is not None:
        from weightsmith.report.tables import statistics_lines

        for line in statistics_lines(found, spectrum=spectrum):
            print(line)


def _statistics(
    source: Source, spectrum: bool, verbose: bool, as_json: bool
) -> dict[str, dict[str, Any]]:
    from weightsmith.report.stats import statistics

    given = {"quiet": False, "verbose": verbose, "json": as_json, "output": "", "dry_run": False}
    screen = Screen("inspect", given)
    screen.observer.begin(source.header.nbytes)
    try:
        return statistics(source, spectrum=spectrum, tick=screen.observer.tick)
    finally:
        screen.close()


def _facts(seen: InputView, shards: list[str]) -> dict[str, Any]:
    header = seen.header
    mark = DeltaMark.of(header.metadata)
    by_dtype: dict[str, dict[str, int]] = {}
    for spec in header.tensors:
        totals = Counter(by_dtype.get(spec.dtype, {}))
        totals.update(tensors=1, parameters=spec.numel, bytes=spec.nbytes)
        by_dtype[spec.dtype] = dict(totals)
    return {
        "model": seen.label,
        "model_type": (seen.config or {}).get("model_type"),
        "files": shards,
        "tensors": len(header.tensors),
        "parameters": sum(spec.numel for spec in header.tensors),
        "bytes": header.nbytes,
        "dtypes": by_dtype,
        "fingerprint": seen.fingerprint,
        "delta_of": mark.base if mark else None,
        "lossless_delta": mark.lossless if mark else None,
        "provenance": record_of(header.metadata),
        "metadata": dict(header.metadata),
        "contents": [
            {"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in header.tensors
        ],
    }


def _print(facts: dict[str, Any], *, verbose: bool) -> None:
    kind = f" ({printable(str(facts['model_type']))})" if facts["model_type"] else ""
    print(f"{printable(facts['model'])}{kind}")
    print(
        f"  {facts['tensors']} tensors, {facts['parameters']:,} parameters, "
        f"{human_size(facts['bytes'])} in {max(1, len(facts['files']))} file(s)"
    )
    for dtype, totals in facts["dtypes"].items():
        print(
            f"  {dtype:8} {totals['tensors']:6} tensors {totals['parameters']:16,} parameters "
            f"{human_size(totals['bytes']):>10}"
        )
    print(f"  fingerprint {facts['fingerprint']}")
    if facts["delta_of"]:
        lossless = " (lossless)" if facts["lossless_delta"] else ""
        print(f"  a delta of base {printable(facts['delta_of'])}{lossless}")
    if facts["provenance"]:
        print("  made by")
        for line in describe(facts["provenance"]):
            print(f"    {line}")
    if verbose:
        for tensor in facts["contents"]:
            shape = "x".join(map(str, tensor["shape"])) or "scalar"
            print(f"  {tensor['dtype']:8} {shape:>14}  {printable(tensor['name'])}")
