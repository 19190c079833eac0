"""bench: tokens per second and memory of a checkpoint, beside its dense parent."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightsmith.checkpoint.hub import located
from weightsmith.cli.options import Json, Quiet
from weightsmith.cli.perplexity import Threads
from weightsmith.cli.screen import human_size
from weightsmith.engine.settings import available_cpus, parse_dtype
from weightsmith.errors import UsageError

if TYPE_CHECKING:
    from weightsmith.inference.speed import Measured


def bench(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a checkpoint directory", show_default=False)
    ],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="PARENT", help="A dense checkpoint to compare with."),
    ] = None,
    prompt: Annotated[
        int, typer.Option("--prompt", min=1, metavar="N", help="Tokens that are read at once.")
    ] = 128,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="N", help="Tokens that are written.")
    ] = 32,
    dtype: Annotated[
        list[str],
        typer.Option("--dtype", metavar="DTYPE", help="Of weights, where they are not packed."),
    ] = ["float32", "bfloat16"],  # noqa: B006 - typer reads the default and copies it
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")
    ] = "cpu",
    jobs: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure decoding and prefill in tokens/s, and memory.

    Every checkpoint and dtype runs in a process of its own, one after the other: MODEL, packed
    with each --act, then PARENT. Ratios are to the fastest dense variant of this run.

    \b
    Examples:
      weightsmith bench packed/ --against model/
      weightsmith bench model/ --dtype bf16 --jobs 1 --json
    """
    from weightsmith.dtypes import DTYPES
    from weightsmith.inference.model import read_config, require_transformers
    from weightsmith.inference.speed import Settings, measure_apart

    kinds = [DTYPES[parse_dtype(each) or "F32"].torch_name for each in dtype]
    require_transformers()
    found: list[tuple[str, Measured]] = []
    for address in (model, against):
        if address is None:
            continue
        where = located(address, partial(print, file=sys.stderr))
        packed = "quantization_config" in read_config(where)
        if packed and address == against:
            raise UsageError("--against is packed too", file=address, expected="a dense checkpoint")
        for kind in kinds[:1] if packed else kinds:
            settings = Settings(
                str(Path(where)),
                kind,
                ("int8", "int16", "float32"),
                prompt,
                tokens,
                jobs or available_cpus(),
                device,
            )
            found += [(address, each) for each in measure_apart(settings)]
    if as_json:
        print(json.dumps([{"model": name, **asdict(each)} for name, each in found]))
    elif not quiet:
        _table(found)


def _table(found: list[tuple[str, "Measured"]]) -> None:
    dense = [each for _, each in found if not each.act]
    titles = ("decode/s", "x", "by CPU s", "x", "prefill/s", "weights", "peak")
    print(f"{'model':24} {'layers':16}" + "".join(f" {title:>9}" for title in titles))
    for name, each in found:
        cells = []
        for rate, best in (
            (each.decode, max((d.decode for d in dense), default=0)),
            (each.cpu, max((d.cpu for d in dense), default=0)),
        ):
            cells += [f"{rate:.1f}", f"{rate / best:.2f}" if best else ""]
        cells += [f"{each.prefill:.1f}", human_size(each.weights), human_size(each.peak)]
        kind = f"packed, {each.act}" if each.act else each.dtype
        print(f"{name[-24:]:24} {kind:16}" + "".join(f" {cell:>9}" for cell in cells))
