"""Run a command or a pipeline once, and measure its time and its memory.

This module must not import anything large: a process starts with the peak memory of the one that
started it.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SAMPLING_INTERVAL = 0.01
QUIET = 0.5  # seconds that others must have been idle

Command = Sequence[str | Path]

# More than any of the runs takes for the page cache of what it writes.
_TOUCHED = 6 << 30


@dataclass(frozen=True)
class Measurement:
    """What one run took.

    Attributes:
        wall: seconds from the start of the first process to the end of the last.
        cpu: user and system seconds of all processes.
        anonymous: peak of the sum of RssAnon and RssShmem over the processes, in bytes.
        resident: sum of the processes' peak resident sets, in bytes; counts mapped files.
        elsewhere: processors that others (and the kernel's own threads) kept busy meanwhile.
    """

    wall: float
    cpu: float
    anonymous: int
    resident: int
    elsewhere: float


class CommandFailed(Exception):
    """A measured command ended with an error."""


def measure(pipeline: Sequence[Command], stdout: Path | None, log: Path) -> Measurement:
    """Run the commands, each reading what the one before it prints.

    Args:
        pipeline: the commands.
        stdout: file for the last one's standard output; None throws it away.
        log: file for everything they print on standard error.

    Raises:
        CommandFailed: one of them failed.
    """
    busy = _busy_seconds()
    with log.open("wb") as errors, (stdout or Path(os.devnull)).open("wb") as out:
        started = time.perf_counter()
        processes = _start(pipeline, out.fileno(), errors.fileno())
        with _Sampler([process.pid for process in processes]) as sampler:
            ends = [_wait(process) for process in processes]
            wall = time.perf_counter() - started
    busy = _busy_seconds() - busy
    if any(process.returncode for process in processes):
        raise CommandFailed(f"{_text(pipeline)}: {log.read_text(errors='replace')[-2000:]}")
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in ends)
    return Measurement(
        wall,
        cpu,
        sampler.peak,
        sum(usage.ru_maxrss for usage in ends) * 1024,
        max(0.0, busy - cpu) / wall,
    )


def prepare(
    target: Path,
    inputs: Sequence[Path],
    rehearsal: Command | None,
    log: Path,
    patience: float,
) -> None:
    """Make all runs start alike.

    There is no target, nothing is left to write, and programs, libraries and inputs are in the page
    cache.

    Args:
        target: what the run is going to write.
        inputs: directories whose safetensors files it is going to read.
        rehearsal: a command that loads the same program and libraries.
        log: file for what the rehearsal prints.
        patience: seconds to wait, at most, for other programs to be idle.
    """
    remove(target)
    os.sync()
    _wait_for_quiet(patience)
    if rehearsal is not None:
        measure([rehearsal], None, log)
    files = [file for directory in inputs for file in sorted(directory.glob("*.safetensors"))]
    if files:
        subprocess.run(["cat", *files], check=True, stdout=subprocess.DEVNULL)
    _touch_free_memory()


def _touch_free_memory() -> None:
    """Write once to the memory that the run is going to take, and free it again.

    A virtual machine's host takes back memory that was free for some seconds; the first touch then
    costs several times what writing to it costs, and would be charged to whoever comes first.
    """
    status = Path("/proc/meminfo").read_text()
    free = int(status.split("MemFree:")[1].split()[0]) * 1024
    size = min(_TOUCHED, max(0, free - (1 << 30))) // 4096 * 4096
    if size:
        code = f"import mmap; mmap.mmap(-1, {size}, mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"
        subprocess.run([sys.executable, "-c", code], check=True)


def remove(path: Path) -> None:
    """Remove a file or a directory, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def evict(directory: Path) -> None:
    """Give back the page cache of these files, so that later runs need not reclaim it."""
    for file in directory.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def environment() -> dict[str, str]:
    """The environment of measured commands: byte code is kept, as in any ordinary installation."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    variables |= {"MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def _wait_for_quiet(patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        busy = _busy_seconds()
        time.sleep(QUIET)
        if _busy_seconds() - busy < QUIET / 4:
            return


def _start(pipeline: Sequence[Command], out: int, errors: int) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    variables = environment()
    for command in pipeline:
        is_last = len(processes) == len(pipeline) - 1
        process = subprocess.Popen(
            command,
            stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
            stdout=out if is_last else subprocess.PIPE,
            stderr=errors,
            env=variables,
        )
        if processes and (pipe := processes[-1].stdout):
            pipe.close()
        processes.append(process)
    return processes


def _wait(process: subprocess.Popen[bytes]):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


class _Sampler:
    """Follow the processes' anonymous memory from a thread of its own."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.peak = 0
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(SAMPLING_INTERVAL):
            self.peak = max(self.peak, sum(map(_anonymous, self._pids)))


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    # Buffers that a process has mapped without a file count as shared memory.
    return 1024 * sum(int(kb) for kb in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))


def _busy_seconds() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _text(pipeline: Sequence[Command]) -> str:
    return " | ".join(" ".join(map(str, command)) for command in pipeline)
