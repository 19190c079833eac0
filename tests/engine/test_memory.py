"""Peak anonymous memory stays within its bound, whatever the size of checkpoint and tensor."""

import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support import BIN, environment, to_bf16

from weightsmith.header import Header, TensorSpec

MB = 1 << 20


def peak_anonymous(*arguments: object) -> int:
    """Bytes of memory without a file, sampled every 5 ms; the command must succeed.

    That is RssAnon, and RssShmem for the buffers that the engine maps.
    """
    peak = 0
    command = [str(BIN / "weightsmith"), *map(str, arguments)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), **pipes) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status)
            peak = max(peak, sum(map(int, found)) * 1024)
            time.sleep(0.005)
        assert process.wait() == 0, process.stderr.read()
    return peak


def write_noise(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    """A bfloat16 file, written a megabyte at a time."""
    specs = tuple(TensorSpec(name, "BF16", shape) for name, shape in shapes.items())
    header = Header(specs, {"format": "pt"})
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(header.encode())
        for start in range(0, header.nbytes // 2, MB):
            size = min(MB, header.nbytes // 2 - start)
            file.write(to_bf16(0.02 * rng.standard_normal(size, np.float32)).tobytes())


@pytest.mark.slow
def test_graft_holds_no_tensor(here: Path) -> None:
    """A tensor of 400 MB, and one three times as large, pass through the same few megabytes."""
    peaks = []
    for rows in (100_000, 300_000):
        for seed, role in enumerate(("base", "tuned", "instruct")):
            write_noise(Path(f"{role}.safetensors"), {"embedding": (rows, 2000)}, seed)
        models = [f"{role}.safetensors" for role in ("base", "instruct", "tuned")]
        peaks.append(peak_anonymous("graft", *models, "-o", "out.safetensors", "--force"))
    assert peaks[0] < 100 * MB
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]


@pytest.mark.slow
def test_a_graft_of_an_adapter_holds_no_tensor(here: Path) -> None:
    """Its factors are held, which take 2% of the weight, and the same few megabytes besides."""
    rank, columns = 16, 2000
    peaks = []
    for rows in (100_000, 300_000):
        for seed, role in enumerate(("base", "instruct")):
            write_noise(Path(f"{role}.safetensors"), {"m.weight": (rows, columns)}, seed)
        Path("lora").mkdir(exist_ok=True)
        shapes = {"m.lora_A.weight": (rank, columns), "m.lora_B.weight": (rows, rank)}
        write_noise(Path("lora/adapter_model.safetensors"), shapes, 2)
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
        Path("lora/adapter_config.json").write_text(json.dumps(config))
        models = ("base.safetensors", "instruct.safetensors", "lora")
        peaks.append(peak_anonymous("graft", *models, "-o", "out.safetensors", "--force"))
    assert peaks[0] < 150 * MB
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]


@pytest.mark.slow
def test_timber_holds_ten_matrices(here: Path) -> None:
    """At most ten times the largest matrix in float32, and 250 MB for the imports.

    With a --memory that has room for one at a time; with more, several are worked on at once.
    """
    side, number = 2000, 10
    shapes = {f"layers.{i}.weight": (side, side) for i in range(number)}
    for seed, role in enumerate(("base", "instruct")):
        write_noise(Path(f"{role}.safetensors"), shapes, seed)
    models = ("base.safetensors", "instruct.safetensors")
    room = 40 * side**2
    options = ("--memory", room, "-o", "out.safetensors")
    assert peak_anonymous("timber", *models, *options) < room + 250 * MB


@pytest.mark.slow
@pytest.mark.parametrize("command", [("slerp", "--t", "0.5"), ("ties", "--density", "0.5")])
def test_whole_tensors_wait_for_room(here: Path, command: tuple[str, ...]) -> None:
    """Two threads hold one result of 128 MB where --memory has room for one, and two for two."""
    side = 8000
    shapes = {f"layers.{i}.weight": (side, side) for i in range(4)}
    for seed, role in enumerate("ab"):
        write_noise(Path(f"{role}.safetensors"), shapes, seed)
    name, *options = command
    models = ("a.safetensors", "b.safetensors", "--force", "--jobs", 2)
    for target in ("out.safetensors", "-"):
        for together in (1, 2):
            # Results, and inputs as if they came by pipe; an eighth is for what can be cut.
            memory = ("-o", target, "--memory", together * 3 * 2 * side**2 * 8 // 7 + 1000)
            peak = peak_anonymous(name, *models, *options, *memory)
            assert peak < together * 2 * side**2 + 60 * MB


@pytest.mark.slow
def test_memristor_holds_no_tensor(here: Path) -> None:
    """A tensor of 200 MB, and one twice as large, pass through the same few megabytes."""
    peaks = []
    for rows in (50_000, 100_000):
        write_noise(Path("model.safetensors"), {"layers.0.up_proj.weight": (rows, 2000)}, 0)
        options = ("--device", "pcm", "--copies", 2, "-o", "out.safetensors", "--force")
        peaks.append(peak_anonymous("memristor", "model.safetensors", *options))
    assert peaks[0] < 150 * MB
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]


@pytest.mark.slow
def test_a_chain_holds_no_tensor(here: Path) -> None:
    """Nor does what lies between its commands: elements of a graft, rows of trit planes."""
    peaks = []
    for rows in (50_000, 150_000):
        shapes = {"layers.0.up_proj.weight": (rows, 2048)}
        for seed, role in enumerate(("base", "tuned", "instruct")):
            write_noise(Path(f"{role}.safetensors"), shapes, seed)
        models = [f"{role}.safetensors" for role in ("base", "instruct", "tuned")]
        blend = ("then", "interpolate", "base.safetensors", "-", "--lambda", "0.9")
        planes = ("then", "ptqtp", "--starts", "1", "-o", "out.safetensors", "--force")
        peaks.append(peak_anonymous("graft", *models, *blend, *planes))
    assert peaks[0] < 150 * MB
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]
