"""A new operator is one class: registered, it is a command with help, dry run and pipe."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import Trio, assert_fails, decode, encode, environment, from_bf16, read, to_bf16

TOY = '''
"""Everything that a new operator needs."""
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from weightsmith.operators.numbers import decimal
from weightsmith.header import TensorSpec
from weightsmith.operators.operator import (
    Draft, Granularity, Input, Operator, Slot, option, whole
)
from weightsmith.operators.registry import register
from weightsmith.selection import Values


@register
@dataclass(frozen=True, kw_only=True)
class Shift(Operator):
    """Subtract each row's mean times a factor."""

    name: ClassVar[str] = "shift"
    granularity: ClassVar[Granularity] = Granularity.ROW
    factor: Values[Decimal] = option(
        "--factor", "how much of the mean", default="1", convert=decimal, per_tensor=True
    )

    def function(self):
        import numpy as np

        def shift(unit):
            values = unit.inputs[0].float32()
            mean = values.mean(axis=-1, keepdims=True, dtype=np.float32)
            return unit.out.store(values - np.float32(float(unit.parameters["factor"])) * mean)

        return shift


@register
@dataclass(frozen=True, kw_only=True)
class Sums(Operator):
    """Each row's float32 sum with weights from another tensor, and the rows counted."""

    name: ClassVar[str] = "sums"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("model", "the checkpoint", stdin=True),
        Input("weights", "one vector for each width", flag="--weights"),
    )
    granularity: ClassVar[Granularity] = Granularity.ROW

    def plan(self, inputs, request):
        vectors = {} if len(inputs) < 2 else {
            spec.shape[0]: Slot(1, spec, whole=True) for spec in inputs[1].header.tensors
        }
        return Draft(tuple(
            whole(
                TensorSpec(spec.name, "F32", (*spec.shape[:-1], 1)),
                (Slot(0, spec), *([vectors[spec.shape[-1]]] if vectors else [])),
                True,
            )
            for spec in inputs[0].header.tensors if len(spec.shape) > 1
        ))

    def function(self):
        def total(unit):
            values = unit.inputs[0].float32()
            for vector in unit.inputs[1:]:
                values = values * vector.float32()
            unit.report({"rows": len(values)})
            return unit.out.store(values.sum(axis=-1, keepdims=True))

        return total


from weightsmith.cli.app import main
main()
'''


@pytest.fixture
def toy(here: Path) -> list[str]:
    Path("toy.py").write_text(TOY)
    return [sys.executable, "toy.py"]


def run(command: list[str], **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, env=environment(), check=False, **options)


def test_it_has_help(toy: list[str]) -> None:
    assert b"shift" in run([*toy, "--help"]).stdout
    help_text = run([*toy, "shift", "--help"]).stdout.decode()
    for part in ("Subtract each row's mean", "--factor [GLOB=]VALUE", "--select", "[default: 1]"):
        assert part in help_text


def test_it_has_a_dry_run(toy: list[str], trio: Trio) -> None:
    done = run([*toy, "shift", str(trio.base), "--exclude", "*norm*", "--dry-run"])
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(trio.tensors["base"])
    assert {line.split()[0] for line in lines if "norm" in line} == {"copied"}
    assert {line.split()[0] for line in lines if "norm" not in line} == {"changed"}


@pytest.mark.parametrize("memory", ["1kB", "1GiB"])
def test_it_works_in_a_pipe(toy: list[str], trio: Trio, memory: str) -> None:
    content = (trio.base / "model.safetensors").read_bytes()
    factors = ["--factor", "0.5", "--factor", "*.up_proj.*=2", "--memory", memory]
    done = run([*toy, "shift", "--exclude", "*norm*", *factors], input=content)
    assert done.returncode == 0, done.stderr
    found, metadata = decode(done.stdout)
    assert '"operator":"shift"' in metadata["weightsmith.provenance"]
    for name, (dtype, shape, data) in trio.tensors["base"].items():
        values = from_bf16(data).reshape(shape)
        factor = np.float32(2 if "up_proj" in name else 0.5)
        shifted = values - factor * values.mean(axis=-1, keepdims=True, dtype=np.float32)
        expected = data if "norm" in name else to_bf16(shifted).tobytes()
        assert found[name] == (dtype, shape, expected)


@pytest.mark.parametrize("memory", ["1kB", "1GiB"])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_may_change_their_length(
    toy: list[str], trio: Trio, memory: str, weighted: bool
) -> None:
    rng = np.random.default_rng(0)
    vectors = {n: rng.standard_normal(n).astype(np.float32) for n in (24, 56)}
    stored = {f"v{n}": ("F32", (n,), v.tobytes()) for n, v in vectors.items()}
    Path("weights.safetensors").write_bytes(encode(stored))
    options = ["--weights", "weights.safetensors"] if weighted else []
    options += ["-o", "out.safetensors", "--memory", memory, "--json"]
    done = run([*toy, "sums", str(trio.base), *options])
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    found = read(Path("out.safetensors"))
    assert len(found) == 6
    for name, (dtype, shape, data) in found.items():
        _, whole, original = trio.tensors["base"][name]
        values = from_bf16(original).reshape(whole)
        if weighted:
            values = values * vectors[whole[-1]]
        assert (dtype, shape) == ("F32", (whole[0], 1))
        assert data == values.sum(axis=-1, keepdims=True).tobytes()
        assert figures[name] == {"rows": whole[0]}


def test_its_errors_are_ours(toy: list[str], trio: Trio) -> None:
    assert_fails(
        run([*toy, "shift", str(trio.base), "--factor", "x"]), 2, "--factor x: not a number"
    )
    done = run([*toy, "shift"], stdin=subprocess.DEVNULL)
    assert_fails(done, 2, "... | weightsmith shift")
