"""The GPU's ternary kernels: by the interpreter, compiled ahead of time, and their PTX read.

None of this needs a GPU; tests/kernels/test_ternary_gpu.py has what does.
"""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

import torch
from support import environment
from trits import planes
from weightsmith.kernels.ternary_gemm import Packed, launch, tuning
from weightsmith.kernels.ternary_gemm import triton as kernels

tl = triton.language
KINDS = {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32}
ARCHITECTURES = (80, 90)


def test_the_interpreter_computes_what_the_reference_does() -> None:
    """In a process of its own: triton's own functions are decorated when triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", Path(__file__).with_name("interpreted.py")],
        check=False,
        capture_output=True,
        env=environment() | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout.decode()
    assert b"skipped" not in done.stdout


def test_regimes_and_tuning_off_the_gpu() -> None:
    assert [launch.form_of(m) for m in (1, 4, 5, 64, 65)] == [
        "add",
        "add",
        "trits",
        "trits",
        "expanded",
    ]
    w = Packed.of(*planes(5, 8, 64, 2, 64), 64)
    for form in tuning.DEFAULTS:
        chosen = tuning.tuned(torch.zeros(1, 64), w, form, lambda _: None)
        assert chosen == tuning.DEFAULTS[form]
        for tokens in (1, 16, 17, 64, 65, 4096):
            worth = list(tuning.candidates(form, tokens, 128, 2, 99 << 10))
            assert worth
            assert all(tuning.shared_bytes(o, 128, 2) <= 99 << 10 for o in worth)
    few = list(tuning.candidates("expanded", 65, 128, 4, 99 << 10))
    assert few == []


# Ahead of time.


def compiled(kernel: Any, constants: dict[str, Any], architecture: int, **options: Any) -> Any:
    """The kernel for a card that is not here; pointers and sizes are aligned as torch aligns them."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kind = options.pop("kind", "fp32")
    pointers = {"x_ptr": f"*{kind}", "codes_ptr": "*u8", "scales_ptr": "*fp16"}
    pointers |= {"out_ptr": f"*{kind}", "partial_ptr": "*fp32"}
    names = kernel.arg_names
    signature = {
        n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names
    }
    aligned = [n for n in names if n in pointers or n in ("inputs", "rows")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": True, **options})


def cases(*, every: bool) -> Iterator[tuple[Any, dict[str, Any], dict]]:
    """(kernel, constants, options), of all configurations or of a few."""
    names = {"add": "gemv", "trits": "gemm_trits", "expanded": "gemm_expanded"}
    for form, name in names.items():
        configurations = tuning.CANDIDATES[form] if every else [tuning.DEFAULTS[form]]
        seen = set()
        for configuration in configurations:
            options = {k: v for k, v in configuration.items() if k != "SPLITS"}
            if tuple(options.items()) in seen:
                continue
            seen.add(tuple(options.items()))
            warps = {k: options.pop(k) for k in ("num_warps", "num_stages")}
            shapes = [(s, p) for s in (32, 64, 128) for p in (1, 2, 3)]
            for span, count in shapes if every else [(128, 2), (32, 3)]:
                # Every dtype at the usual shape; the others differ in nothing that dtypes see.
                for kind in KINDS if every and (span, count) == (128, 2) else ("fp16",):
                    if tuning.shared_bytes(configuration, span, 4 if kind == "fp32" else 2) > 99000:
                        continue
                    constants = {"SPAN": span, "PLANES": count, **options}
                    if form != "add":
                        constants["KIND"] = KINDS[kind]
                    yield getattr(kernels, name), constants, {**warps, "kind": kind}
    yield kernels.reduce, {"BLOCK": 1024}, {"kind": "fp16"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_ahead_of_time(architecture: int) -> None:
    for kernel, constants, options in cases(every=False):
        binary = compiled(kernel, constants, architecture, **options)
        assert len(binary.asm["cubin"]) > 0
        assert binary.metadata.shared <= 99 << 10
        assert ("mma" in binary.asm["ptx"]) == kernel.__name__.startswith("gemm")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_configurations_compile_ahead_of_time(architecture: int) -> None:
    for kernel, constants, options in cases(every=True):
        binary = compiled(kernel, constants, architecture, **options)
        assert len(binary.asm["cubin"]) > 0, (constants, options)


# PTX.

_MULTIPLICATION = re.compile(r"(?:mul|fma|mad)\.\S*f(?:16|32|64)\S*$|(?:mul|fma|mad)\.\S*bf16\S*$")


def loop_of(ptx: str) -> list[tuple[str, list[str]]]:
    """(opcode, operands) of the instructions between a label and the branch back to it."""
    lines = [re.sub(r"//.*", "", line).strip() for line in ptx.splitlines()]
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\$\w+):$", line))}
    loops = []
    for i, line in enumerate(lines):
        back = re.search(r"\bbra\S*\s+(\$\w+);", line)
        if back and labels[back[1]] < i:
            loops.append(lines[labels[back[1]] : i])
    assert len(loops) == 1, "one loop over the spans"
    instructions = []
    for line in loops[0]:
        found = re.match(r"(?:@!?%\w+\s+)?([a-z][\w.]+)\s+(.*);$", line)
        if found:
            instructions.append((found[1], re.findall(r"%\w+", found[2])))
    return instructions


def unscaled(ptx: str) -> list[str]:
    """Floating multiplications in the loop that no widened scale takes part in."""
    loop = loop_of(ptx)
    scales = {operands[0] for opcode, operands in loop if opcode == "cvt.f32.f16"}
    assert scales, "the scales are the only float16 here"
    return [
        f"{opcode} {operands}"
        for opcode, operands in loop
        if _MULTIPLICATION.match(opcode) and not scales & set(operands[1:])
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("span", "count"), [(128, 2), (64, 3), (32, 1)])
def test_gemv_multiplies_by_nothing_but_scales(architecture: int, span: int, count: int) -> None:
    constants = {"SPAN": span, "PLANES": count, "HALVES": 16}
    ptx = compiled(kernels.gemv, constants, architecture, num_warps=4, num_stages=2).asm["ptx"]
    assert unscaled(ptx) == []
    opcodes = Counter(opcode for opcode, _ in loop_of(ptx))
    multiplications = sum(n for opcode, n in opcodes.items() if _MULTIPLICATION.match(opcode))
    # At span 128 a thread multiplies once for its 16 inputs of a row and plane; at shorter spans
    # several threads share them, and add up across.
    additions = opcodes["add.f32"] + opcodes["sub.f32"] + opcodes["add.rn.f32"]
    assert multiplications > 0
    assert additions == 15 * multiplications if span == 128 else additions >= 5 * multiplications
    assert not any("mma" in opcode for opcode in opcodes)


MULTIPLYING = """
import triton, triton.language as tl

@triton.jit
def gemv(x_ptr, codes_ptr, scales_ptr, out_ptr, n):
    i = tl.arange(0, 128)
    y = tl.zeros((128,), tl.float32)
    for span in range(n):
        codes = tl.load(codes_ptr + span * 128 + i).to(tl.int32)
        trits = ((codes & 3) - 1).to(tl.float32)
        scale = tl.load(scales_ptr + span).to(tl.float32)
        y += scale * (trits * tl.load(x_ptr + span * 128 + i))
    tl.store(out_ptr + i, y)
"""


def test_a_kernel_that_multiplies_weights_is_found_out(tmp_path: Path) -> None:
    source = tmp_path / "multiplying.py"
    source.write_text(MULTIPLYING)
    spec = importlib.util.spec_from_file_location("multiplying", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert unscaled(compiled(module.gemv, {}, 80).asm["ptx"])
