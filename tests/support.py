"""What tests are made of: tiny checkpoints, commands in real shells, float32 arithmetic by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import weightsmith as package
from weightsmith.checkpoint.layout import INDEX, shard_by_size
from weightsmith.header import Header, TensorSpec, header_length, parse_header

BIN = Path(sys.executable).parent
CONFIG = {"model_type": "llama", "torch_dtype": "bfloat16", "tie_word_embeddings": False}
SHAPES = {
    "model.embed_tokens.weight": (96, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.mlp.down_proj.weight": (24, 56),
    "model.layers.0.mlp.up_proj.weight": (56, 24),
    "model.layers.1.mlp.down_proj.weight": (24, 56),
    "model.layers.1.mlp.up_proj.weight": (56, 24),
    "model.norm.weight": (24,),
    "lm_head.weight": (96, 24),
}
WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8, "I32": 4, "U8": 1, "F8_E4M3": 1, "F64": 8}

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def to_bf16(values: Any) -> np.ndarray:
    """Round float32 to bfloat16 bits, to nearest even, independently of the code under test."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(data: bytes) -> np.ndarray:
    """Widen bfloat16 bytes to float32."""
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def random_tensors(
    seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: str = "BF16"
) -> Tensors:
    """Normal weights of a realistic size."""
    rng = np.random.default_rng(seed)
    result: Tensors = {}
    for name, shape in shapes.items():
        values = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        stored = {"BF16": to_bf16, "F16": np.float16, "F32": np.float32}[dtype](values)
        result[name] = dtype, shape, np.ascontiguousarray(stored).tobytes()
    return result


def encode(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file with the tensors in the order given."""
    specs = tuple(TensorSpec(name, dtype, shape) for name, (dtype, shape, _) in tensors.items())
    header = Header(specs, {"format": "pt"} if metadata is None else metadata)
    return header.encode() + b"".join(data for _, _, data in tensors.values())


def decode(content: bytes) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    start = 8 + header_length(content[:8], "test")
    header = parse_header(content[8:start], "test")
    assert len(content) == start + header.nbytes
    tensors: Tensors = {}
    for spec in header.tensors:
        begin = start + header.offsets[spec.name]
        tensors[spec.name] = spec.dtype, spec.shape, content[begin : begin + spec.nbytes]
    return tensors, dict(header.metadata)


def read(target: Path) -> Tensors:
    """Tensors of a file, or of all files of a directory."""
    if target.is_file():
        return decode(target.read_bytes())[0]
    result: Tensors = {}
    for path in sorted(target.glob("*.safetensors")):
        result |= decode(path.read_bytes())[0]
    return result


def write_directory(
    directory: Path,
    tensors: Tensors,
    *,
    shard_size: int | None = None,
    config: Mapping[str, Any] | None = None,
    vocabulary: Sequence[str] = ("a", "b", "c"),
) -> Path:
    """A checkpoint directory with config and tokenizer, sharded if asked."""
    directory.mkdir(parents=True)
    specs = tuple(TensorSpec(name, dtype, shape) for name, (dtype, shape, _) in tensors.items())
    layout = shard_by_size(Header(specs, {"format": "pt"}), shard_size or 1 << 60)
    for name, header in layout.files:
        part = {spec.name: tensors[spec.name] for spec in header.tensors}
        (directory / name).write_bytes(encode(part))
    if layout.index is not None:
        (directory / INDEX).write_text(layout.index)
    (directory / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    model = {"vocab": {token: number for number, token in enumerate(vocabulary)}}
    (directory / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    (directory / "README.md").write_text("the source's own card")
    return directory


@dataclass(frozen=True)
class Trio:
    """Directories of a base, a tuned base and an instruct model, and their tensors."""

    base: Path
    tuned: Path
    instruct: Path
    tensors: dict[str, Tensors]


def make_trio(root: Path, **options: Any) -> Trio:
    """Three checkpoints with the same names and shapes."""
    tensors = {
        role: random_tensors(seed) for seed, role in enumerate(("base", "tuned", "instruct"))
    }
    paths = {role: write_directory(root / role, t, **options) for role, t in tensors.items()}
    return Trio(paths["base"], paths["tuned"], paths["instruct"], tensors)


def environment() -> dict[str, str]:
    """With the tested command first on the path."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def shell(script: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a script in bash with pipefail; standard input is empty unless given."""
    command = ["bash", "-o", "pipefail", "-c", script]
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if options["stdin"] is None:
        del options["stdin"]
    return subprocess.run(
        command, capture_output=True, env=environment(), timeout=120, check=False, **options
    )


def weightsmith(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run one command without a shell."""
    command = [str(BIN / "weightsmith"), *map(str, arguments)]
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        command, capture_output=True, env=environment(), timeout=120, check=False, **options
    )


def python(code: str) -> None:
    """Run code in a Python of its own; it must succeed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def call(command: str, source: str, *options: object, target: str = "out") -> Tensors:
    """What a command with one input writes, by its Python function: it needs no process.

    Options are pairs of a flag and a value; a flag that comes again has several values.
    """
    given: dict[str, list[Any]] = {}
    for flag, value in zip(options[::2], options[1::2], strict=True):
        given.setdefault(str(flag).removeprefix("--").replace("-", "_"), []).append(value)
    parameters = {n: v[0] if len(v) == 1 else [*map(str, v)] for n, v in given.items()}
    function = getattr(package, command)
    function(source, output=target, force=True, **parameters)
    return read(Path(target))


def assert_fails(done: subprocess.CompletedProcess[bytes], code: int, *fragments: str) -> None:
    """The command ended with this code and said these things."""
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert "Traceback" not in text
    for fragment in fragments:
        assert fragment in text, text
