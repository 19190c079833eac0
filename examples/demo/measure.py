"""Run a shell command and measure it: seconds, and peak memory of its largest process."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        status: the exit status; of a pipe, that of the last stage that failed.
        seconds: wall time.
        peak_bytes: the largest resident set of any one process; in a pipe, of the largest stage.
    """

    status: int
    seconds: float
    peak_bytes: int


def environment() -> dict[str, str]:
    """Our environment, with the commands of this Python first: weightsmith is installed there."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path) -> Measured:
    """Echo a shell command, run it in `folder`, wait for it."""
    print(f"\n$ {command}", flush=True)
    start = time.monotonic()
    shell = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env=environment()
    )
    # What wait4 says of a shell includes the processes that the shell waited for, and of all their
    # peaks it gives the largest. A child starts with the memory of its parent, so this process has
    # to stay small: it must import neither torch nor numpy.
    _, status, usage = os.wait4(shell.pid, 0)
    shell.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    return Measured(shell.returncode, seconds, usage.ru_maxrss * _BYTES_PER_MAXRSS)
