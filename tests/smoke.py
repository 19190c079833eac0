"""What a user gets: the built wheel in a fresh environment without extras; help and one pipe.

Run by `make smoke`. It catches what tests in a development environment cannot: a module missing from
the wheel, an import missing from the dependencies.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from support import encode, random_tensors

ROOT = Path(__file__).parents[1]


def run(*command: object, **options: object) -> bytes:
    """Run a command that must succeed."""
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    return done.stdout


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        run(sys.executable, "-m", "venv", work / "venv")
        python, command = work / "venv/bin/python", work / "venv/bin/weightsmith"
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work, ROOT)
        (wheel,) = work.glob("weightsmith-*.whl")
        run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
        assert b"graft" in run(command, "--help")
        for seed, role in enumerate(("base", "tuned")):
            (work / f"{role}.safetensors").write_bytes(encode(random_tensors(seed)))
        pipe = (
            f"{command} delta base.safetensors tuned.safetensors "
            f"| {command} graft base.safetensors base.safetensors "
            f"| {command} timber base.safetensors | {command} verify"
        )
        shown = run("bash", "-o", "pipefail", "-c", pipe, cwd=work)
        assert b"sound" in shown, shown
        native = "from weightsmith.kernels.elementwise import native; assert native"
        run(python, "-W", "error", "-c", native, cwd=work)
    print("smoke: the wheel works")


if __name__ == "__main__":
    main()
