"""One machine with and without Ray, and what its figures say about models that are far larger.

Usage: cluster.py [ROUNDS]

Writes synthetic checkpoints of 4 layers (1.5 GB each), starts a Ray head with all CPUs of this
machine, and runs operators in turn by threads and by Ray. The second table is arithmetic: CPU
seconds for each weight, times the weights of larger models. Prints Markdown. Needs the extra `ray`.
"""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import measure
from synthetic import specs, write

BIN = Path(sys.executable).parent
LAYERS = 4
# Of a layer of synthetic.py: smaller and larger side of its matrices.
LAYER = [(2048, 8192)] * 3 + [(2048, 2048)] * 2 + [(512, 2048)] * 2
TIMBER_LAYERS = 2
CORES, RATE = 1024, 10e9  # of the cluster that the estimates are for; bytes a second

Shapes = list[tuple[int, int, int]]  # smaller side, larger side, how many


@dataclass(frozen=True)
class Model:
    """What the estimates need of a model: matrices of its layers, and embedding with head."""

    name: str
    linear: Shapes
    vocabulary: Shapes

    @property
    def quantised(self) -> int:
        """Weights of attention and MLP."""
        return sum(small * large * n for small, large, n in self.linear)

    @property
    def weights(self) -> int:
        """All weights in matrices."""
        return self.quantised + sum(small * large * n for small, large, n in self.vocabulary)


def llama(name: str, hidden: int, mlp: int, layers: int) -> Model:
    """Llama 3's layout: 8 heads of keys and values, 128 channels each."""
    linear = [(hidden, mlp, 3 * layers), (hidden, hidden, 2 * layers), (1024, hidden, 2 * layers)]
    return Model(name, linear, [(hidden, 128256, 2)])


# Layout of Kimi K2: 60 layers of 384 experts and a shared one, one dense layer, latent attention.
EXPERTS = [(2048, 7168, 3 * 385 * 60), (7168, 18432, 3)]
LATENT = [(1536, 7168, 61), (1536, 12288, 61), (576, 7168, 61), (512, 16384, 61), (7168, 8192, 61)]
MODELS = [
    llama("70B, dense", 8192, 28672, 80),
    llama("405B, dense", 16384, 53248, 126),
    Model("1T, mixture", EXPERTS + LATENT, [(7168, 163840, 2)]),
]

CASES = {
    "graft": ["graft", "base", "instruct", "tuned"],
    "ptqtp": ["ptqtp", "instruct", "--bits", "2x1.58"],
    "memristor": ["memristor", "instruct", "--device", "gaussian"],
    "rotate": ["rotate", "instruct"],
    "timber": [
        *("timber", "base", "instruct", "--no-embeddings"),
        *("--select", f"*.layers.{{0..{TIMBER_LAYERS - 1}}}.*"),
    ],
}


