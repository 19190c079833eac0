"""The `weightsmith` command: subcommands from the operator registry, exit codes from the errors."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import weightsmith
from weightsmith.errors import ExitCode, WeightsmithError

if TYPE_CHECKING:
    from weightsmith.cli.command import Command

DEBUG = "WEIGHTSMITH_DEBUG"
COMPLETION = "_WEIGHTSMITH_COMPLETE"  # typer's, for the shell


def build(word: str | None = None, take: "Callable[[Command], None] | None" = None) -> typer.Typer:
    """The command line.

    Args:
        word: the command to make. The others are only listed, because to make them all takes longer
            than to read a checkpoint's headers. None makes them all.
        take: gets an operator's command instead of carrying it out.
    """
    from weightsmith.cli.bench import bench
    from weightsmith.cli.calibrate import calibrate
    from weightsmith.cli.command import Command, command_of
    from weightsmith.cli.compare import compare
    from weightsmith.cli.extract_lora import extract_lora
    from weightsmith.cli.generate import generate
    from weightsmith.cli.inspect import inspect
    from weightsmith.cli.perplexity import perplexity
    from weightsmith.cli.run import run
    from weightsmith.cli.sweep import sweep
    from weightsmith.cli.verify import verify
    from weightsmith.operators.registry import operators

    app = typer.Typer(
        name="weightsmith",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    known = operators()
    others: dict[str, Callable[..., None]] = {
        "bench": bench,
        "calibrate": calibrate,
        "compare": compare,
        "extract-lora": extract_lora,
        "generate": generate,
        "inspect": inspect,
        "perplexity": perplexity,
        "run": run,
        "sweep": sweep,
        "verify": verify,
    }
    for name, described in {**known, **others}.items():
        if word is not None and name != word:
            command = _listed(described.__doc__)
        elif name in known:
            command = command_of(known[name], take or Command.carry_out)
        else:
            command = others[name]
        app.command(name)(command)
    return app


def _listed(text: str | None) -> Callable[..., None]:
    """A command for the list of all of them, which is not called."""

    def command() -> None:
        raise AssertionError

    command.__doc__ = text
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
        named = next((word for word in words if not word.startswith("-")), "")
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
