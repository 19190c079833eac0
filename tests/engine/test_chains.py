"""Chains: the bytes of the pipe, in one process, with every report, error and bound it owes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chained import assert_same, chain, outcome_of, piped, running, step, write_models
from support import (
    Trio,
    assert_fails,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)

from weightsmith.engine import units
from weightsmith.engine.execute import Observer, execute_chain
from weightsmith.errors import Mismatch, UsageError, WeightsmithError

MODELS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "cat": ("cat", ["tuned"], {"dtype": "F32"}),
    "cat, untouched": ("cat", ["tuned"], {}),
    "delta": ("delta", ["base", "tuned"], {}),
    "delta, lossless": ("delta", ["base", "tuned"], {"lossless": True}),
    "graft": ("graft", ["base", "instruct", "tuned"], {"scale": "0.5"}),
    "interpolate": ("interpolate", ["tuned", "instruct"], {"lam": "0.8"}),
    "timber": ("timber", ["base", "tuned"], {"gamma": "0.5"}),
    "rotate": ("rotate", ["tuned"], {}),
    "ptqtp": ("ptqtp", ["tuned"], {"group_size": 16}),
    "ptqtp, dense": ("ptqtp", ["tuned"], {"group_size": 16, "format": "dense"}),
    "unpack": ("unpack", ["packed"], {}),
    "memristor": ("memristor", ["tuned"], {"device": "pcm"}),
    "memristor, whole": ("memristor", ["tuned"], {"device": "gaussian", "scale": "tensor"}),
}
READERS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "cat": ("cat", ["-"], {"dtype": "F16"}),
    "cat, untouched": ("cat", ["-"], {}),
    "delta": ("delta", ["base", "-"], {}),
    "delta, lossless": ("delta", ["base", "-"], {"lossless": True}),
    "delta of": ("delta", ["-", "tuned"], {"missing": "drop"}),
    "graft": ("graft", ["base", "instruct", "-"], {"missing": "keep"}),
    "graft of": ("graft", ["-", "instruct", "tuned"], {"missing": "keep", "scale": "-1"}),
    "interpolate": ("interpolate", ["instruct", "-"], {"lam": "0.3"}),
    "interpolate of": ("interpolate", ["-", "instruct"], {"lam": "0.3", "dtype": "F32"}),
    "timber": ("timber", ["base", "-"], {}),
    "timber of": ("timber", ["-", "instruct"], {"dtype": "F32"}),
    "rotate": ("rotate", ["-"], {}),
    "ptqtp": ("ptqtp", ["-"], {"group_size": 16}),
    "ptqtp, int4": ("ptqtp", ["-"], {"group_size": 16, "format": "int4", "ratio": "3:2"}),
    "unpack": ("unpack", ["-"], {}),
    "memristor": ("memristor", ["-"], {"device": "pcm"}),
    "memristor, whole": ("memristor", ["-"], {"device": "gaussian", "scale": "tensor"}),
}
# What is no model has few readers.
TAKES = {
    "delta": {"cat", "cat, untouched", "graft"},
    "ptqtp": {"cat", "cat, untouched", "unpack", "memristor", "memristor, whole"},
}
TAKES["delta, lossless"] = TAKES["delta"]
REFUSED = {("cat", "delta, lossless")}  # float32 and bfloat16 have other bits


@pytest.fixture
def tiny_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few hundred elements, so that small tensors are cut too."""
    monkeypatch.setattr(units, "BLOCK_ELEMENTS", 320)
    monkeypatch.setattr(units, "_SMALLEST", 64)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories of models, `tied` and `untied`."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("tied", "untied"):
        (root / kind).mkdir()
        write_models(root / kind, tied=kind == "tied")
    return root


def enter(monkeypatch: pytest.MonkeyPatch, models: Path, here: Path, kind: str) -> None:
    for model in (models / kind).iterdir():
        (here / model.name).symlink_to(model)