def main() -> None:
    """Measure, then multiply."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as directory:
        os.chdir(directory)
        for seed, role in enumerate(("base", "instruct", "tuned")):
            write(Path(role), LAYERS, seed)
        walls, cpu = run_all(rounds)
        pair = [single(*shape) for shape in ((2048, 2048), (2048, 8192), (4096, 4096))]
        os.chdir("../..")
    print(machine(), end="\n\n")
    print(measured(walls, cpu), end="\n\n")
    gram, eigen = timber_law(pair)
    print(estimates(cpu, gram, eigen))


def run_all(rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Wall times by case and executor, and CPU seconds of the local runs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    executors = {"local": [], "ray": ["--executor", "ray", "--address", cluster.address]}
    walls: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {}
    try:
        for number in range(rounds):
            for name, command in CASES.items():
                for executor in ("local", "ray") if number % 2 else ("ray", "local"):
                    shutil.rmtree("out", ignore_errors=True)
                    os.sync()
                    line = [BIN / "weightsmith", *command, *executors[executor], "-q", "-o", "out"]
                    run = measure([line], None, Path("log"))
                    walls.setdefault(f"{name} {executor}", []).append(run.wall)
                    if executor == "local":
                        spent.setdefault(name, []).append(run.cpu)
    finally:
        cluster.shutdown()
    return walls, {name: median(values) for name, values in spent.items()}


def single(rows: int, columns: int) -> float:
    """CPU seconds of timber on one matrix, in this process, on one thread."""
    import torch
    from decomposition import noise

    from weightsmith.operators.timber import Timber
    from weightsmith.operators.unit import Block, Unit

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    base = noise(rows, columns, generator)
    tensors = [base, base + noise(rows, columns, generator), torch.empty(rows, columns)]
    blocks = [
        Block(
            "BF16", memoryview(t.bfloat16().view(torch.uint8).numpy().reshape(-1)), (rows, columns)
        )
        for t in tensors
    ]
    started = time.process_time()
    Timber().function()(Unit("w", 0, blocks[2], tuple(blocks[:2]), (0.0, None, None)))
    return time.process_time() - started


def timber_law(seconds: list[float]) -> tuple[float, float]:
    """a and b in a s^2 l + b s^3, from two matrices; prints how well they foretell the third."""
    small, wide, large = seconds
    gram = (wide - small) / (2048**2 * (8192 - 2048))
    eigen = small / 2048**3 - gram
    told = (gram + eigen) * 4096**3
    print(
        f"- timber on one thread: 2048 x 2048 {small:.2f} s, 2048 x 8192 {wide:.2f} s, hence "
        f"{gram:.3g} s^2 l + {eigen:.3g} s^3; that says {told:.1f} s for 4096 x 4096, which took "
        f"{large:.1f} s"
    )
    return gram, eigen


def machine() -> str:
    """What all this ran on."""
    import numpy as np
    import ray
    import torch

    names = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in n]
    return (
        f"- {names[0].partition(': ')[2]}, {len(os.sched_getaffinity(0))} cores; Python "
        f"{platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
        f"ray {ray.__version__}"
    )


def measured(walls: dict[str, list[float]], cpu: dict[str, float]) -> str:
    """One row for each operator."""
    rows = ["| operator | local s | ray s | ray / local | local CPU s |", "| --- " * 5 + "|"]
    for name in CASES:
        local, ray = walls[f"{name} local"], walls[f"{name} ray"]
        cells = [f"{median(w):.2f} ({min(w):.2f} .. {max(w):.2f})" for w in (local, ray)]
        ratio = median(ray) / median(local)
        rows.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {cpu[name]:.2f} |")
    return "\n".join(rows)


def estimates(cpu: dict[str, float], gram: float, eigen: float) -> str:
    """CPU hours, and wall time on CORES cores and RATE bytes a second, whichever is longer."""
    everything = sum(spec.numel for spec in specs(LAYERS))
    linear = LAYERS * sum(small * large for small, large in LAYER)
    each = {
        "graft": cpu["graft"] / everything,
        "rotate": cpu["rotate"] / everything,
        "ptqtp": cpu["ptqtp"] / linear,
        "memristor": cpu["memristor"] / linear,
    }

    def timber(shapes: Shapes) -> float:
        return sum((gram * s * s * large + eigen * s**3) * n for s, large, n in shapes)

    def rows() -> Iterator[str]:
        yield f"| model | operator | moved | CPU h | on {CORES} cores, {RATE / 1e9:.0f} GB/s |"
        yield "| --- " * 5 + "|"
        for model in MODELS:
            dense = 2 * model.weights
            work: dict[str, tuple[float, float]] = {
                "graft": (4 * dense, each["graft"] * model.weights),
                "rotate": (2 * dense, each["rotate"] * model.weights),
                "ptqtp": (1.3 * dense, each["ptqtp"] * model.quantised),
                "memristor": (2 * dense, each["memristor"] * model.quantised),
                "timber --no-embeddings": (3 * dense, timber(model.linear)),
            }
            for name, (moved, seconds) in work.items():
                longest = 0.0
                if name.startswith("timber"):
                    longest = max(timber([(s, large, 1)]) for s, large, _ in model.linear)
                wall = max(seconds / CORES, moved / RATE, longest)
                yield (
                    f"| {model.name} | {name} | {moved / 1e12:.2f} TB | {seconds / 3600:.1f} | "
                    f"{_duration(wall)}{_because(wall, moved / RATE, longest)} |"
                )

    return "\n".join(rows())


def _because(wall: float, moving: float, longest: float) -> str:
    names: dict[str, Callable[[], bool]] = {
        "moving": lambda: wall == moving,
        "the largest matrix": lambda: wall == longest,
    }
    return next((f" ({name})" for name, holds in names.items() if holds()), "")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main()
