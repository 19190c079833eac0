"""linear, slerp, task-arithmetic, ties and dare against their stated formulas in numpy."""

from pathlib import Path

import numpy as np
import pytest
from support import (
    Trio,
    assert_fails,
    encode,
    from_bf16,
    random_tensors,
    read,
    to_bf16,
    weightsmith,
    write_directory,
)
from weightsmith.kernels.draws.reference import draw_bits

import weightsmith as ws
from weightsmith.errors import Mismatch, UsageError, WeightsmithError
from weightsmith.operators.dare import key_of

F = np.float32
Arrays = dict[str, np.ndarray]


def arrays(trio: Trio, role: str) -> Arrays:
    return {name: from_bf16(data) for name, (_, _, data) in trio.tensors[role].items()}


def assert_bits(target: Path, expected: Arrays) -> None:
    found = read(target)
    assert found.keys() == expected.keys()
    for name, (dtype, _, data) in found.items():
        assert dtype == "BF16"
        assert data == to_bf16(expected[name]).tobytes(), name


def trimmed(vector: np.ndarray, density: float) -> np.ndarray:
    """Its largest elements, by sorting."""
    kept = np.argsort(-np.abs(vector), kind="stable")[: max(1, int(density * vector.size))]
    result = np.zeros_like(vector)
    result[kept] = vector[kept]
    return result


def elected(vectors: list[np.ndarray], weights: list[float], *, mean: bool) -> np.ndarray:
    weighted = [F(w) * v for w, v in zip(weights, vectors, strict=True)]
    total = weighted[0]
    for vector in weighted[1:]:
        total = total + vector
    sign = np.where(total >= 0, 1, -1)
    merged, divisor = np.zeros_like(total), np.zeros_like(total)
    for vector, weight in zip(weighted, weights, strict=True):
        agrees = np.sign(vector) == sign
        merged += np.where(agrees, vector, F(0))
        divisor += np.where(agrees, F(weight), F(0))
    return merged / np.where(divisor == 0, F(1), divisor) if mean else merged


@pytest.mark.parametrize("memory", ["1", "1GiB"])
def test_linear_is_its_formula(trio: Trio, here: Path, memory: str) -> None:
    roles = ("base", "tuned", "instruct")
    weights = ["0.5,0.3,0.4", "*norm*=2,0,0"]
    ws.linear(*(getattr(trio, r) for r in roles), output="out", weight=weights, memory=memory)
    a, b, c = (arrays(trio, role) for role in roles)
    factors = [F(0.5 / 1.2), F(0.25), F(1 / 3)]
    expected = {n: (factors[0] * a[n] + factors[1] * b[n]) + factors[2] * c[n] for n in a}
    assert_bits(here / "out", {n: a[n] if "norm" in n else v for n, v in expected.items()})


def test_linear_of_one_and_without_normalizing(trio: Trio, here: Path) -> None:
    ws.linear(trio.base, output="one", weight="0.3", no_normalize=True)
    base, tuned = arrays(trio, "base"), arrays(trio, "tuned")
    assert_bits(here / "one", {n: F(0.3) * v for n, v in base.items()})
    ws.linear(trio.base, trio.tuned, output="two", weight="0.3,-2", no_normalize=True)
    assert_bits(here / "two", {n: F(0.3) * base[n] + F(-2) * tuned[n] for n in base})
    ws.linear(trio.base, trio.tuned, output="same", weight="0,5")
    assert read(here / "same") == trio.tensors["tuned"]


def test_slerp_goes_along_the_circle(trio: Trio, here: Path) -> None:
    t = 0.3
    ws.slerp(trio.base, trio.tuned, output="out", t=[str(t), "*norm*=1"], memory="1")
    a, b = arrays(trio, "base"), arrays(trio, "tuned")
    expected = {}
    for name in a:
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        p, q = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
        expected[name] = b[name] if "norm" in name else F(p) * a[name] + F(q) * b[name]
    assert_bits(here / "out", expected)