@pytest.mark.parametrize("first", MODELS)
def test_every_pair_has_the_bytes_of_the_pipe(
    first: str, models: Path, here: Path, tiny_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or ends with the same kind of error; sidecars, card and provenance included."""
    enter(monkeypatch, models, here, "tied" if first == "timber" else "untied")
    chain([("ptqtp", ["instruct"], {"group_size": 16})], "packed")
    for number, (second, reader) in enumerate(READERS.items()):
        pair, one, other = [MODELS[first], reader], f"chain-{number}", f"pipe-{number}"
        found = [outcome_of(chain, pair, one), outcome_of(piped, pair, other)]
        assert found[0] == found[1], second
        works = second in TAKES.get(first, READERS.keys() - {"unpack"})
        assert (found[0] == "done") == (works and (first, second) not in REFUSED), second
        if found[0] == "done":
            assert_same(one, other)


LONG = {
    "element": [
        ("delta", ["base", "tuned"], {}),
        ("graft", ["base", "instruct", "-"], {"scale": "0.5"}),
        ("interpolate", ["other", "-"], {"lam": "0.8"}),
    ],
    "the issue's": [
        ("graft", ["base", "instruct", "tuned"], {}),
        ("timber", ["base", "-"], {}),
        ("ptqtp", ["-"], {"group_size": 16}),
    ],
    "rows, read late": [
        ("timber", ["base", "tuned"], {"gamma": "0.5"}),
        ("rotate", ["-"], {"seed": 1}),
        ("ptqtp", ["-"], {"group_size": 16, "format": "int4", "ratio": "3:2"}),
        ("cat", ["-"], {"select": ("*.layers.*",)}),
    ],
}


@pytest.mark.parametrize("commands", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("target", ["out", "out.safetensors"])
def test_long_chains(
    commands: list[Any],
    kind: str,
    target: str,
    models: Path,
    here: Path,
    tiny_units: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(monkeypatch, models, here, kind)
    outcome = chain(commands, f"chain-{target}")
    piped(commands, f"pipe-{target}")
    if target == "out":
        assert_same("chain-out", "pipe-out")
    else:
        assert Path(f"chain-{target}").read_bytes() == Path(f"pipe-{target}").read_bytes()
    assert [link.operator for link in outcome.links] == [name for name, _, _ in commands[:-1]]


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("last", ["rotate", "timber", "ptqtp", "graft"])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_first_link_may_read_a_stream(
    jobs: int,
    last: str,
    kind: str,
    models: Path,
    here: Path,
    tiny_units: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read in order, once, whatever the later links want of it late or as a whole."""
    enter(monkeypatch, models, here, kind)
    first = ("cat", ["tuned"], {"dtype": "F32"})
    rest = [("interpolate", ["instruct", "-"], {"lam": "0.5"}), ("timber", ["base", "-"], {})]
    commands = [first, *rest, READERS[last]]
    piped(commands, "pipe")
    with running(first) as fifo:
        reading = ("interpolate", ["instruct", fifo], {"lam": "0.5"})
        chain([reading, rest[1], READERS[last]], "chain", jobs=jobs)
    assert_same("chain", "pipe")


def test_tensors_are_cut_whatever_the_links_ask(
    models: Path, here: Path, tiny_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows stay whole through a link that could be cut anywhere; nothing is made twice."""
    enter(monkeypatch, models, here, "untied")
    commands = [MODELS["memristor"], ("interpolate", ["instruct", "-"], {"lam": "0.5"})]
    whole = chain(commands[:1], "alone").figures
    (link,) = chain(commands, "chain").links
    assert link.figures.keys() == whole.keys()
    for name, figures in link.figures.items():
        assert figures == pytest.approx(whole[name], rel=1e-9), name


def test_what_is_read_twice_is_made_once(
    models: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int4 makes three tensors of each weight; the link's figures count it once."""
    enter(monkeypatch, models, here, "untied")
    alone = chain([MODELS["memristor"]], "alone").figures
    (link,) = chain([MODELS["memristor"], READERS["ptqtp, int4"]], "chain").links
    assert link.figures == alone


def test_named_results_may_be_read_by_several(
    models: Path, here: Path, monkeypatch: pytest.MonkeyPatch, tiny_units: None
) -> None:
    enter(monkeypatch, models, here, "untied")
    steps = [
        step(("timber", ["base", "tuned"], {})),
        step(("graft", ["base", "instruct", "refined"], {})),
        step(("interpolate", ["refined", "-"], {"lam": "0.5"}), output="chain.safetensors"),
    ]
    steps[0] = replace(steps[0], name="refined")
    execute_chain(steps)
    # Not byte by byte: of a file the record has another fingerprint.
    chain([("timber", ["base", "tuned"], {})], "refined.safetensors")
    chain([("graft", ["base", "instruct", "refined.safetensors"], {})], "grafted.safetensors")
    chain(
        [("interpolate", ["refined.safetensors", "grafted.safetensors"], {"lam": "0.5"})],
        "steps.safetensors",
    )
    assert read(Path("chain.safetensors")) == read(Path("steps.safetensors"))


def test_overflow_in_any_link_is_refused(here: Path) -> None:
    """And the tensors are not noted as finished, so that --resume could not hide it."""
    tensors = random_tensors(0, {"w": (300, 40)}, dtype="F32")
    big = {
        "w": (tensors["w"][0], tensors["w"][1], (np.ones((300, 40), np.float32) * 1e6).tobytes())
    }
    write_directory(Path("model"), big)
    commands = [("cat", ["model"], {"dtype": "F16"}), ("cat", ["-"], {"dtype": "F32"})]
    with pytest.raises(WeightsmithError, match=r"link 1 \(cat\): 12000 values in 1 tensors"):
        chain(commands)
    assert {path.name for path in here.iterdir()} == {"model"}


def test_an_error_names_its_link(models: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, models, here, "untied")
    graft = MODELS["graft"]
    with pytest.raises(UsageError, match=r"^link 2 \(interpolate\): --lambda is missing"):
        chain([graft, ("interpolate", ["base", "-"], {})])
    with pytest.raises(
        Mismatch, match=r"^link 2 \(timber\): INSTRUCT is a delta.*link 1 \(delta\)"
    ):
        chain([MODELS["delta"], ("timber", ["base", "-"], {})])
    with pytest.raises(UsageError, match=r"no later command reads the result of link 1 \(graft\)"):
        chain([graft, ("cat", ["base"], {})])
    with pytest.raises(UsageError, match="can be only one of the inputs"):
        chain([graft, ("interpolate", ["-", "-"], {"lam": "0.5"})])
    assert not Path("chain").exists()


def test_infinite_weights_are_refused_in_the_link_that_spreads_them(here: Path) -> None:
    for name, value in (("base", 0.0), ("tuned", np.inf)):
        write_directory(
            Path(name), {"w": ("F32", (30, 40), np.full((30, 40), value, np.float32).tobytes())}
        )
    chained = [("timber", ["base", "tuned"], {}), ("cat", ["-"], {"dtype": "F16"})]
    with pytest.raises(WeightsmithError, match=r"^link 1 \(timber\): .*not finite.*tensor w"):
        chain(chained)


def test_an_interrupted_chain_goes_on(
    models: Path, here: Path, tiny_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bytes; not if an input or a parameter of any link is another."""
    enter(monkeypatch, models, here, "tied")
    commands = LONG["rows, read late"]
    chain(commands, "whole")

    def interrupt(seen: list[int] = []) -> None:  # noqa: B006 - counts
        seen.append(1)
        if len(seen) == 12:
            raise KeyboardInterrupt

    observer = Observer(tick=lambda _: interrupt())
    *first, last = (step(each) for each in commands)
    steps = [*first, replace(last, settings=replace(last.settings, output="out", jobs=1))]
    with pytest.raises(KeyboardInterrupt):
        execute_chain(steps, observer)
    assert not Path("out").exists()
    other = [step(("timber", ["base", "tuned"], {"gamma": "0.25"})), *steps[1:]]
    again = replace(steps[-1], settings=replace(steps[-1].settings, resume=True))
    with pytest.raises(Mismatch, match="other inputs or parameters"):
        execute_chain([*other[:-1], again])
    outcome = execute_chain([*steps[:-1], again])
    assert 0 < outcome.resumed < len(outcome.tensors)
    assert_same("out", "whole")


def test_the_command_line(trio: Trio, here: Path) -> None:
    """As a pipe of processes, streams at both ends, reports link by link."""
    delta, graft = f"delta {trio.base} {trio.tuned}", f"graft {trio.base} {trio.instruct}"
    done = shell(f"weightsmith {delta} then {graft} then cat - --dtype fp16 > chain.safetensors")
    assert done.returncode == 0, done.stderr.decode()
    told = done.stderr.decode().splitlines()
    assert [line.split(":")[0] for line in told] == [
        f"weightsmith {name}" for name in ("delta", "graft", "cat")
    ]
    assert "to link 2 (graft)" in told[0]
    shell(f"weightsmith {delta} | weightsmith {graft} | weightsmith cat - --dtype fp16 > pipe")
    assert Path("chain.safetensors").read_bytes() == Path("pipe").read_bytes()
    done = shell(f"cat pipe | weightsmith cat then cat --dtype bf16 then {graft} --force > chain")
    assert done.returncode == 0, done.stderr.decode()
    shell(
        f"cat pipe | weightsmith cat | weightsmith cat --dtype bf16 | weightsmith {graft} > pipe-2"
    )
    assert Path("chain").read_bytes() == Path("pipe-2").read_bytes()


def test_dry_run_and_json_show_every_link(trio: Trio, here: Path) -> None:
    graft = ("graft", trio.base, trio.instruct, trio.tuned)
    done = weightsmith(*graft, "--dry-run", "--select", "*.0.*", "then", "cat", "--select", "*.1.*")
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 8 + 8  # of the second, most are skipped
    assert sum(line.startswith("changed") for line in lines) == 3
    assert sum(line.startswith("skipped") for line in lines) == 6
    done = weightsmith(*graft, "--json", "then", "cat", "--dtype", "fp16", "-o", "out")
    found = json.loads(done.stdout)
    assert found["operator"] == "cat"
    assert [link["operator"] for link in found["links"]] == ["graft"]
    assert found["links"][0]["changed"] == found["copied"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cat BASE then cat --memory 1GiB -o x", "link 2 (cat): --memory is for the whole chain"),
        ("cat BASE then cat -q -o x", "link 2 (cat): --quiet is for the whole chain"),
        ("cat BASE -o y then cat -o x", "link 1 (cat): --output is for the whole chain"),
        ("cat BASE then verify -", "verify cannot be linked"),
        ("cat BASE --executor ray then cat -o x", "a chain runs on one machine"),
        ("cat BASE then", "then stands between two commands"),
        ("cat BASE then then cat", "then stands between two commands"),
        ("cat BASE then cat BASE -o x", "no later command reads the result of link 1 (cat)"),
        ("cat BASE then cat --nonsense", "No such option"),
        ("cat BASE then cat --dtype int3 -o x", "link 2 (cat): --dtype int3"),
        ("cat then cat -o x", "the forms are: weightsmith cat"),
    ],
)
def test_what_cannot_be_a_chain(words: str, message: str, trio: Trio, here: Path) -> None:
    done = weightsmith(*words.replace("BASE", str(trio.base)).split())
    assert_fails(done, 2, message)
    assert list(here.iterdir()) == []


def test_a_recipe_of_steps_is_the_chain(
    models: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, models, here, "untied")
    Path("recipe.yaml").write_text(
        "steps:\n- name: grafted\n  run: graft base instruct tuned --scale 0.5\n"
        "- timber base grafted\n- interpolate other - --lambda 0.8\n"
    )
    done = weightsmith("run", "recipe.yaml", "--jobs", "1", "-o", "recipe")
    assert done.returncode == 0, done.stderr.decode()
    chain(
        [
            ("graft", ["base", "instruct", "tuned"], {"scale": "0.5"}),
            ("timber", ["base", "-"], {}),
            ("interpolate", ["other", "-"], {"lam": "0.8"}),
        ]
    )
    assert_same("recipe", "chain")


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("steps: []", [], "a list of steps"),
        ("steps: [cat base]\nmerge_method: linear", [], "and nothing else"),
        ("steps: [{name: a}]", [], "has a name and a command to run"),
        ("steps: [{name: 1, run: cat base}]", [], "has a name and a command to run"),
        ("steps: ['cat \"base']", [], "No closing quotation"),
        ("steps: [cat base, verify -]", [], "verify cannot be linked"),
        ("steps: [cat base -o x]", [], "link 1 (cat): --output is for the whole chain"),
        ("steps: [cat base]", ["--dtype", "fp16"], "--dtype is for the steps"),
    ],
)
def test_what_is_no_recipe_of_steps(
    recipe: str, options: list[str], message: str, here: Path
) -> None:
    Path("recipe.yaml").write_text(recipe)
    assert_fails(weightsmith("run", "recipe.yaml", *options, "-o", "out"), 2, message)
