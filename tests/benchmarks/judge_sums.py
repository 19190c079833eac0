"""How far interpolated, grafted and refined models are from float64 arithmetic rounded once.

Prints a JSON list with a sentence for each result. The sums are read and computed without
weightsmith; refined models are held against a full SVD in float64.

Usage: judge_sums.py interpolate LAMBDA A B -- RESULT...
       judge_sums.py graft BASE INSTRUCT TUNED -- RESULT...
       judge_sums.py timber BASE INSTRUCT -- RESULT...
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from decomposition import reference, steps
from exactness import BLOCK, Words, tensors, widen
from plain import load
from torch import Tensor

Sum = Callable[..., npt.NDArray[np.float64]]


def narrow(values: npt.NDArray[np.float64]) -> Words:
    """Round finite float64 of bfloat16's normal range to bfloat16 once, to nearest even."""
    bits = values.view(np.uint64)
    kept = (
        bits + np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    ) >> np.uint64(45)
    exact = (kept << np.uint64(45)).view(np.float64).astype(np.float32)
    return (exact.view(np.uint32) >> 16).astype(np.uint16)


def sums(formula: Sum, inputs: list[Path], results: list[Path]) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of what should be there, and of what each result has."""
    sources, found = ([tensors(path) for path in paths] for paths in (inputs, results))
    for name in sources[0]:
        for start in range(0, len(sources[0][name]), BLOCK):
            piece = slice(start, start + BLOCK)
            values = [widen(source[name][piece]).astype(np.float64) for source in sources]
            words = (narrow(formula(*values)), *(result[name][piece] for result in found))
            yield tuple(
                torch.from_numpy(each.view(np.int16)).view(torch.bfloat16) for each in words
            )


def refined(inputs: list[Path], results: list[Path]) -> Iterator[tuple[Tensor, ...]]:
    """The same of matrices that timber cuts; vectors are copied."""
    base, instruct, *found = map(load, (*inputs, *results))
    for name, weights in instruct.items():
        exact = weights if weights.ndim < 2 else reference(base[name], weights)[0]
        yield exact, *(result[name] for result in found)


def verdicts(pieces: Iterator[tuple[Tensor, ...]], results: int) -> Iterator[str]:
    """What share of the elements differs, and by how many steps at most."""
    total, differing, most = 0, [0] * results, [0] * results
    for exact, *found in pieces:
        total += exact.numel()
        for index, result in enumerate(found):
            apart = steps(result, exact)
            differing[index] += int(torch.count_nonzero(apart))
            most[index] = max(most[index], int(apart.max()))
    for count, largest in zip(differing, most, strict=True):
        yield f"{100 * count / total:.4f} % differ, by at most {largest} steps"


def main() -> None:
    """Compare, and print."""
    torch.set_num_threads(1)
    task, *arguments = sys.argv[1:]
    split = arguments.index("--")
    given, results = arguments[:split], [Path(path) for path in arguments[split + 1 :]]
    lam = float(given.pop(0)) if task == "interpolate" else 0.0
    inputs = [Path(path) for path in given]
    if task == "timber":
        pieces = refined(inputs, results)
    elif task == "graft":
        pieces = sums(lambda base, instruct, tuned: instruct + (tuned - base), inputs, results)
    else:
        pieces = sums(lambda a, b: (1 - lam) * a + lam * b, inputs, results)
    print(json.dumps(list(verdicts(pieces, len(results)))))


if __name__ == "__main__":
    main()
