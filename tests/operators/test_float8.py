"""Float8 weights with scales: made dense by unpack, refused where their bytes would be added."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import (
    CONFIG,
    Tensors,
    assert_fails,
    call,
    decode,
    encode,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

from weightsmith.errors import Mismatch
from weightsmith.header import TensorSpec
from weightsmith.operators.arithmetic.float8 import table
from weightsmith.operators.float8 import Grid, block_size, grid_of

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
CONFIG8 = CONFIG | {"quantization_config": FP8}
W = "model.layers.0.mlp.up_proj.weight"


def float8(seed: int, *shape: int, kind: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32) * 40)
    return values.to(kind)


def scales(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = np.random.default_rng(seed).uniform(1e-4, 1e-2, shape).astype(np.float32)
    return torch.from_numpy(values).to(dtype)


def stored(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    name = {
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.float8_e8m0fnu: "F8_E8M0",
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
    }[tensor.dtype]
    return name, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def spread(scale: torch.Tensor, weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The scale of every element, by its definition."""
    full = scale.float().repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    return full[..., : weight.shape[-2], : weight.shape[-1]]


def dense(weight: torch.Tensor, full: torch.Tensor) -> bytes:
    return to_bf16((weight.float() * full).numpy()).tobytes()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E8M0", torch.float8_e8m0fnu),
    ],
)
def test_every_byte_has_the_value_that_torch_gives_it(name: str, kind: torch.dtype) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    np.testing.assert_array_equal(table(name), expected)
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(table(name))[real], np.signbit(expected)[real])


@pytest.mark.parametrize("memory", ["1kB", "1GiB"])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("shape", "scale_shape", "block"),
    [
        ((300, 200), (3, 2), (128, 128)),  # DeepSeek-V3: blocks at the edge are smaller
        ((256, 128), (2, 1), (128, 128)),
        ((7, 5), (), (7, 5)),  # a scale for the tensor
        ((7, 5), (1,), (7, 5)),
        ((7, 5), (7, 1), (1, 5)),  # for each row
        ((7, 5), (7,), (1, 5)),
        ((6, 256), (6, 2), (1, 128)),  # for each group of a row
        ((2, 130, 140), (2, 2, 2), (128, 128)),  # fused experts
        ((3, 4, 5), (3, 1, 1), (4, 5)),
        ((3, 4, 5), (3,), (4, 5)),
        ((1, 1), (1, 1), (1, 1)),
        ((4, 0), (1,), (4, 1)),
    ],
)
def test_weights_become_their_products(
    here: Path,
    shape: tuple[int, ...],
    scale_shape: tuple[int, ...],
    block: tuple[int, int],
    kind: torch.dtype,
    memory: str,
) -> None:
    weight, scale = float8(0, *shape, kind=kind), scales(1, *scale_shape)
    tensors = {W: stored(weight), f"{W}_scale_inv": stored(scale), "n": stored(scales(2, 4))}
    write_directory(Path("m"), tensors, config=CONFIG8)
    found = call("unpack", "m", "--memory", memory)
    grid = scale.reshape(*scale_shape, *[1] * (len(shape) - len(scale_shape)))
    full = spread(grid, weight, *block)
    assert found == {
        W: ("BF16", shape, dense(weight, full)),
        "n": tensors["n"],
    }
    config = json.loads(Path("out/config.json").read_text())
    assert config == CONFIG


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e8m0fnu])
def test_scales_of_other_dtypes(here: Path, dtype: torch.dtype) -> None:
    weight, scale = float8(0, 256, 256), scales(1, 2, 2).to(dtype)
    tensors = {W: stored(weight), f"{W}_scale": stored(scale)}
    write_directory(Path("m"), tensors, config=CONFIG8)
    expected = weight.float() * spread(scale, weight, 128, 128)
    assert call("unpack", "m", "--dtype", "fp32")[W] == (
        "F32",
        (256, 256),
        expected.numpy().tobytes(),
    )


def test_the_same_by_a_stream_in_any_order(here: Path) -> None:
    weight, scale = float8(0, 301, 201), scales(1, 3, 2)
    tensors = {f"{W}_scale_inv": stored(scale), W: stored(weight)}
    write_directory(Path("m"), tensors, config=CONFIG8)
    done = weightsmith("unpack", "m")
    assert decode(done.stdout)[0] == {
        W: ("BF16", (301, 201), dense(weight, spread(scale, weight, 128, 128)))
    }
    for order in (tensors, dict(reversed(tensors.items()))):
        piped = weightsmith("unpack", input=encode(order))
        assert decode(piped.stdout)[0] == decode(done.stdout)[0]


