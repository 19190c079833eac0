"""Count the elements of blended models that differ from float32 arithmetic rounded once.

The reader and the arithmetic are numpy's and independent of weightsmith.

Usage: exactness.py A B LAMBDA RESULT...
"""

import json
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 20

Words = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]


def tensors(directory: Path) -> dict[str, Words]:
    """The stored 16-bit words of every tensor, mapped."""
    found: dict[str, Words] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{path}: {name} is {entry['dtype']}")
            begin, end = entry["data_offsets"]
            found[name] = np.memmap(path, np.uint16, "r", 8 + size + begin, ((end - begin) // 2,))
    return found


def widen(words: Words) -> Floats:
    """The float32 that these bfloat16 stand for."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def narrow(values: Floats) -> Words:
    """Round finite float32 to bfloat16, to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def differing(first: Path, second: Path, lam: str, results: list[Path]) -> list[float]:
    """The share of elements of each result that are not what they should be."""
    a, b = tensors(first), tensors(second)
    blended = [tensors(path) for path in results]
    for path, result in zip(results, blended, strict=True):
        if result.keys() != a.keys():
            raise ValueError(f"{path} has other tensors")
    weight_a, weight_b = np.float32(1 - Decimal(lam)), np.float32(Decimal(lam))
    counts = [0] * len(results)
    for name in a:
        for start in range(0, len(a[name]), BLOCK):
            piece = slice(start, start + BLOCK)
            exact = narrow(weight_a * widen(a[name][piece]) + weight_b * widen(b[name][piece]))
            for index, result in enumerate(blended):
                counts[index] += int(np.count_nonzero(result[name][piece] != exact))
    total = sum(map(len, a.values()))
    return [count / total for count in counts]


if __name__ == "__main__":
    shares = differing(
        Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], [Path(path) for path in sys.argv[4:]]
    )
    print(json.dumps(shares))
