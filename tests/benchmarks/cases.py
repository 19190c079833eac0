"""What is measured: the commands, what they read, and what they are held against."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import Command

HERE = Path(__file__).resolve().parent
LAMBDA = "0.8"
MEMORY = 700e6
PROJECTION_WEIGHTS = 16 * 60_817_408  # of a layer of synthetic.py: what memristor puts on devices

# Rows that others are held against.
COPY = "cp"
SYNCED = "cp, then sync"
START_INTERPOLATE = "start-up: interpolate --dry-run"
START_GRAFT = "start-up: graft --dry-run"
MERGEKIT = "mergekit linear"
# What stands under `parameters` in recipes that are carried out by run and by mergekit.
RECIPES = {
    "slerp": "parameters: {t: 0.4}",
    "task_arithmetic": "parameters: {weight: 0.5}",
    "ties": "parameters: {weight: 0.5, density: 0.2}",
    "dare_ties": "parameters: {weight: 0.5, density: 0.2}",
}
PLAIN = "MI's method"
SMALL = "graft -o dir"
LARGE = "graft -o dir, three times the size"
NORMAL = "torch normal_, as many values as weights on devices"
START_NORMAL = "start-up: torch"
START_MEMRISTOR = "start-up: memristor --dry-run"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """What a case is to keep; None where no bar is set.

    Attributes:
        copy: wall time in that of the case named by `against`, start-up taken off.
        against: the copy that does the same work on the disk.
        mergekit: how many times faster than mergekit, imports included.
        peer: the case of mergekit that does the same.
        plain: how many times faster than MI's method, imports included.
        wall: seconds.
        anonymous: bytes.
        normal: wall time for each draw in that of NORMAL, start-ups taken off.
        draws: normal deviates for each weight on devices.
    """

    copy: float | None = None
    against: str | None = None
    mergekit: float | None = None
    peer: str = MERGEKIT
    plain: float | None = None
    wall: float | None = None
    anonymous: float | None = None
    normal: float | None = None
    draws: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        name: as printed.
        pipeline: commands, each reading what the one before it prints.
        inputs: checkpoints that the commands read.
        redirect: whether the last command's standard output is the target.
        rehearsal: a command that loads the same program and libraries.
        rounds: at most so many rounds.
        startup: the case whose wall time may be taken off.
        keep: name under which the last round's result stays for the exactness check.
    """

    name: str
    pipeline: tuple[Command, ...]
    inputs: tuple[Path, ...] = ()
    redirect: bool = False
    rehearsal: Command | None = None
    rounds: int | None = None
    startup: str | None = None
    keep: str | None = None
    bars: Bars = Bars()


def small_cases(work: Path, python: Path, mergekit: Path | None) -> Iterator[Case]:
    """Everything that is measured on the 3 GB checkpoints."""
    tool = python.parent / "weightsmith"
    base, instruct, tuned, target = (
        work / name for name in ("base", "instruct", "tuned", "target")
    )
    copy = ("cp", "-r", "--reflink=never", base, target)
    rehearsal = (tool, "--help")
    interpolate = (tool, "interpolate", base, instruct, "--lambda", LAMBDA, "-q")
    graft = (tool, "graft", base, instruct, "-q")
    yield Case(name=COPY, pipeline=(copy,), inputs=(base,))
    yield Case(
        name=SYNCED,
        # Only what was written is waited for, not what other programs have yet to write.
        pipeline=(("sh", "-c", '"$@" && sync "$5" "$5"/*', "sh", *copy),),
        inputs=(base,),
    )
    for target_options, against in (((), COPY), (("-o", target), SYNCED)):
        shown = "-o dir" if target_options else "> file"
        yield Case(
            name=f"interpolate {shown}",
            pipeline=((*interpolate, *target_options),),
            inputs=(base, instruct),
            redirect=not target_options,
            rehearsal=rehearsal,
            startup=START_INTERPOLATE,
            keep="weightsmith" if target_options else None,
            bars=Bars(copy=1.0, against=against, mergekit=10, plain=4, anonymous=MEMORY),
        )
        yield Case(
            name=SMALL if target_options else f"graft {shown}",
            pipeline=((*graft, tuned, *target_options),),
            inputs=(base, instruct, tuned),
            redirect=not target_options,
            rehearsal=rehearsal,
            startup=START_GRAFT,
            bars=Bars(copy=1.5, against=against, anonymous=MEMORY),
        )
    yield Case(
        name="delta \\| graft > file",
        pipeline=((tool, "delta", base, tuned, "-q"), graft),
        inputs=(base, instruct, tuned),
        redirect=True,
        rehearsal=rehearsal,
        startup=START_GRAFT,
        bars=Bars(against=COPY),
    )
    yield from memristor_cases(tool, python, base)
    yield Case(
        name="ptqtp -o dir",
        pipeline=((tool, "ptqtp", base, "-q", "-o", target),),
        inputs=(base,),
        rehearsal=rehearsal,
        rounds=2,
        bars=Bars(against=SYNCED, anonymous=MEMORY),
    )
    yield Case(
        name=START_INTERPOLATE,
        pipeline=((*interpolate, "--dry-run"),),
        inputs=(base, instruct),
        rehearsal=rehearsal,
    )
    yield Case(
        name=START_GRAFT,
        pipeline=((*graft, tuned, "--dry-run"),),
        inputs=(base, instruct, tuned),
        rehearsal=rehearsal,
    )
    yield Case(
        name="--help", pipeline=((tool, "--help"),), rehearsal=rehearsal, bars=Bars(wall=0.2)
    )
    yield Case(
        name="inspect, 4 shards",
        pipeline=((tool, "inspect", base),),
        inputs=(base,),
        rehearsal=rehearsal,
        bars=Bars(wall=0.3),
    )
    yield Case(
        name=PLAIN,
        pipeline=((python, HERE / "mi_plain.py", base, instruct, LAMBDA, target),),
        inputs=(base, instruct),
        rehearsal=(python, "-c", "import torch, safetensors.torch"),
        rounds=2,
        keep="MI's method",
    )
    yield from recipe_cases(work, tool, mergekit)
    if mergekit is not None:
        config = work / "mergekit.yaml"
        config.write_text(mergekit_linear(base, instruct))
        yield Case(
            name=MERGEKIT,
            pipeline=((mergekit, config, target, "-j", "1"),),
            inputs=(base, instruct),
            rehearsal=(mergekit, "--help"),
            rounds=2,
            keep="mergekit",
        )


