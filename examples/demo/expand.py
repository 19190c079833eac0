"""Make a full checkpoint out of the base model and a low-rank delta.

python expand.py build/demo/base arithmetic.safetensors build/demo/tuned
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import factors
from safetensors.torch import save_file

WEIGHTS = "model.safetensors"


def expand(base: Path, delta: Path, target: Path) -> None:
    """Write the checkpoint directory `target`, in place of one that is there."""
    weights, metadata = factors.load(base / WEIGHTS)
    low_rank, _ = factors.load(delta)
    # Made beside the target and renamed at the end, so that a target is always complete.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        checkpoint = Path(work) / "checkpoint"
        shutil.copytree(base, checkpoint, ignore=shutil.ignore_patterns(WEIGHTS))
        save_file(factors.restore(weights, low_rank), checkpoint / WEIGHTS, metadata)
        if target.exists():
            shutil.rmtree(target)
        checkpoint.rename(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("base", type=Path, help="checkpoint directory of the base model")
    parser.add_argument("delta", type=Path, help="file of factors, as train.py writes it")
    parser.add_argument("target", type=Path, help="checkpoint directory to make")
    options = parser.parse_args()
    expand(options.base, options.delta, options.target)