@pytest.mark.parametrize(("other", "p"), [(1.0, 0.75), (-1.0, 0.75), (0.0, None)])
def test_slerp_of_collinear_and_empty_tensors(here: Path, other: float, p: float | None) -> None:
    """The same and opposite directions go straight; zero has none, and stands at a right angle."""
    values = random_tensors(0, {"w": (300,)}, "F32")["w"][2]
    a = np.frombuffer(values, F)
    for name, data in {"a": a, "b": F(other) * a}.items():
        Path(f"{name}.safetensors").write_bytes(encode({"w": ("F32", (300,), data.tobytes())}))
    ws.slerp("a.safetensors", "b.safetensors", output="out.safetensors", t="0.25")
    found = np.frombuffer(read(here / "out.safetensors")["w"][2], F)
    factor = F(np.sin(0.75 * np.pi / 2)) if p is None else F(p)
    np.testing.assert_array_equal(found, factor * a + F(0.25 * bool(other)) * (F(other) * a))


def test_task_arithmetic_is_its_formula(trio: Trio, here: Path) -> None:
    given = (trio.base, trio.tuned, trio.instruct)
    ws.task_arithmetic(*given, output="out", weight="0.6,-0.25", lam="0.5")
    base, x, y = (arrays(trio, role) for role in ("base", "tuned", "instruct"))
    b = base
    expected = {n: (b[n] + F(0.3) * (x[n] - b[n])) + F(-0.125) * (y[n] - b[n]) for n in b}
    assert_bits(here / "out", expected)
    ws.task_arithmetic(*given, output="mean", weight="0.75,0.25", normalize=True)
    ws.task_arithmetic(*given, output="sum", weight="0.75,0.25")
    assert read(here / "mean") == read(here / "sum")
    ws.task_arithmetic(*given, output="none", lam="0")
    assert read(here / "none") == trio.tensors["base"]


def test_task_arithmetic_of_one_is_graft(trio: Trio, here: Path) -> None:
    ws.task_arithmetic(trio.base, trio.tuned, output="ours", weight="0.7")
    ws.graft(trio.base, trio.base, trio.tuned, output="graft", scale="0.7")
    assert read(here / "ours") == read(here / "graft")


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("memory", ["1", "1GiB"])
def test_ties_is_its_formula(trio: Trio, here: Path, mean: bool, memory: str) -> None:
    """Deltas of bfloat16 models have equal magnitudes, so the order of sorting is tried too."""
    given = (trio.base, trio.tuned, trio.instruct)
    options = {"weight": "1,0.5", "density": "0.4,0.7", "lam": "0.9", "memory": memory}
    ws.ties(*given, output="out", no_normalize=not mean, **options)
    base, x, y = (arrays(trio, role) for role in ("base", "tuned", "instruct"))
    expected = {}
    for name, origin in base.items():
        vectors = [trimmed(x[name] - origin, 0.4), trimmed(y[name] - origin, 0.7)]
        expected[name] = origin + F(0.9) * elected(vectors, [1, 0.5], mean=mean)
    assert_bits(here / "out", expected)


def test_ties_keeps_as_many_as_it_says(here: Path) -> None:
    """Also where all magnitudes are equal, in a tensor of several blocks of counting."""
    size = 600_001
    changed = {"w": ("F32", (size,), np.ones(size, F).tobytes())}
    Path("base.safetensors").write_bytes(encode({"w": ("F32", (size,), bytes(4 * size))}))
    Path("tuned.safetensors").write_bytes(encode(changed))
    ws.ties("base.safetensors", "tuned.safetensors", output="out.safetensors", density="0.6")
    found = np.frombuffer(read(here / "out.safetensors")["w"][2], F)
    np.testing.assert_array_equal(found, np.arange(size) < int(0.6 * size))


