"""What can be asked of a run besides the operator's own parameters, and its defaults."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from weightsmith.dtypes import ALIASES
from weightsmith.errors import UsageError
from weightsmith.operators.operator import Request
from weightsmith.selection import Selection

DEFAULT_MEMORY = 512 << 20


@dataclass(frozen=True)
class Settings:
    """How to run an operator.

    Attributes:
        output: `-` for a stream, a path ending in .safetensors for one file, else a directory.
        selection: the tensors to work on.
        dtype: output dtype of arithmetic tensors (the format's name), or None.
        jobs: worker threads; None for what the machine lets us have.
        memory: bound on the buffers, in bytes.
        shard_size: bytes in a shard; None for the primary input's sharding.
        resume: go on with an interrupted run.
        force: replace an existing target, ignore a fingerprint that does not match.
        full_digest: fingerprints over all bytes instead of samples.
        sidecars: a directory, "none", or None for the primary input's own.
        device: where operators on whole tensors compute, as torch names it.
        cache: directory for decompositions that a later run can use again.
        executor: "local", or "ray" for the machines of a Ray cluster; jobs and memory are then
            those of one task.
        address: of the Ray cluster; None for RAY_ADDRESS, one that runs here, or a new one.
        allow_code: whether *.py may be copied from where only known names are trusted.
        stream: read hub addresses by byte ranges, and download no weights.
    """

    output: str = "-"
    selection: Selection = field(default_factory=Selection)
    dtype: str | None = None
    jobs: int | None = None
    memory: int = DEFAULT_MEMORY
    shard_size: int | None = None
    resume: bool = False
    force: bool = False
    full_digest: bool = False
    sidecars: str | None = None
    device: str = "cpu"
    cache: str | None = None
    executor: str = "local"
    address: str | None = None
    allow_code: bool = False
    stream: bool = False

    @property
    def request(self) -> Request:
        """The part that operators see."""
        return Request(self.selection, self.dtype, self.force)

    @property
    def workers(self) -> int:
        """Number of worker threads."""
        return self.jobs or available_cpus()


def available_cpus() -> int:
    """CPUs that this process may use: affinity mask and cgroup quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _quota()))


def _quota() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 1 << 16
    return 1 << 16 if quota == "max" else -(-int(quota) // int(period))


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 2 ** (10 * power) for power, unit in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Bytes from `512MiB`, `2GB`, `1000`.

    Raises:
        UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise UsageError(f"{option} {text} is not a size", expected="such as 512MiB or 2GB")
    return size


def parse_dtype(text: str | None) -> str | None:
    """The format's name of a --dtype value.

    Raises:
        UsageError: it is none of the output dtypes.
    """
    if text is None:
        return None
    if text.lower() not in ALIASES:
        raise UsageError(f"--dtype {text}", expected="float32, float16 or bfloat16")
    return ALIASES[text.lower()]
