"""kernels/ at the top of the repository is weightsmith.kernels, and nothing else."""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("place", [ROOT, Path(tempfile.gettempdir())], ids=["root", "elsewhere"])
def test_transformers_does_not_take_ours_for_that_package(place: Path) -> None:
    """An editable install makes `import kernels` find ours: it must never look like a release."""
    pytest.importorskip("transformers")
    code = (
        "import importlib.util, sys\n"
        "from transformers.utils.import_utils import is_kernels_available\n"
        "assert not is_kernels_available()\n"
        "if importlib.util.find_spec('kernels'):\n"
        "    import kernels\n"
        "    assert not hasattr(kernels, '__version__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_installed_files_are_in_our_package() -> None:
    files = importlib.metadata.files("weightsmith") or []
    assert not [f for f in files if f.parts[0] == "kernels"]
