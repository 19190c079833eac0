"""generate: continue a prompt with a checkpoint, dense or packed."""

import sys
import time
from functools import partial
from typing import Annotated

import typer

from weightsmith.checkpoint.hub import located
from weightsmith.cli.options import Act, Quiet, check_act
from weightsmith.cli.perplexity import Threads, limit_threads
from weightsmith.engine.settings import parse_dtype


def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a checkpoint directory", show_default=False)
    ],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="what to continue", show_default=False)
    ],
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="N", help="Tokens to write at most.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, metavar="T", help="0 takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0, max=1, metavar="P", help="Share to choose from.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random numbers.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template.")] = False,
    act: Act = "int16",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE", help="Of everything that is not packed.")
    ] = "float32",
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")
    ] = "cpu",
    jobs: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Text and figures as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Continue PROMPT, and print the text as it comes.

    A model with a chat template is asked as in a chat, unless --raw. Speed is told on standard
    error. Packed checkpoints (see ptqtp) run without being unpacked.

    \b
    Examples:
      weightsmith generate packed/ 'What is the capital of France?'
      weightsmith generate model/ 'Once upon a time' --raw --temperature 0.8 --seed 7
    """
    from weightsmith.dtypes import DTYPES
    from weightsmith.inference.model import require_transformers

    kind = DTYPES[parse_dtype(dtype) or "F32"].torch_name
    check_act(act)
    require_transformers()
    limit_threads(jobs)
    from weightsmith.inference.generate import Sampling, Speed, prompt_ids, text_of
    from weightsmith.inference.generate import generate as run
    from weightsmith.inference.model import load

    began = time.perf_counter()
    loaded = load(
        located(model, partial(print, file=sys.stderr)), dtype=kind, device=device, act=act
    )
    if not quiet and not as_json:
        print(f"loaded in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    speed = Speed()
    ids = prompt_ids(loaded, prompt, chat=not raw)
    pieces = text_of(loaded, run(loaded, ids, tokens, Sampling(temperature, top_p, seed), speed))
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps({"text": "".join(pieces), **asdict(speed)}, ensure_ascii=False))
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    if not quiet:
        print(speed.line(), file=sys.stderr)
