"""The `weightsmith` command: subcommands from the operator registry, exit codes from the errors."""

import contextlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import weightsmith
from weightsmith.errors import ExitCode, WeightsmithError

if TYPE_CHECKING:
    from weightsmith.cli.command import Command

DEBUG = "WEIGHTSMITH_DEBUG"
COMPLETION = "_WEIGHTSMITH_COMPLETE"  # typer's, for the shell
OTHERS = (
    "bench",
    "calibrate",
    "compare",
    "extract-lora",
    "generate",
    "inspect",
    "perplexity",
    "run",
    "sweep",
    "verify",
)


def build(word: str | None = None, take: "Callable[[Command], None] | None" = None) -> typer.Typer:
    """The command line.

    Args:
        word: the command to make, alone, because to make them all takes longer than to read a
            checkpoint's headers. If it is none, all are listed, and not made. None makes them all.
        take: gets an operator's command instead of carrying it out.
    """
    from weightsmith.cli.command import Command, command_of
    from weightsmith.operators.registry import operator_named, operators

    app = typer.Typer(
        name="weightsmith",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    carry_out = take or Command.carry_out
    if word in OTHERS:
        app.command(word)(_other(word))
    elif word and (operator := operator_named(word)):
        app.command(word)(command_of(operator, carry_out))
    else:
        listed = word is not None
        for name, operator in operators().items():
            app.command(name)(_listed(operator) if listed else command_of(operator, carry_out))
        for name in OTHERS:
            app.command(name)(_listed(_other(name)) if listed else _other(name))
    return app


def _other(name: str) -> Callable[..., None]:
    """A command that is no operator."""
    name = name.replace("-", "_")
    command: Callable[..., None] = getattr(import_module(f"weightsmith.cli.{name}"), name)
    return command


def _listed(described: Any) -> Callable[..., None]:
    """A command for the list of all of them, which is not called."""

    def command() -> None:
        raise AssertionError

    command.__doc__ = described.__doc__
    return command


def _version(wanted: bool) -> None:
    if wanted:
        print(f"weightsmith {weightsmith.__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Weight surgery on LLM checkpoints, as they stream by.

    Every command reads safetensors checkpoints (a directory, a file, or - for a stream), and writes
    one: to -o TARGET, or to standard output.

    \b
    weightsmith delta base tuned | weightsmith graft base instruct -o grafted
    """


def main() -> None:
    """Entry point: run, and end with the right exit code and one message."""
    # Workers run in parallel already; spin-waiting BLAS threads on busy cores cost 100 times more.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    try:
        from weightsmith.cli.chain import is_chain, run_chain

        words = sys.argv[1:]
        named = words[0] if words and not words[0].startswith("-") else ""
        completing = COMPLETION in os.environ  # of words that are not on the command line
        run_chain(words) if is_chain(words) else build(None if completing else named)()
    except WeightsmithError as error:
        if error.exit_code is ExitCode.CLOSED_PIPE:
            _silence_stdout()
        else:
            print(f"weightsmith: error: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        code = ExitCode.CLOSED_PIPE
    except KeyboardInterrupt:
        _leave(ExitCode.INTERRUPTED)
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:  # what typer makes of an interrupt
            _leave(ExitCode.INTERRUPTED)
        raise
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        print(
            f"weightsmith: internal error: {type(error).__name__}: {error}\n"
            f"  please report it, with the output of the same command under {DEBUG}=1",
            file=sys.stderr,
        )
        code = ExitCode.INTERNAL
    else:
        return
    sys.exit(int(code))


def _leave(code: ExitCode) -> NoReturn:
    """End without waiting for workers that are deep in a decomposition.

    They would come back to an interpreter that is half gone, which aborts the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(int(code))


def _silence_stdout() -> None:
    """Keep Python from complaining, at exit, about the pipe that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
