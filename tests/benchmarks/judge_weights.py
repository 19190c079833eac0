"""What quantised weights have lost: bits, and the squared error relative to the weights'.

Prints a JSON list with a sentence for each result. Rows of trits and 4-bit integers are decoded as
docs/formats.md describes them, without weightsmith. Only the first layer is compared: 61 million
weights of synthetic.py.

Usage: judge_weights.py MODEL -- RESULT...
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from plain import load

Floats = npt.NDArray[np.float32]
GROUP = 128
LAYER = ".layers.0."


def of_trits(rows: npt.NDArray[np.uint8], columns: int) -> Floats:
    """The weights of packed rows in two planes with free scales."""
    size, groups = -(-columns // 5), columns // GROUP
    scales = rows[:, 2 * size :].copy().view("<f2").reshape(-1, groups, 2).astype(np.float32)
    values = np.zeros((len(rows), groups, GROUP), np.float32)
    for plane in range(2):
        codes = rows[:, plane * size : (plane + 1) * size]
        digits = np.stack([codes // 3**j % 3 for j in range(5)], 2).reshape(len(rows), -1)
        trits = digits[:, :columns].astype(np.float32) - 1
        values += trits.reshape(values.shape) * scales[:, :, plane, None]
    return values.reshape(len(rows), columns)


def of_integers(words: npt.NDArray[np.int32], scales: Floats) -> Floats:
    """The weights of pack-quantized: integers plus 8, the lowest bits first."""
    codes = np.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], 2)
    grouped = codes.reshape(len(words), -1, GROUP).astype(np.float32) - 8
    return (grouped * scales[:, :, None]).reshape(len(words), -1)


def decoded(model: dict[str, torch.Tensor], name: str, columns: int) -> tuple[Floats, int]:
    """The weights [out, in] that a result holds for a tensor, and the bytes that it takes."""
    if name in model:
        rows = model[name].numpy()
        return of_trits(rows, columns), rows.nbytes
    stem = name.removesuffix("weight")
    words, scales = (model[f"{stem}weight_{part}"] for part in ("packed", "scale"))
    return of_integers(words.numpy(), scales.float().numpy()), words.nbytes + scales.nbytes


def main() -> None:
    """Decode, and print."""
    source, _, *results = sys.argv[1:]
    weights = {n: t for n, t in load(Path(source)).items() if LAYER in n and "_proj." in n}
    sentences = []
    for result in results:
        model = load(Path(result))
        error = norm = 0.0
        size = count = 0
        for name, tensor in weights.items():
            exact = tensor.float().numpy()
            values, nbytes = decoded(model, name, exact.shape[1])
            error += float(np.sum((values - exact) ** 2, dtype=np.float64))
            norm += float(np.sum(exact**2, dtype=np.float64))
            size, count = size + nbytes, count + exact.size
        sentences.append(f"{8 * size / count:.2f} bits; relative MSE {error / norm:.5f}")
    print(json.dumps(sentences))


if __name__ == "__main__":
    main()
