"""Random trit planes, for the tests of the ternary kernels."""

import numpy as np

# rows, inputs, planes, group: odd edges, groups of every span, short last groups
SHAPES = [
    (1, 1, 1, 32),
    (8, 128, 2, 128),
    (9, 33, 1, 32),
    (13, 576, 2, 128),
    (5, 200, 3, 64),
    (21, 300, 3, 96),
    (24, 520, 2, 256),
]


def planes(seed: int, rows: int, inputs: int, planes: int, group: int):
    """Trits and scales; some groups have a scale of zero, some are subnormal in float16."""
    rng = np.random.default_rng(seed)
    trits = rng.integers(-1, 2, (rows, planes, inputs)).astype(np.int8)
    scales = rng.uniform(1e-3, 0.05, (rows, -(-inputs // group), planes))
    scales[rng.random(scales.shape) < 0.05] = 0
    scales[rng.random(scales.shape) < 0.05] = 3e-6
    scales = scales.astype(np.float16).astype(np.float32)
    # Scales tied three to two are integer multiples of a float16, and need not be one.
    return trits, scales * 3 if planes == 3 else scales


def activations(seed: int, tokens: int, inputs: int) -> np.ndarray:
    """Bell-shaped, with an outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, inputs)).astype(np.float32)
    x[:, inputs // 2] *= 20
    return x


def close(found, exact, terms: int, magnitude) -> bool:
    """Within float32's error of a sum of so many terms whose magnitudes sum up to `magnitude`.

    Any order of n additions is off by at most n u times the sum of magnitudes, u = 2^-24; three
    more roundings are for scales and casts.
    """
    return bool((np.abs(found - exact) <= (terms + 3) * 2.0**-24 * magnitude + 1e-30).all())
