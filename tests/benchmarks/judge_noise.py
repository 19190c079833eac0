"""How alike the noise of two programs is: its size, and its mean and spread over the target.

Prints a JSON list with a sentence for each result. Only the first layer is compared: 61 million
weights of synthetic.py.

Usage: judge_noise.py CLEAN -- RESULT...
"""

import json
import sys
from pathlib import Path

import torch
from plain import load

TILE, BINS = 512, 10
LAYER = ".layers.0."


class Spread:
    """Moments of the error in the direction of the weight, by |weight| over the range.

    Both are in shares of the range that a tile's largest weight has.
    """

    def __init__(self) -> None:
        self.counts, self.sums, self.squares = (
            torch.zeros(BINS, dtype=torch.float64) for _ in "123"
        )
        self.error = self.norm = 0.0

    def add(self, clean: torch.Tensor, noisy: torch.Tensor) -> None:
        """Take in one matrix."""
        tiles, error = (x.double().unflatten(1, (-1, TILE)) for x in (clean, noisy - clean))
        self.error += float((error**2).sum())
        self.norm += float((tiles**2).sum())
        scale = tiles.abs().amax(2, keepdim=True)
        outward = (error * tiles.sign() / scale).flatten()
        index = (tiles.abs() / scale * BINS).long().clamp(max=BINS - 1).flatten()
        self.counts += torch.bincount(index, minlength=BINS)
        self.sums += torch.bincount(index, outward, BINS)
        self.squares += torch.bincount(index, outward**2, BINS)

    @property
    def means(self) -> torch.Tensor:
        """In each bin."""
        return self.sums / self.counts

    @property
    def deviations(self) -> torch.Tensor:
        """In each bin."""
        return (self.squares / self.counts - self.means**2).sqrt()


def main() -> None:
    """Compare each result with the first, and print."""
    torch.set_num_threads(1)
    clean, _, *results = sys.argv[1:]
    weights = {n: t for n, t in load(Path(clean)).items() if LAYER in n and "_proj." in n}
    found = []
    for result in results:
        noisy, spread = load(Path(result)), Spread()
        for name, tensor in weights.items():
            spread.add(tensor.float(), noisy[name].float())
        found.append(spread)
    sentences = []
    for spread in found:
        size = f"error {100 * (spread.error / spread.norm) ** 0.5:.3f} % of the weights' norm"
        deviation = float((spread.deviations / found[0].deviations - 1).abs().max())
        mean = float((spread.means - found[0].means).abs().max())
        chance = float((1 / spread.counts).max() ** 0.5)
        apart = (
            f"; in {BINS} bins of the target the deviation is within {100 * deviation:.2f} % of "
            f"weightsmith's and the mean within {100 * mean:.3f} % of the range (standard error of "
            f"a difference in the rarest bin: {100 * chance:.2f} %)"
        )
        sentences.append(size + ("" if spread is found[0] else apart))
    print(json.dumps(sentences))


if __name__ == "__main__":
    main()
