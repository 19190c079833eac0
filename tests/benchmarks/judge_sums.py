"""How far interpolated, grafted and refined models are from exact arithmetic rounded once.

Prints a JSON list with a sentence for each result. The sums are read and computed without
weightsmith, exactly but for one float64 rounding, in a quarter of a long tensor; refined models are
held against a full SVD in float64. Where terms cancel, a small error is many steps of what is left,
so it is also counted in steps of the largest of inputs and result.

Usage: judge_sums.py interpolate LAMBDA A B -- RESULT...
       judge_sums.py graft BASE INSTRUCT TUNED -- RESULT...
       judge_sums.py timber BASE INSTRUCT -- RESULT...
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from decomposition import reference, steps
from exactness import Words, tensors, widen
from plain import load
from torch import Tensor

BLOCK = 1 << 16  # elements whose float64 stay in a core's cache
EVERY = 4  # of the blocks, one is compared

Sum = Callable[..., npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Piece:
    """Some elements in bfloat16: what should be there, the inputs, and what each result has."""

    exact: Tensor
    inputs: list[Tensor]
    found: list[Tensor]


def narrow(values: npt.NDArray[np.float64]) -> Words:
    """Round finite float64 of bfloat16's normal range to bfloat16 once, to nearest even."""
    bits = values.view(np.uint64)
    odd = (bits >> np.uint64(45)) & np.uint64(1)
    kept = (bits + np.uint64((1 << 44) - 1) + odd) & np.uint64(~0 << 45 & 2**64 - 1)
    return (kept.view(np.float64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def sums(formula: Sum, inputs: list[Path], results: list[Path]) -> Iterator[Piece]:
    """Block by block, a share of them from every tensor."""
    sources, found = ([tensors(path) for path in paths] for paths in (inputs, results))
    for name in sources[0]:
        for start in range(0, len(sources[0][name]), BLOCK * EVERY):
            piece = slice(start, start + BLOCK)
            words = [source[name][piece] for source in sources]
            exact = narrow(formula(*(widen(each).astype(np.float64) for each in words)))
            yield Piece(
                _bfloat16(exact),
                [_bfloat16(each) for each in words],
                [_bfloat16(result[name][piece]) for result in found],
            )


def refined(inputs: list[Path], results: list[Path]) -> Iterator[Piece]:
    """Matrix by matrix; vectors are copied."""
    base, instruct, *found = map(load, (*inputs, *results))
    for name, weights in instruct.items():
        exact = weights if weights.ndim < 2 else reference(base[name], weights)[0]
        yield Piece(exact, [base[name], weights], [result[name] for result in found])


@dataclass
class Verdict:
    """How many elements differ, and how far: in steps of the element, and of the largest term."""

    total: int = 0
    differing: int = 0
    most: int = 0
    most_of_largest: float = 0.0

    def add(self, piece: Piece, found: Tensor) -> None:
        """Take in one result's elements."""
        self.total += found.numel()
        where = found.view(torch.int16) != piece.exact.view(torch.int16)
        if not bool(where.any()):
            return
        result, exact = found[where], piece.exact[where]
        apart = steps(result, exact)  # zeros of both signs are one value
        self.differing += int(torch.count_nonzero(apart))
        self.most = max(self.most, int(apart.max()))
        terms = (exact, *(each[where] for each in piece.inputs))
        largest = torch.stack([each.double().abs() for each in terms]).amax(0)
        step = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 8)
        distance = (result.double() - exact.double()).abs() / step
        self.most_of_largest = max(self.most_of_largest, float(distance.max()))

    def __str__(self) -> str:
        if not self.differing:
            return "no element differs"
        share = 100 * self.differing / self.total
        return (
            f"{share:.{2 if share > 1 else 5}f} % differ, by at most {self.most} step{'s' * (self.most > 1)}, "
            f"{self.most_of_largest:.2g} of the largest term"
        )


def main() -> None:
    """Compare, and print."""
    torch.set_num_threads(1)
    task, *arguments = sys.argv[1:]
    split = arguments.index("--")
    given, results = arguments[:split], [Path(path) for path in arguments[split + 1 :]]
    lam = Fraction(given.pop(0)) if task == "interpolate" else Fraction(0)
    inputs = [Path(path) for path in given]
    if task == "timber":
        pieces = refined(inputs, results)
    elif task == "graft":
        pieces = sums(lambda base, instruct, tuned: instruct + (tuned - base), inputs, results)
    else:
        # Whole multiples of bfloat16 are exact in float64, so the quotient alone is rounded.
        p, q = lam.denominator - lam.numerator, lam.numerator
        pieces = sums(lambda a, b: (p * a + q * b) / lam.denominator, inputs, results)
    verdicts = [Verdict() for _ in results]
    for piece in pieces:
        for verdict, found in zip(verdicts, piece.found, strict=True):
            verdict.add(piece, found)
    print(json.dumps([str(verdict) for verdict in verdicts]))


def _bfloat16(words: Words) -> Tensor:
    return torch.from_numpy(np.array(words).view(np.int16)).view(torch.bfloat16)


if __name__ == "__main__":
    main()
