"""Every task with the tools that do it: commands, what they read, and who judges the results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cases import HERE, LAMBDA, Case, mergekit_linear
from measure import Command

WEIGHTSMITH = "weightsmith"
# The peer's environment, by its name in rivals.py; None where it could not be installed.
Pythons = Mapping[str, Path | None]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One row of the table.

    Attributes:
        name: as printed.
        command: None where it could not be installed.
        rehearsal: loads the same program and libraries.
        rounds: at most so many.
    """

    name: str
    command: Command | None
    rehearsal: Command
    rounds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One task.

    Attributes:
        name: as printed.
        inputs: checkpoints that all tools read.
        tools: a peer is held against the nearest weightsmith above it.
        judge: script and arguments, to which the results are added.
    """

    name: str
    inputs: tuple[Path, ...]
    tools: tuple[Tool, ...]
    judge: Command

    def cases(self) -> dict[Tool, Case]:
        """What is measured, by tool."""
        return {
            tool: Case(
                name=f"{self.name}: {tool.name}",
                pipeline=(tool.command,),
                inputs=self.inputs,
                rehearsal=tool.rehearsal,
                rounds=tool.rounds,
                keep=f"{number}",
            )
            for number, tool in enumerate(self.tools)
            if tool.command is not None
        }


class Contests:
    """The tasks, for checkpoints and environments that are where the arguments say.

    Args:
        work: where base, instruct and tuned are, small-base and small-instruct, and the target.
        python: weightsmith's.
        pythons: the peers'.
    """

    def __init__(self, work: Path, python: Path, pythons: Pythons) -> None:
        self._work, self._python, self._pythons = work, python, pythons
        self._target = work / "target"
        self._base, self._instruct, self._tuned = (
            work / name for name in ("base", "instruct", "tuned")
        )

    def __iter__(self) -> Iterator[Contest]:
        yield self._interpolate()
        yield self._graft()
        yield self._timber()
        yield self._memristor()
        yield self._quantise()

    def _interpolate(self) -> Contest:
        inputs = (self._base, self._instruct)
        return Contest(
            name="interpolate",
            inputs=inputs,
            tools=(
                self._ours("", "interpolate", *inputs, "--lambda", LAMBDA),
                self._mergekit("linear", mergekit_linear(*inputs)),
                self._plain("MI's method", "mi_plain.py", *inputs, LAMBDA),
            ),
            judge=("judge_sums.py", "interpolate", LAMBDA, *inputs),
        )

    def _graft(self) -> Contest:
        inputs = (self._base, self._instruct, self._tuned)
        arithmetic = (
            f"merge_method: task_arithmetic\nbase_model: {self._base}\nmodels:\n"
            + "".join(
                f"  - model: {model}\n    parameters: {{weight: 1}}\n" for model in inputs[1:]
            )
        )
        return Contest(
            name="graft",
            inputs=inputs,
            tools=(
                self._ours("", "graft", *inputs),
                self._mergekit("task_arithmetic", f"{arithmetic}dtype: bfloat16\n"),
                self._mergekit(
                    "task_arithmetic, in float32",
                    f"{arithmetic}dtype: float32\nout_dtype: bfloat16\n",
                    rounds=1,
                ),
                self._plain("Shadow-FT's formula", "shadow_plain.py", *inputs),
            ),
            judge=("judge_sums.py", "graft", *inputs),
        )

    def _timber(self) -> Contest:
        inputs = (self._work / "small-base", self._work / "small-instruct")
        return Contest(
            name="timber",
            inputs=inputs,
            tools=(
                self._ours("", "timber", *inputs),
                self._plain("the script's method", "timber_plain.py", *inputs),
            ),
            judge=("judge_sums.py", "timber", *inputs),
        )

    def _memristor(self) -> Contest:
        return Contest(
            name="memristor",
            inputs=(self._base,),
            tools=(
                self._ours("", "memristor", self._base, "--device", "pcm"),
                self._rival("aihwkit", "PCMLikeNoiseModel", "aihwkit_plain.py", rounds=1),
            ),
            judge=("judge_noise.py", self._base),
        )

    def _quantise(self) -> Contest:
        command = ("ptqtp", self._base)
        return Contest(
            name="ptqtp",
            inputs=(self._base,),
            tools=(
                self._ours(", two trit planes", *command),
                self._ours(
                    ", `--ratio 3:2 --format int4`", *command, "--ratio", "3:2", "--format", "int4"
                ),
                self._rival("compressed-tensors", "int4, to nearest", "int4_plain.py", rounds=2),
            ),
            judge=("judge_weights.py", self._base),
        )

    def _ours(self, shown: str, *arguments: str | Path) -> Tool:
        tool = self._python.parent / "weightsmith"
        command = (tool, *arguments, "-q", "-o", self._target)
        return Tool(name=WEIGHTSMITH + shown, command=command, rehearsal=(tool, "--help"))

    def _plain(self, name: str, script: str, *arguments: str | Path) -> Tool:
        return Tool(
            name=name,
            command=(self._python, HERE / script, *arguments, self._target),
            rehearsal=(self._python, "-c", "import torch, safetensors.torch"),
            rounds=2,
        )

    def _mergekit(self, method: str, recipe: str, rounds: int = 2) -> Tool:
        file = self._work / f"{method}.yaml"
        python = self._pythons["mergekit"]
        if python is not None:
            file.write_text(recipe)
        program = python and python.parent / "mergekit-yaml"
        return Tool(
            name=f"mergekit {method}",
            command=program and (program, file, self._target, "-j", "1"),
            rehearsal=(program or "", "--help"),
            rounds=rounds,
        )

    def _rival(self, peer: str, shown: str, script: str, rounds: int) -> Tool:
        python = self._pythons[peer]
        return Tool(
            name=f"{peer} {shown}",
            command=python and (python, HERE / script, self._base, self._target),
            rehearsal=(python or "", "-c", "import torch, safetensors.torch"),
            rounds=rounds,
        )
