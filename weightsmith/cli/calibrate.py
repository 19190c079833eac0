"""calibrate: what the linear layers of a model get to see, for ptqtp."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.checkpoint.hub import is_hub, located
from weightsmith.cli.options import Force, Json, Quiet
from weightsmith.cli.perplexity import Threads, Window, limit_threads
from weightsmith.cli.screen import Screen, human_size
from weightsmith.engine.inputs import opened
from weightsmith.errors import UsageError, printable


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a checkpoint directory", show_default=False)
    ],
    text: Annotated[
        Path,
        typer.Argument(
            metavar="TEXT", help="text in UTF-8, or documents in NAME.jsonl", show_default=False
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="The directory to make.")
    ],
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="At most so many, in whole windows.")
    ] = 16384,
    window: Window = 1024,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which windows are drawn.")] = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")
    ] = "cpu",
    jobs: Threads = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the inputs of all linear layers on a text: H = sum x x^T / n, for ptqtp --stats.

    The model runs once, layer by layer, with one layer in memory. Windows of the text are drawn at
    random.

    \b
    Examples:
      weightsmith calibrate model/ novel.txt -o stats/
      weightsmith calibrate model/ chats.jsonl --tokens 65536 -o stats/
    """
    if output == "-" or output.endswith(".safetensors") or is_hub(output):
        raise UsageError(f"-o {output}: statistics are a directory", remedy="-o stats/")
    from weightsmith.inference.calibrate import Request
    from weightsmith.inference.calibrate import calibrate as run
    from weightsmith.inference.model import read_config, require_transformers

    screen = Screen(
        "calibrate",
        {"quiet": quiet, "verbose": False, "json": as_json, "output": "", "dry_run": False},
    )
    where = located(model, screen.notice)
    read_config(where)
    require_transformers()
    limit_threads(jobs)
    with opened([model], screen.notice) as (source,):
        try:
            done = run(
                source,
                Path(where),
                text,
                Path(output),
                Request(tokens, window, seed, device),
                force=force,
                begin=screen.observer.begin,
                tick=screen.observer.tick,
            )
        finally:
            screen.close()
    if as_json:
        print(json.dumps({"output": output, **asdict(done)}, ensure_ascii=False))
        return
    run_windows, available = done.windows
    screen.notice(
        f"{done.record.tokens} tokens, {run_windows} of {available} windows; {done.matrices} "
        f"matrices for {len(done.record.weights)} weights, {human_size(done.nbytes)} "
        f"to {printable(output)}"
    )