def recipe_cases(work: Path, tool: Path, mergekit: Path | None) -> Iterator[Case]:
    """mergekit's recipes, carried out by run and by mergekit itself."""
    base, instruct, tuned, target = (
        work / name for name in ("base", "instruct", "tuned", "target")
    )
    for method, parameters in RECIPES.items():
        recipe = work / f"{method}.yaml"
        models = (instruct,) if method == "slerp" else (instruct, tuned)
        recipe.write_text(
            f"merge_method: {method}\nbase_model: {base}\ndtype: bfloat16\n"
            f"{parameters}\nmodels:\n  - model: {base}\n"
            + "".join(f"  - model: {model}\n" for model in models)
        )
        peer = f"mergekit {method}"
        yield Case(
            name=f"run {method}",
            pipeline=((tool, "run", recipe, "-q", "-o", target),),
            inputs=(base, *models),
            rehearsal=(tool, "--help"),
            rounds=2,
            bars=Bars(mergekit=3, peer=peer),
        )
        if mergekit is not None:
            yield Case(
                name=peer,
                pipeline=((mergekit, recipe, target, "-j", "1"),),
                inputs=(base, *models),
                rehearsal=(mergekit, "--help"),
                rounds=1,
            )


def memristor_cases(tool: Path, python: Path, model: Path) -> Iterator[Case]:
    """Noise on every projection, against the mere drawing of so many numbers."""
    memristor = (tool, "memristor", model, "-q")
    imports = (python, "-c", "import torch")
    for device, draws in (("gaussian", 1), ("pcm", 2)):
        yield Case(
            name=f"memristor --device {device} > file",
            pipeline=((*memristor, "--device", device),),
            inputs=(model,),
            redirect=True,
            rehearsal=(*memristor, "--dry-run"),
            startup=START_MEMRISTOR,
            bars=Bars(normal=4.0, draws=draws, anonymous=MEMORY),
        )
    yield Case(
        name=NORMAL,
        pipeline=((python, HERE / "normal.py", str(PROJECTION_WEIGHTS)),),
        rehearsal=imports,
        startup=START_NORMAL,
    )
    yield Case(name=START_NORMAL, pipeline=(imports,), rehearsal=imports)
    yield Case(
        name=START_MEMRISTOR,
        pipeline=((*memristor, "--dry-run"),),
        inputs=(model,),
        rehearsal=(*memristor, "--dry-run"),
    )


def large_case(work: Path, python: Path) -> Case:
    """The graft of the small checkpoints, on larger ones."""
    base, tuned = work / "base", work / "tuned"
    tool = python.parent / "weightsmith"
    graft = (tool, "graft", base, work / "instruct", tuned, "-q", "-o", work / "target")
    return Case(
        name=LARGE,
        pipeline=(graft,),
        inputs=(base, tuned),
        rehearsal=(tool, "--help"),
        bars=Bars(anonymous=MEMORY),
    )


def mergekit_linear(first: Path, second: Path) -> str:
    """mergekit's recipe for what interpolate computes."""
    return f"""\
merge_method: linear
dtype: bfloat16
models:
  - model: {first}
    parameters: {{weight: {1 - float(LAMBDA):.6g}}}
  - model: {second}
    parameters: {{weight: {LAMBDA}}}
"""