@pytest.mark.parametrize("elect", [True, False])
def test_dare_is_its_formula(trio: Trio, here: Path, elect: bool) -> None:
    given = (trio.base, trio.tuned, trio.instruct)
    ws.dare(*given, output="out", weight="1,0.5", density="0.4,0.7", elect=elect, seed=3)
    base, *models = (arrays(trio, role) for role in ("base", "tuned", "instruct"))
    expected = {}
    for name, origin in base.items():
        vectors = []
        for number, density in enumerate((0.4, 0.7)):
            bits = np.empty((-(-origin.size // 4096), 4096), np.uint32)
            draw_bits(bits, key_of(3, number, name), 0)
            kept = bits.reshape(-1)[: origin.size] < round(density * 2**32)
            vectors.append((models[number][name] - origin) * kept * F(1 / density))
        total = vectors[0] + F(0.5) * vectors[1]
        merged = elected(vectors, [1, 0.5], mean=False) if elect else total
        expected[name] = origin + merged
    assert_bits(here / "out", expected)


def test_dare_keeps_its_share_and_its_size(here: Path) -> None:
    """Whatever cuts the tensor into units; five standard deviations of the share."""
    size = 3_000_000
    delta = np.abs(np.random.default_rng(0).standard_normal(size)).astype(F)
    Path("base.safetensors").write_bytes(encode({"w": ("F32", (size,), bytes(4 * size))}))
    Path("tuned.safetensors").write_bytes(encode({"w": ("F32", (size,), delta.tobytes())}))
    results = []
    for options in ({"memory": "1MiB", "jobs": 3}, {"jobs": 1}):
        given = ("base.safetensors", "tuned.safetensors")
        ws.dare(*given, output="out.safetensors", density="0.2", force=True, **options)
        results.append(read(here / "out.safetensors")["w"][2])
    assert results[0] == results[1]
    found = np.frombuffer(results[0], F)
    kept = found != 0
    assert abs(kept.mean() - 0.2) < 5 * (0.2 * 0.8 / size) ** 0.5
    np.testing.assert_array_equal(found[kept], delta[kept] * F(1 / 0.2))
    ws.dare(*given, output="l1.safetensors", density="0.2", rescale="l1")
    found = np.frombuffer(read(here / "l1.safetensors")["w"][2], F)
    # One factor, rounded once, and a product each: 2^-23 of the sum.
    assert abs(found.sum(dtype=np.float64) / delta.sum(dtype=np.float64) - 1) < 2**-23


@pytest.mark.parametrize("operator", ["ties", "dare"])
def test_what_is_not_finite_is_refused(here: Path, operator: str) -> None:
    for name, value in {"base": 0, "tuned": np.inf}.items():
        data = np.full(10, value, F).tobytes()
        Path(f"{name}.safetensors").write_bytes(encode({"w": ("F32", (10,), data)}))
    with pytest.raises(WeightsmithError, match="NaN or infinite"):
        getattr(ws, operator)(
            "base.safetensors", "tuned.safetensors", output="o.safetensors", density="0.99"
        )


def test_the_number_of_values_must_fit(trio: Trio) -> None:
    given = (trio.base, trio.tuned, trio.instruct)
    with pytest.raises(UsageError, match="one for each of 2 models"):
        ws.ties(*given, output="out", weight="1,2,3")
    with pytest.raises(UsageError, match="not between 0 and 1"):
        ws.ties(*given, output="out", density="1.5")
    with pytest.raises(UsageError, match="add up to 0"):
        ws.linear(trio.base, trio.tuned, output="out", weight="1,-1")
    with pytest.raises(UsageError, match="too large"):
        ws.ties(*given, output="out", weight="1e39")


def test_vocabularies_by_the_number_of_the_model(here: Path) -> None:
    for seed, (name, rows) in enumerate({"base": 4, "a": 6, "b": 5}.items()):
        shapes = {"model.embed_tokens.weight": (rows, 8)}
        write_directory(here / name, random_tensors(seed, shapes))
    with pytest.raises(Mismatch, match="vocabularies"):
        ws.ties("base", "a", "b", output="out")
    ws.ties("base", "a", "b", output="out", vocab="model1")
    assert read(here / "out")["model.embed_tokens.weight"][1] == (6, 8)


def test_the_command_lines(trio: Trio, here: Path) -> None:
    done = weightsmith("ties", trio.base, trio.tuned, "--density", "0.5", "-o", "one.safetensors")
    assert done.returncode == 0, done.stderr
    done = weightsmith("delta", trio.base, trio.tuned, "-o", "delta.safetensors")
    done = weightsmith("linear", trio.base, "delta.safetensors", "-o", "two.safetensors")
    assert_fails(done, 4, "is a delta, not a model")