def test_compressed_tensors_agrees(here: Path) -> None:
    """Its own dequantize, for a scale per row and for blocks."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    weight = float8(0, 256, 384)
    cases = {
        "channel": (scales(1, 256, 1), QuantizationArgs(num_bits=8, type="float", strategy="channel")),
        "block": (
            scales(1, 2, 3),
            QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
        ),
    }  # fmt: skip
    for name, (scale, arguments) in cases.items():
        record = {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": arguments.model_dump(mode="json")}},
        }
        tensors = {W: stored(weight), f"{W}_scale": stored(scale)}
        tensors[f"{W.removesuffix('weight')}input_scale"] = stored(scales(3, 1))
        write_directory(Path(name), tensors, config=CONFIG | {"quantization_config": record})
        out = f"{name}-dense"
        done = weightsmith("unpack", name, "--dtype", "fp32", "-o", out, "--json")
        assert done.returncode == 0, done.stderr
        expected = dequantize(weight, scale, args=arguments, dtype=torch.float32)
        assert read(Path(out)) == {W: ("F32", (256, 384), expected.numpy().tobytes())}
        assert len(json.loads(done.stdout)["skipped"]) == 2
        assert "quantization_config" not in json.loads(Path(out, "config.json").read_text())


@pytest.fixture
def models(here: Path) -> dict[str, Tensors]:
    """Two float8 models with everything else in bfloat16."""
    found = {}
    for seed, role in enumerate(("a", "b")):
        tensors = random_tensors(seed, {"model.norm.weight": (24,), "lm_head.weight": (96, 24)})
        tensors[W] = stored(float8(seed, 128, 256))
        tensors[f"{W}_scale_inv"] = stored(scales(seed, 1, 2))
        write_directory(Path(role), tensors, config=CONFIG8)
        found[role] = tensors
    return found


@pytest.mark.parametrize(
    "command",
    [
        "delta a b",
        "graft a a b",
        "graft a a b --opaque copy",
        "interpolate a b --lambda 0.5 --opaque drop",
        "timber a b",
        "ptqtp a",
        "memristor a --device gaussian",
        "cat a --dtype bf16",
        "layers a --order 0,0 --dtype bf16",
        "slerp a b --t 0.5",
        "ties a b b",
    ],
)
def test_scales_are_never_taken_for_weights(models: dict[str, Tensors], command: str) -> None:
    done = weightsmith(*command.split(), "-o", "out")
    assert_fails(done, 4, "float8", f"tensor {W} in", "weightsmith unpack")
    assert not Path("out").exists()


def test_the_remedy_works(models: dict[str, Tensors]) -> None:
    script = """
        weightsmith unpack a -o dense
        weightsmith unpack b | weightsmith interpolate dense - --lambda 0.5 -o out
        """
    done = shell(script)
    assert done.returncode == 0, done.stderr
    assert read(Path("out"))[W][0] == "BF16"
    assert "quantization_config" not in json.loads(Path("out/config.json").read_text())


def test_bits_may_be_copied_and_compared(models: dict[str, Tensors]) -> None:
    script = """
        weightsmith cat a -o copy
        weightsmith delta a b --lossless -o d.safetensors
        weightsmith graft a a d.safetensors -o back
        """
    done = shell(f"set -e\n{script}")
    assert done.returncode == 0, done.stderr
    assert read(Path("copy")) == models["a"]
    assert read(Path("back")) == models["b"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"model.layers.1.mlp.up_proj.weight": ("F8_E4M3", (2,), b"12")}, "without its scale"),
        ({"x.weight_scale": ("F32", (1,), bytes(4))}, "without a float8 weight"),
        ({f"{W}_zero_point": ("F8_E4M3", (1,), b"1")}, "without its scale"),
    ],
)
def test_half_a_pair_is_refused(models: dict[str, Tensors], extra: Tensors, message: str) -> None:
    write_directory(Path("odd"), models["a"] | extra, config=CONFIG8)
    assert_fails(weightsmith("unpack", "odd", "-o", "out"), 4, message, next(iter(extra)))


def test_all_or_nothing(models: dict[str, Tensors]) -> None:
    assert_fails(weightsmith("unpack", "a", "--select", W, "-o", "out"), 2, "together")


def grid(weight: tuple[int, ...], scale: tuple[int, ...], **config) -> Grid:
    record = {"quantization_config": config} if config else {}
    return grid_of(TensorSpec("w", "F8_E4M3", weight), TensorSpec("s", "F32", scale), record, "m")


def test_blocks_that_are_not_known_are_refused() -> None:
    assert grid((192, 192), (2, 2), weight_block_size=[128, 128]).rows == 128
    assert grid((192, 192), (2, 2), weight_block_size=[96, 96]).rows == 96
    with pytest.raises(Mismatch, match="128 and of 96 both fit"):
        grid((192, 192), (2, 2))
    assert grid((256, 384), (4, 3)) == Grid(64, 128, 256, (4, 3))
    assert grid((301, 384), (3, 3)) == Grid(128, 128, 301, (3, 3))
    for weight, scale in (((301, 301), (4, 3)), ((301, 301), (302, 1)), ((2, 3, 4), (3, 1, 1))):
        with pytest.raises(Mismatch, match="does not fit"):
            grid(weight, scale)
    with pytest.raises(Mismatch, match="does not fit"):
        grid((256, 256), (2, 2), weight_block_size=[64, 64])


@pytest.mark.parametrize(
    "record",
    [None, [], 1, {"weight_block_size": 3}, {"weight_block_size": ["a", 1]}, {"config_groups": []}],
)
def test_nonsense_says_nothing_about_blocks(record: object) -> None:
    assert block_size({"quantization_config": record}) == (None, None)
