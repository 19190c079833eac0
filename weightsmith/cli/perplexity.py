"""perplexity: how well a model predicts a text, alone and beside its parent."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.checkpoint.hub import located
from weightsmith.cli.options import Act, Json, Quiet, check_act
from weightsmith.cli.screen import Screen
from weightsmith.engine.settings import available_cpus, parse_dtype
from weightsmith.errors import printable

Window = Annotated[int, typer.Option("--window", metavar="N", help="Tokens in a window.")]
Threads = Annotated[
    int | None, typer.Option("--jobs", min=1, metavar="N", help="Threads [CPUs allowed].")
]


def perplexity(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a checkpoint directory", show_default=False)
    ],
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="What is predicted, UTF-8.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="PARENT", help="A checkpoint to compare with."),
    ] = None,
    window: Window = 1024,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="N", help="From window to window [the window]."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help="Tokens of the text to read [all].")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE", help="Of weights and arithmetic.")
    ] = "float32",
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")
    ] = "cpu",
    act: Act = "int16",
    jobs: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Perplexity and bits per byte of a text; KL and top-1 agreement against a parent.

    The text is cut into windows, and every token is predicted once from those before it in its
    window. Compare figures only where text, tokenizer, window and stride are the same.

    \b
    Examples:
      weightsmith perplexity model/ --text novel.txt --tokens 8192
      weightsmith perplexity packed/ --text novel.txt --against model/ --json
    """
    from weightsmith.dtypes import DTYPES
    from weightsmith.inference.model import require_transformers
    from weightsmith.inference.perplexity import perplexity as run
    from weightsmith.inference.tokens import read_text

    kind = DTYPES[parse_dtype(dtype) or "F32"].torch_name
    check_act(act)
    content = read_text(text)
    require_transformers()
    limit_threads(jobs)
    screen = Screen(
        "perplexity",
        {"quiet": quiet, "verbose": False, "json": as_json, "output": "", "dry_run": False},
    )
    screen.observer.begin(len(content.encode()))
    try:
        result = run(
            located(model, screen.notice),
            content,
            against=against and located(against, screen.notice),
            window=window,
            stride=stride,
            tokens=tokens,
            dtype=kind,
            device=device,
            act=act,
            tick=screen.observer.tick,
        )
    finally:
        screen.close()
    if as_json:
        print(json.dumps({"model": model, "against": against, **result.facts()}))
        return
    lines = [
        ("perplexity", f"{result.perplexity:.4f}"),
        ("bits per byte", f"{result.bits_per_byte:.4f}"),
        ("scored", f"{result.scored} tokens, {result.nbytes} bytes of {printable(str(text))}"),
        ("windows", f"of {result.window} tokens, {result.stride} apart"),
    ]
    if result.parent is not None:
        facts = result.facts()["parent"]
        lines += [
            ("parent", f"{facts['perplexity']:.4f}"),
            ("KL from parent", f"{result.parent.kl:.5f} nats per token"),
            ("top-1 agreement", f"{result.parent.agreement:.4f}"),
        ]
    for name, value in lines:
        print(f"{name:16} {value}")


def limit_threads(jobs: int | None) -> None:
    """Give torch as many threads as asked for, or as there are CPUs for us."""
    import torch

    torch.set_num_threads(jobs or available_cpus())
