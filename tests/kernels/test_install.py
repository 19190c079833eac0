"""kernels/ at the top of the repository is weightsmith.kernels, and nothing else."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_distribution_is_called_kernels() -> None:
    """What transformers asks before it believes that the package of that name is installed."""
    code = (
        "import importlib.util, importlib.metadata, sys\n"
        "import weightsmith.kernels.elementwise\n"
        "try: importlib.metadata.version('kernels')\n"
        "except importlib.metadata.PackageNotFoundError: sys.exit(0)\n"
        "sys.exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_installed_files_are_in_our_package() -> None:
    files = importlib.metadata.files("weightsmith") or []
    assert not [f for f in files if f.parts[0] == "kernels"]
