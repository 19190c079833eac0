"""extract-lora: what a fine-tune changed in linear layers, as a LoRA adapter."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import weightsmith
from weightsmith.checkpoint.hub import is_hub
from weightsmith.checkpoint.source import Source
from weightsmith.cli.options import Exclude, Force, Json, Quiet, Select, Stream, Verbose
from weightsmith.cli.screen import Screen
from weightsmith.engine.inputs import opened, view
from weightsmith.engine.settings import parse_dtype
from weightsmith.errors import UsageError, printable
from weightsmith.families import TRANSPOSED
from weightsmith.operators.operator import Input
from weightsmith.operators.provenance import PROVENANCE, canonical
from weightsmith.selection import Selection


def extract_lora(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="the model before tuning", show_default=False)
    ],
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="the model after it", show_default=False)
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="The adapter's directory.")
    ],
    rank: Annotated[
        str, typer.Option(metavar="R|erank|energy=SHARE", help="How many directions to keep.")
    ],
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="float32, float16 or bfloat16.")
    ] = "float32",
    base_name: Annotated[
        str, typer.Option(metavar="NAME", help="What the adapter calls its base model.")
    ] = "",
    select: Select = [],  # noqa: B006 - typer reads the default and copies it
    exclude: Exclude = [],  # noqa: B006
    force: Force = False,
    stream: Stream = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Extract TUNED - BASE as a LoRA adapter that PEFT loads.

    Each linear weight's difference D = U S V^T is cut to its first k directions: B = U_k sqrt(S_k),
    A = sqrt(S_k) V_k^T. k is a number, ceil(eRank), or the least that holds a share of the squared
    norm. Heads are taken only where --select names them; embeddings and vectors never. The report
    says what changed and is not in the adapter.

    \b
    Examples:
      weightsmith extract-lora base/ tuned/ --rank 16 -o adapter/
      weightsmith extract-lora base/ tuned/ --rank energy=0.9 --dtype bf16 -o adapter/
    """
    if output == "-" or output.endswith(".safetensors") or is_hub(output):
        raise UsageError(f"-o {output}: an adapter is a directory", remedy="-o adapter/")
    kind = parse_dtype(dtype) or "F32"
    selection = Selection(tuple(select), tuple(exclude))
    screen = Screen(
        "extract-lora",
        {"quiet": quiet, "verbose": verbose, "json": as_json, "output": "", "dry_run": False},
    )
    with opened([base, tuned], screen.notice, stream=stream) as (before, after):
        from weightsmith.report.extraction import Request, extract
        from weightsmith.report.lowrank import RankRule
        from weightsmith.report.pairs import pair

        rule = RankRule.parse(rank)
        pairing = pair(before, after, Selection())
        selection.check([*(each.name for each in pairing.pairs), *pairing.apart])
        metadata = _metadata(before, after, rank, kind, selection)
        request = Request(rule, selection.__contains__, bool(select), kind, base_name, metadata)
        screen.observer.begin(pairing.nbytes)
        try:
            done = extract(
                before,
                after,
                pairing,
                request,
                Path(output),
                force=force,
                tick=screen.observer.tick,
            )
        finally:
            screen.close()
    if as_json:
        print(json.dumps({"output": output, **done.facts()}, ensure_ascii=False))
    elif not quiet:
        from weightsmith.report.tables import extraction_lines

        for line in extraction_lines(done, verbose=verbose):
            print(line)
        print(f"written to {printable(output)}")


def _metadata(
    before: Source, after: Source, rank: str, dtype: str, selection: Selection
) -> dict[str, str]:
    """The adapter's own record of how it was made; refuses weights that are stored transposed."""
    views = {
        role: view(source, Input(role, ""), full_digest=False)
        for role, source in (("base", before), ("tuned", after))
    }
    for seen in views.values():
        family = (seen.config or {}).get("model_type")
        if family in TRANSPOSED:
            raise UsageError(
                f"{family} stores its linear layers [in, out], which no adapter here says yet",
                file=seen.label,
            )
    parameters: dict[str, Any] = {"rank": rank, "dtype": dtype, **selection.record()}
    node = {
        "operator": "extract-lora",
        "version": weightsmith.__version__,
        "parameters": parameters,
        "inputs": {role: dict(seen.lineage) for role, seen in views.items()},
    }
    return {"format": "pt", PROVENANCE: canonical(node)}
