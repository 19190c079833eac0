"""How fast a model runs and what memory it takes, in a process of its own.

python -m weightsmith.inference.speed SETTINGS prints a JSON list, one object for each variant.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from weightsmith.errors import WeightsmithError


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: a checkpoint directory.
        dtype: of everything that is not packed, as torch names it.
        acts: for packed layers, one variant each; one is enough for a dense model.
        prompt: tokens that are read at once.
        tokens: tokens that are written after it, one by one.
        jobs: threads.
        device: cpu, cuda or cuda:N.
    """

    model: str
    dtype: str
    acts: tuple[str, ...]
    prompt: int
    tokens: int
    jobs: int
    device: str = "cpu"


@dataclass(frozen=True)
class Measured:
    """One variant.

    Attributes:
        act: of packed layers; empty for a dense model.
        dtype: of everything else.
        prefill: tokens/s of the prompt, the best of three runs.
        decode: tokens/s, from the median time of a token.
        cpu: tokens by second of processor time, of all threads; other programs do not lower it.
        weights: bytes of parameters and buffers.
        peak: bytes, the process's largest resident set, on a GPU its largest allocation.
    """

    act: str
    dtype: str
    prefill: float
    decode: float
    cpu: float
    weights: int
    peak: int


def measure_apart(settings: Settings) -> list[Measured]:
    """Measure in a new process, whose memory is its own.

    Raises:
        WeightsmithError: it failed.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(settings))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise WeightsmithError(f"the measurement failed: {last}", file=settings.model)
    return [Measured(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def measure(settings: Settings) -> list[Measured]:
    """Measure here: load once, then every variant."""
    import torch

    from weightsmith.inference.linear import TernaryLinear
    from weightsmith.inference.model import load_model, set_act

    torch.set_num_threads(settings.jobs)
    model = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    packed = any(isinstance(layer, TernaryLinear) for layer in model.modules())
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    results = []
    for act in settings.acts if packed else ("",):
        set_act(model, act)
        rates = _rates(model, settings)
        peak = _peak(settings.device)
        results.append(Measured(act, settings.dtype, *rates, sum(tensors.values()), peak))
    return results


def _rates(model: Any, settings: Settings) -> tuple[float, float, float]:
    import torch

    from weightsmith.inference.model import step

    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(size, (1, settings.prompt), generator=generator).to(settings.device)

    def timed(given: torch.Tensor, past: Any) -> tuple[Any, float, float]:
        begin, spent = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            logits, past = step(model, given, past)
            token = logits.argmax(-1)
            token.cpu()  # waits for a GPU
        passed, spent = time.perf_counter() - begin, time.process_time() - spent
        return (token, past), passed, spent

    best = None
    for _ in range(3):
        state, taken, _ = timed(ids, None)
        best = taken if best is None else min(best, taken)
    token, past = state
    times, spent = [], []
    for _ in range(settings.tokens):
        (token, past), taken, of_processor = timed(token, past)
        times.append(taken)
        spent.append(of_processor)
    assert best is not None
    return settings.prompt / best, 1 / median(times), 1 / median(spent)


def _peak(device: str) -> int:
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = measure(Settings(**{**given, "acts": tuple(given["acts"])}))
    print(json.dumps([asdict(each) for each in found]))
