"""The documentation: complete, and true. Its examples run.

Every block of sh or python in README.md and docs/*.md runs, unless its first line begins with
`# not run`. The blocks of a page run in order, in one directory that holds the checkpoints base/,
tuned/, instruct/ and thinking/, multimodal/, mixture/ and float8/; for a page that asks for them, a model that runs, small/, and a
text, novel.txt.
"""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Tensors, environment, make_trio, random_tensors, shell, write_directory

from weightsmith.cli.bench import bench as bench_command
from weightsmith.cli.calibrate import calibrate as calibrate_command
from weightsmith.cli.command import command_of
from weightsmith.cli.compare import compare as compare_command
from weightsmith.cli.extract_lora import extract_lora as extract_lora_command
from weightsmith.cli.generate import generate as generate_command
from weightsmith.cli.inspect import inspect as inspect_command
from weightsmith.cli.perplexity import perplexity as perplexity_command
from weightsmith.cli.run import run as run_command
from weightsmith.cli.sweep import sweep as sweep_command
from weightsmith.cli.verify import verify as verify_command
from weightsmith.operators.registry import operators

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PIPELINES = ROOT / "examples" / "pipelines"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINKING = [*PAGES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG"))]
LINKING += sorted((ROOT / "kernels").glob("*/README.md"))
COMMANDS: dict[str, Callable[..., None]] = {
    **{name: command_of(operator) for name, operator in operators().items()},
    "bench": bench_command,
    "calibrate": calibrate_command,
    "compare": compare_command,
    "extract-lora": extract_lora_command,
    "generate": generate_command,
    "inspect": inspect_command,
    "perplexity": perplexity_command,
    "run": run_command,
    "sweep": sweep_command,
    "verify": verify_command,
}

_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a page that are meant to run."""
    found = blocks_of(page.read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if not text.startswith("# not run")]


def blocks_of(markdown: str) -> list[tuple[str, str]]:
    """(language, text) of all blocks of sh or python."""
    return _BLOCK.findall(markdown)


def flags(command: Callable[..., None]) -> set[str]:
    """The long options of a command."""
    found: set[str] = set()
    for name, parameter in inspect.signature(command).parameters.items():
        (described,) = parameter.annotation.__metadata__
        if type(described).__name__ == "OptionInfo":
            # In Annotated, typer takes the first name for a default.
            given = [described.default, *(described.param_decls or ())]
            long = {flag for flag in given if isinstance(flag, str) and flag.startswith("--")}
            found |= long or {f"--{name.replace('_', '-')}"}
    return found


def anchors(page: Path) -> set[str]:
    """What links can point to within a page, as the hosts of such pages name headings."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def models(here: Path) -> Path:
    """The directory that the examples expect to be in."""
    make_trio(here)
    write_directory(here / "thinking", random_tensors(3))
    write_directory(here / "multimodal", multimodal(random_tensors(4)))
    write_directory(here / "mixture", mixture())
    write_directory(here / "float8", float8())
    return here


def multimodal(tensors: Tensors) -> Tensors:
    """A text model within another, beside a vision tower."""
    moved = {name.replace("model.", "model.language_model."): t for name, t in tensors.items()}
    return moved | random_tensors(5, {"model.visual.proj.weight": (8, 8)})


def mixture() -> Tensors:
    """Two experts."""
    shapes = {
        f"model.layers.0.mlp.experts.{expert}.{name}_proj.weight": shape
        for expert in range(2)
        for name, shape in {"gate": (12, 8), "up": (12, 8), "down": (8, 12)}.items()
    }
    return random_tensors(6, {**shapes, "lm_head.weight": (16, 8)})


def float8() -> Tensors:
    """A weight in two blocks of DeepSeek-V3's size."""
    name = "model.layers.0.mlp.up_proj.weight"
    scales = np.float32([0.01, 0.02]).tobytes()
    return {
        name: ("F8_E4M3", (64, 256), bytes(range(64)) * 256),
        f"{name}_scale_inv": ("F32", (1, 2), scales),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_page_that_opens_with_an_example(name: str) -> None:
    page = DOCS / f"{name}.md"
    assert page.is_file(), f"docs/{name}.md is missing"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n\n```sh\nweightsmith ")
    assert f"({name}.md)" in (DOCS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    page = DOCS / f"{name}.md"
    text = "".join(p.read_text(encoding="utf-8") for p in (page, DOCS / "common.md") if p.is_file())
    options = flags(COMMANDS[name])
    assert {"--json"} <= options
    assert {o for o in options if not re.search(rf"{o}(?![\w-])", text)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page: Path, models: Path) -> None:
    if any("small" in text for _, text in blocks(page)):
        from models import tiny_model  # takes seconds to import

        tiny_model(models / "small")
        (models / "novel.txt").write_text("It is a truth universally acknowledged. " * 20)
    for language, text in blocks(page):
        if language == "sh":
            done = shell(f"set -e\n{text}")
        else:
            done = subprocess.run(
                [sys.executable, "-c", text],
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=environment(),
            )
        assert done.returncode == 0, f"{text}\n{done.stdout.decode()}\n{done.stderr.decode()}"


def test_the_pipelines_run(models: Path) -> None:
    script = f"""
        set -e
        PATH={PIPELINES}:$PATH
        graft.sh base/ instruct/ tuned/ grafted/
        sweep.sh instruct/ thinking/ sweep 0.2
        sweep.sh instruct/ thinking/ sweep 0.2 1
        archive.sh pack base/ tuned/ tuned.delta.gz
        archive.sh unpack base/ tuned.delta.gz restored/ tuned/
        weightsmith verify tuned/ --input-of restored/
    """
    done = shell(script)
    assert done.returncode == 0, done.stderr.decode()
    assert {path.name for path in Path("sweep").iterdir()} == {"lambda-0.2", "lambda-1"}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
