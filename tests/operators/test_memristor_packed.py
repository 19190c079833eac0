"""memristor on what ptqtp has packed: trits on devices, digital scales, and a dense result."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import (
    CONFIG,
    Tensors,
    assert_fails,
    call,
    from_bf16,
    random_tensors,
    read,
    to_bf16,
    weightsmith,
    write_directory,
)

from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.tritplanes.encoding import Encoding, Int8Encoding, Quantization, TritEncoding
from weightsmith.tritplanes.rows import Planes, decode, pack_int8, pack_trits

Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
OUT, IN, GROUP = 200, 300, 128  # two whole groups and a short one
ENCODINGS: dict[str, Encoding] = {
    EMBEDDING: Int8Encoding((50, 60), "BF16"),
    Q: TritEncoding((OUT, IN), "BF16", 2, GROUP),
    UP: TritEncoding((OUT, IN), "BF16", 3, GROUP),
}


def random_rows(encoding: TritEncoding, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    trits = rng.integers(-1, 2, (OUT, encoding.planes, IN)).astype(np.int8)
    scales = rng.uniform(0.01, 0.05, (OUT, encoding.groups, encoding.planes)).astype(np.float16)
    choice = np.zeros((OUT, encoding.groups), np.uint8)
    return pack_trits(encoding, Planes(trits, scales.astype(np.float32), choice))


def constant_rows(trit: int) -> Callable[[TritEncoding, int], np.ndarray]:
    """All trits of the first plane alike, the others zero, all scales 1."""

    def rows(encoding: TritEncoding, seed: int) -> np.ndarray:
        trits = np.zeros((OUT, encoding.planes, IN), np.int8)
        trits[:, 0] = trit
        scales = np.ones((OUT, encoding.groups, encoding.planes), np.float32)
        return pack_trits(encoding, Planes(trits, scales, np.zeros(scales.shape[:2], np.uint8)))

    return rows


def write(make_rows: Callable[[TritEncoding, int], np.ndarray] = random_rows) -> Tensors:
    """A packed checkpoint `packed/`; gives its dense tensors, as bfloat16."""
    tensors = random_tensors(0, {NORM: (60,), EMBEDDING: (50, 60)})
    packed, dense = dict(tensors), dict(tensors)
    for seed, (name, encoding) in enumerate(ENCODINGS.items()):
        if isinstance(encoding, Int8Encoding):
            rows = pack_int8(from_bf16(tensors[name][2]).reshape(encoding.shape))
        else:
            rows = make_rows(encoding, seed)
        packed[name] = "U8", rows.shape, rows.tobytes()
        values = to_bf16(decode(encoding, rows)).tobytes()
        dense[name] = encoding.dtype, encoding.shape, values
    record = Quantization(GROUP, (), ENCODINGS).record()
    write_directory(Path("packed"), packed, config={**CONFIG, QUANTIZATION: record})
    return dense


def noisy(*options: object, target: str = "out") -> Tensors:
    return call("memristor", "packed", *options, target=target)


def test_without_noise_it_is_unpacked(here: Path) -> None:
    dense = write()
    assert noisy("--device", "pcm", "--noise", 0) == dense
    config = json.loads(Path("out/config.json").read_text())
    assert QUANTIZATION not in config
    assert config == CONFIG


@pytest.mark.parametrize("device", ["gaussian", "pcm", "rram-cmo"])
def test_only_projections_get_noise_and_all_become_dense(here: Path, device: str) -> None:
    dense = write()
    found = noisy("--device", device, "--select", UP)
    assert {name for name in dense if found[name] != dense[name]} == {UP}
    found = noisy("--device", device)
    assert {name for name in dense if found[name] != dense[name]} == {Q, UP}
    found = noisy("--device", device, "--also", EMBEDDING)
    assert found[EMBEDDING] != dense[EMBEDDING]


@pytest.mark.parametrize("options", [[], ["--time", "1h", "--compensate", "tensor"]])
def test_the_same_chip_however_it_is_cut(here: Path, options: list[str]) -> None:
    write()
    options = ["--device", "pcm", "--stuck-on", "0.01", "--copies", "2", *options]
    first = noisy(*options)
    assert noisy(*options, "--jobs", 2, "--memory", "16kB") == first
    assert noisy(*options, "--shard-size", "60kB") == first
    assert noisy(*options, "--select", Q)[Q] == first[Q]


def weights(found: Tensors) -> np.ndarray:
    return np.frombuffer(found[Q][2], np.float32).astype(np.float64)


def test_zeros_keep_mean_zero(here: Path) -> None:
    """Two planes of zeros, four idle devices each half of a normal: spread by sqrt(2 v) each."""
    write(constant_rows(0))
    found = weights(noisy("--device", "pcm", "--dtype", "float32"))
    sigma, n = 0.26348 / 25, OUT * IN
    idle = sigma**2 * (1 / 2 - 1 / (2 * np.pi))  # variance of max(0, sigma N)
    assert abs(found.mean()) < 4 * (4 * idle / n) ** 0.5
    # The fourth moment of max(0, N) about its mean bounds the error of the variance by 5 / sqrt(n).
    assert abs(found.var() / (4 * idle) - 1) < 4 * 5 / n**0.5


def test_ones_have_the_error_of_a_device_that_is_on(here: Path) -> None:
    write(constant_rows(-1))
    found = weights(noisy("--device", "pcm", "--dtype", "float32"))
    on, off, n = 1.05538 / 25, 0.26348 / 25, OUT * IN
    idle = off**2 * (1 / 2 - 1 / (2 * np.pi))
    mean = -1 + off / (2 * np.pi) ** 0.5
    variance = on**2 + 3 * idle
    assert abs(found.mean() - mean) < 4 * (variance / n) ** 0.5
    assert abs(found.var() / variance - 1) < 4 * (2 / n) ** 0.5


def test_planes_have_noise_of_their_own(here: Path) -> None:
    """Planes that cancel in every weight do not cancel in what is lost."""
    write(lambda encoding, seed: cancelling(encoding))
    found = weights(noisy("--device", "pcm", "--dtype", "float32"))
    on, n = 1.05538 / 25, OUT * IN
    assert abs(found.mean()) < 4 * (2 * on**2 / n) ** 0.5 + 1e-3
    assert found.var() > 1.9 * on**2


def cancelling(encoding: TritEncoding) -> np.ndarray:
    trits = np.zeros((OUT, encoding.planes, IN), np.int8)
    trits[:, 0], trits[:, 1] = 1, -1
    scales = np.ones((OUT, encoding.groups, encoding.planes), np.float32)
    return pack_trits(encoding, Planes(trits, scales, np.zeros(scales.shape[:2], np.uint8)))


def test_the_cost_counts_planes(here: Path) -> None:
    write()
    done = weightsmith("memristor", "packed", "--device", "pcm", "--copies", 2, "-o", "out")
    devices = OUT * IN * (2 + 3) * 2 * 2
    assert f"{2 * OUT * IN:,} weights of 2 tensors on {devices:,} devices" in done.stderr.decode()


def test_errors(here: Path) -> None:
    write()
    done = weightsmith("memristor", "packed", "--device", "bitflip", "-o", "out")
    assert_fails(done, 2, "not packed trits", "unpack")
    data = read(Path("packed"))
    broken = bytearray(data[Q][2])
    broken[0] = 255  # no five trits
    record = Quantization(GROUP, (), ENCODINGS).record()
    write_directory(
        Path("broken"),
        data | {Q: ("U8", data[Q][1], bytes(broken))},
        config={**CONFIG, QUANTIZATION: record},
    )
    assert_fails(weightsmith("memristor", "broken", "-o", "out"), 3, Q)
