"""The peers, each in its pinned version, in one environment of their own."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"  # has the versions
DIRECTORY = ROOT / "build" / "bench-venv"

# What pip is asked for, call by call.
CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mergekit": (("mergekit",),),
    # Most of what aihwkit depends on, its noise models do not need.
    "aihwkit": (("torch", "numpy", "scipy", "tqdm", "safetensors"), ("--no-deps", "aihwkit")),
    "compressed-tensors": (("compressed-tensors", "safetensors"),),
}


def install(peer: str, directory: Path = DIRECTORY) -> Path | None:
    """The Python of an environment that has the peer; None where it cannot be installed."""
    python = directory / "bin" / "python"
    if has(python, peer):
        return python
    say(f"installing {peer}")
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        for arguments in CALLS[peer]:
            pip = [python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS]
            subprocess.run([*pip, *arguments], check=True)
    except subprocess.CalledProcessError as error:
        say(f"{peer} is missing: {error}")
        return None
    return python


def has(python: Path, peer: str) -> bool:
    """Whether an environment has a package; False where there is no environment."""
    code = f"import importlib.metadata; importlib.metadata.version({peer!r})"
    return (
        python.exists()
        and not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode
    )


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
