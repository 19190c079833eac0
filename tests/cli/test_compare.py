"""compare: figures, what is not compared, streams, plots, hostile names."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from support import (
    Tensors,
    Trio,
    assert_fails,
    encode,
    from_bf16,
    python,
    random_tensors,
    shell,
    weightsmith,
    write_directory,
)

EVIL = '</svg><script>alert("&1")</script>--><!-- $\\frac{$ \x1b[31m _x'
KEYS = [
    "name",
    "layer",
    "module",
    "shape",
    "dtype_a",
    "dtype_b",
    "elements",
    "sigma",
    "unchanged",
    "norm_a",
    "norm_b",
]
KEYS += ["norm_delta", "cosine"]


def facts(*arguments: object) -> dict:
    done = weightsmith("compare", *arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def f32(*values: float) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", (len(values),), np.array(values, np.float32).tobytes()


def test_figures_against_numpy(trio: Trio) -> None:
    found = facts(trio.base, trio.tuned, "--spectrum")
    sigmas = []
    for entry in found["tensors"]:
        a, b = (
            from_bf16(trio.tensors[role][entry["name"]][2])
            .astype(np.float64)
            .reshape(entry["shape"])
            for role in ("base", "tuned")
        )
        assert list(entry)[: len(KEYS)] == KEYS
        expected = np.abs(a - b).sum() / (np.abs(a).sum() + np.abs(b).sum())
        assert entry["sigma"] == pytest.approx(expected, rel=1e-12)
        assert entry["unchanged"] == (a == b).mean()
        assert entry["norm_delta"] == pytest.approx(np.linalg.norm(a - b), rel=1e-12)
        cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
        assert entry["cosine"] == pytest.approx(cosine, rel=1e-9)
        sigmas += [] if "norm" in entry["name"] else [expected]
        if a.ndim == 2:
            values = np.linalg.svd(a - b, compute_uv=False)
            share = (values[:4] ** 2).sum() / (values**2).sum()
            assert entry["energy"]["4"] == pytest.approx(share, rel=1e-6)
            p = values / values.sum()
            assert entry["erank_delta"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
        else:
            assert "energy" not in entry
    assert found["mean_sigma"] == pytest.approx(np.mean(sigmas), rel=1e-12)
    assert found["not_compared"] == []


def test_a_checkpoint_and_itself(trio: Trio) -> None:
    found = facts(trio.base, trio.base, "--spectrum")
    assert found["mean_sigma"] == 0
    assert {entry["unchanged"] for entry in found["tensors"]} == {1}
    assert found["tensors"][0]["erank_delta"] == 0
    assert found["tensors"][0]["energy"]["1"] is None


def test_the_ends_of_float32(here: Path) -> None:
    large = np.full((4, 3), np.finfo(np.float32).max)
    for name, values in (("a", large), ("b", -large)):
        tensors = {"w": ("F32", values.shape, values.tobytes())}
        Path(f"{name}.safetensors").write_bytes(encode(tensors))
    (entry,) = facts("a.safetensors", "b.safetensors", "--spectrum")["tensors"]
    assert (entry["sigma"], entry["cosine"]) == (1, pytest.approx(-1))
    assert "erank_delta" not in entry


def test_blocks_do_not_show(here: Path) -> None:
    size = 3 * (1 << 16) + 17
    a, b = (random_tensors(seed, {"w": (size,)}) for seed in (1, 2))
    Path("a.safetensors").write_bytes(encode(a))
    Path("b.safetensors").write_bytes(encode(b))
    (entry,) = facts("a.safetensors", "b.safetensors")["tensors"]
    x, y = (from_bf16(t["w"][2]).astype(np.float64) for t in (a, b))
    expected = np.abs(x - y).sum() / (np.abs(x).sum() + np.abs(y).sum())
    assert entry["elements"] == size
    assert entry["sigma"] == pytest.approx(expected, rel=1e-12)


def test_with_spectrum_the_sums_are_the_same_bits(trio: Trio) -> None:
    plain, more = facts(trio.base, trio.tuned), facts(trio.base, trio.tuned, "--spectrum")
    for left, right in zip(plain["tensors"], more["tensors"], strict=True):
        assert left == {key: right[key] for key in left}


def odd_pair() -> tuple[Tensors, Tensors]:
    integers = "I64", (1,), bytes(8)
    one = {"w": f32(1, 2), "longer": f32(1), "mine": f32(1), "n": integers, "bad": f32(np.nan, 1)}
    two = {"w": f32(1, 3), "longer": f32(1, 2), "ours": f32(1), "n": integers, "bad": f32(0, 1)}
    return one, two


def test_what_cannot_be_compared_is_listed(here: Path) -> None:
    for name, tensors in zip("ab", odd_pair(), strict=True):
        Path(f"{name}.safetensors").write_bytes(encode(tensors))
    found = facts("a.safetensors", "b.safetensors")
    assert [entry["name"] for entry in found["tensors"]] == ["w"]
    assert {entry["name"]: entry["reason"] for entry in found["not_compared"]} == {
        "longer": "shapes differ: 1 and 2",
        "mine": "only in A",
        "ours": "only in B",
        "n": "no arithmetic on I64",
        "bad": "has NaN or infinite elements",
    }
    text = weightsmith("compare", "a.safetensors", "b.safetensors").stdout.decode()
    assert "not compared: 5 tensors" in text
    compare = ("compare", "a.safetensors", "b.safetensors")
    assert_fails(weightsmith(*compare, "--select", "longer"), 4, "no tensor can be compared")
    assert_fails(weightsmith(*compare, "--select", "bad"), 4, "finite")
    assert_fails(weightsmith(*compare, "--select", "x*"), 2, "matches no tensor")
    assert len(facts(*compare[1:], "--exclude", "{longer,mine}")["not_compared"]) == 3


def test_dtypes_may_differ(trio: Trio, here: Path) -> None:
    weightsmith("cat", trio.base, "--dtype", "float32", "-o", "wide.safetensors")
    found = facts(trio.base, "wide.safetensors")
    assert found["mean_sigma"] == 0
    assert {entry["unchanged"] for entry in found["tensors"]} == {1}
    assert (found["tensors"][0]["dtype_a"], found["tensors"][0]["dtype_b"]) == ("BF16", "F32")


def test_streams(trio: Trio, here: Path) -> None:
    files = facts(trio.base, trio.tuned)["tensors"]
    for form in ("{0} - < {1}/model.safetensors", "- {1} < {0}/model.safetensors"):
        done = shell(f"weightsmith compare --json {form.format(trio.base, trio.tuned)}")
        assert json.loads(done.stdout)["tensors"] == files
    piped = shell(f"weightsmith cat {trio.tuned} | weightsmith compare {trio.base} - --json")
    assert json.loads(piped.stdout)["tensors"] == files
    write_directory(Path("turned"), dict(reversed(trio.tensors["tuned"].items())))
    both = f"weightsmith compare <(weightsmith cat {trio.base}) <(weightsmith cat turned)"
    assert_fails(shell(both), 4, "not have their tensors in the same order")
    short = shell(
        f"head -c 9000 {trio.tuned}/model.safetensors | weightsmith compare {trio.base} -"
    )
    assert_fails(short, 3, "truncated")


def test_the_table(trio: Trio) -> None:
    text = weightsmith("compare", trio.base, trio.tuned).stdout.decode()
    assert "mlp.down_proj    2" in text
    assert "outside the layers" in text
    assert "over 6 tensors (no biases, norms)" in text
    loud = weightsmith("compare", trio.base, trio.tuned, "-v", "--spectrum").stdout.decode()
    assert "model.layers.1.mlp.up_proj.weight" in loud
    assert "top 64" in loud
    assert weightsmith("compare", trio.base, trio.tuned, "-q").stdout == b""


def test_no_torch_without_spectrum(trio: Trio) -> None:
    code = (
        f"import sys; sys.argv = ['weightsmith', 'compare', {str(trio.base)!r}, {str(trio.tuned)!r}]\n"
        "from weightsmith.cli.app import main; main()\n"
        "assert not {'torch', 'matplotlib', 'triton'} & set(sys.modules)"
    )
    python(code)


def test_memory_is_bounded_by_blocks(here: Path) -> None:
    spec = {f"layers.{i}.w": (1 << 22,) for i in range(4)}
    Path("a.safetensors").write_bytes(encode(random_tensors(1, spec)))
    code = (
        "import sys, resource; import numpy\n"
        "from weightsmith.kernels import elementwise; import weightsmith.report.tables\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sys.argv = ['weightsmith', 'compare', 'a.safetensors', 'a.safetensors']\n"
        "from weightsmith.cli.app import main; main()\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 16 << 10, grown"
    )
    python(code)


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_plots_are_files_of_their_kind(suffix: str, trio: Trio, here: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = Path(f"gap.{suffix}")
    command = ("compare", trio.base, trio.tuned, "--spectrum", "-q", "--plot", plot)
    done = weightsmith(*command)
    assert (done.returncode, done.stderr) == (0, b"")
    content = plot.read_bytes()
    assert {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!DOCTYPE html>"}[suffix] in content[:20]
    assert_fails(weightsmith(*command), 2, "the target exists", "--force")
    assert weightsmith(*command, "--force").returncode == 0
    assert plot.read_bytes() == content  # same inputs, same bytes
    assert [path.name for path in here.iterdir()] == [plot.name]


def test_hostile_names_stay_text(here: Path) -> None:
    pytest.importorskip("matplotlib")
    shape = (6, 4)
    for name, seed in (("a", 1), ("b", 2)):
        shapes = {f"layers.{i}.{EVIL}.weight": shape for i in range(2)} | {EVIL: shape, "_": shape}
        only = {f"{name}{EVIL}": shape}
        Path(f"{name}.safetensors").write_bytes(encode(random_tensors(seed, shapes | only)))
    for plot in ("gap.svg", "gap.html", "gap.png"):
        done = weightsmith(
            "compare", "a.safetensors", "b.safetensors", "--spectrum", "--plot", plot
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        assert b"\x1b" not in done.stdout
    page = Path("gap.html").read_text()
    assert "<script" not in page
    assert page.count("</svg>") == 1
    assert "&lt;script&gt;" in page
    assert "<script" not in Path("gap.svg").read_text()
    root = ET.fromstring(Path("gap.svg").read_text())
    assert not [e for e in root.iter() if str(e.tag).endswith("script")]


def test_plot_errors_come_before_the_work(trio: Trio, here: Path) -> None:
    compare = ("compare", trio.base, trio.tuned, "--plot")
    assert_fails(weightsmith(*compare, "gap.pdf"), 2, "--plot gap.pdf", ".html")
    assert_fails(weightsmith(*compare, "nowhere/gap.png"), 2, "no such directory")
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['weightsmith', 'compare', {str(trio.base)!r}, 'missing', '--plot', 'gap.png']\n"
        "from weightsmith.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert_fails(done, 2, "plots need matplotlib", "pip install 'weightsmith[plot]'")
    assert list(here.iterdir()) == []


def test_a_model_without_layers_can_be_drawn(here: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, seed in (("a", 1), ("b", 2)):
        Path(f"{name}.safetensors").write_bytes(encode(random_tensors(seed, {"w": (3,)})))
    done = weightsmith("compare", "a.safetensors", "b.safetensors", "--plot", "gap.png")
    assert done.returncode == 0, done.stderr.decode()
    same = weightsmith("compare", "a.safetensors", "a.safetensors", "--plot", "same.png")
    assert same.returncode == 0, same.stderr.decode()
