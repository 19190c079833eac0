"""Options that mean the same in every command, and how their values are read."""

from inspect import Parameter
from typing import Annotated, Any

import typer

from weightsmith.engine.settings import DEFAULT_MEMORY, Settings, parse_dtype, parse_size
from weightsmith.errors import UsageError
from weightsmith.selection import Selection


def is_full(digest: str) -> bool:
    """Whether a --digest value asks for all bytes.

    Raises:
        UsageError: it is neither sampled nor full.
    """
    if digest not in ("sampled", "full"):
        raise UsageError(f"--digest {digest}", expected="sampled or full")
    return digest == "full"


Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Digest = Annotated[
    str,
    typer.Option("--digest", metavar="sampled|full", help="What fingerprints of inputs read."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every tensor.")]
Select = Annotated[
    list[str], typer.Option("--select", metavar="GLOB", help="Work on these tensors only.")
]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="GLOB", help="Leave these tensors alone.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the target.")]

Stream = Annotated[
    bool,
    typer.Option("--stream", help="Read hf:// by byte ranges; download no weights."),
]

Act = Annotated[
    str,
    typer.Option(
        "--act", metavar="int8|int16|float32", help="What packed layers round activations to."
    ),
]


def check_act(act: str) -> str:
    """The value of --act.

    Raises:
        UsageError: it is another word.
    """
    if act not in ("int8", "int16", "float32"):
        raise UsageError(f"--act {act}", expected="int8, int16 or float32")
    return act


_RUN_OPTIONS: dict[str, tuple[Any, Any]] = {
    "output": (
        Annotated[
            str,
            typer.Option(
                "--output",
                "-o",
                metavar="TARGET",
                help="A directory, a file NAME.safetensors, hf://owner/name, or - for stdout.",
            ),
        ],
        "-",
    ),
    "select": (Select, []),
    "exclude": (Exclude, []),
    "dtype": (
        Annotated[
            str | None,
            typer.Option("--dtype", metavar="DTYPE", help="float32, float16 or bfloat16."),
        ],
        None,
    ),
    "jobs": (
        Annotated[
            int | None,
            typer.Option("--jobs", min=1, metavar="N", help="Worker threads [CPUs allowed]."),
        ],
        None,
    ),
    "memory": (
        Annotated[
            str | None,
            typer.Option(
                "--memory",
                metavar="SIZE",
                help=f"Bound on the buffers' memory [{DEFAULT_MEMORY >> 20}MiB].",
            ),
        ],
        None,
    ),
    "shard_size": (
        Annotated[
            str | None,
            typer.Option(
                "--shard-size", metavar="SIZE", help="Largest shard [as the primary input's]."
            ),
        ],
        None,
    ),
    "digest": (Digest, "sampled"),
    "device": (
        Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")],
        "cpu",
    ),
    "cache": (
        Annotated[
            str | None,
            typer.Option("--cache", metavar="DIR", help="Keep decompositions for a later run."),
        ],
        None,
    ),
    "executor": (
        Annotated[
            str,
            typer.Option("--executor", metavar="local|ray", help="This machine, or a Ray cluster."),
        ],
        "local",
    ),
    "address": (
        Annotated[
            str | None,
            typer.Option("--address", metavar="ADDRESS", help="The Ray cluster [RAY_ADDRESS]."),
        ],
        None,
    ),
    "sidecars": (
        Annotated[
            str | None,
            typer.Option(
                "--sidecars",
                metavar="DIR|none",
                help="Where config and tokenizer come from [the primary input].",
            ),
        ],
        None,
    ),
    "allow_code": (
        Annotated[
            bool,
            typer.Option("--allow-code", help="Copy *.py files that a stream points to."),
        ],
        False,
    ),
    "stream": (Stream, False),
    "dry_run": (
        Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan; write nothing.")],
        False,
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")],
        False,
    ),
    "force": (
        Annotated[
            bool,
            typer.Option("--force", "-f", help="Replace the target; accept another base."),
        ],
        False,
    ),
    "json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
}


# Of a chain: how the whole run goes is for the first command to say, where it goes for the last.
FIRST_SETTINGS = ("jobs", "memory", "resume", "executor", "address")
FIRST_ONLY = (*FIRST_SETTINGS, "dry_run", "json", "quiet", "verbose")
LAST_ONLY = ("output", "shard_size")

# Only for operators that say that they listen to them.
_SPECIAL = {"device", "cache"}


def run_parameters(uses: frozenset[str]) -> list[Parameter]:
    """The shared options as parameters of a command's signature."""
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in _RUN_OPTIONS.items()
        if name not in _SPECIAL - uses
    ]


def settings_from(given: dict[str, Any]) -> Settings:
    """Settings from the values of the shared options.

    Raises:
        UsageError: one of them cannot be read.
    """
    shard_size, memory = given["shard_size"], given["memory"]
    return Settings(
        output=given["output"],
        selection=Selection(tuple(given["select"]), tuple(given["exclude"])),
        dtype=parse_dtype(given["dtype"]),
        jobs=given["jobs"],
        memory=DEFAULT_MEMORY if memory is None else parse_size(memory, "--memory"),
        shard_size=None if shard_size is None else parse_size(shard_size, "--shard-size"),
        resume=given["resume"],
        force=given["force"],
        full_digest=is_full(given["digest"]),
        sidecars=given["sidecars"],
        device=given.get("device", "cpu"),
        cache=given.get("cache"),
        executor=given["executor"],
        address=given["address"],
        allow_code=given["allow_code"],
        stream=given["stream"],
    )
