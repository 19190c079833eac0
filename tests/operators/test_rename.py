"""--rename: inputs whose tensors have other names come together."""

import json
from pathlib import Path

import pytest
from support import (
    Tensors,
    Trio,
    assert_fails,
    random_tensors,
    read,
    shell,
    weightsmith,
    write_directory,
)

import weightsmith as ours
from weightsmith.errors import UsageError

RULE = r"s/^model\./model.language_model./"
VISION = "model.visual.blocks.0.attn.proj.weight"


def multimodal(tensors: Tensors) -> Tensors:
    moved = {name.replace("model.", "model.language_model."): t for name, t in tensors.items()}
    return moved | random_tensors(7, {VISION: (8, 8)})


@pytest.fixture
def vlm(here: Path, trio: Trio) -> Path:
    """INSTRUCT as the language model of a multimodal one, in two shards."""
    return write_directory(Path("vlm"), multimodal(trio.tensors["instruct"]), shard_size=12_000)


def test_a_text_update_goes_onto_a_multimodal_model(trio: Trio, vlm: Path) -> None:
    ours.graft(trio.base, trio.instruct, trio.tuned, output="plain")
    plain = read(Path("plain"))
    done = weightsmith(
        "graft", trio.base, vlm, trio.tuned, "--rename", RULE, "--missing", "keep", "-o", "out"
    )
    assert done.returncode == 0, done.stderr
    found = read(Path("out"))
    assert found.pop(VISION) == read(vlm)[VISION]
    assert found == {
        name.replace("model.", "model.language_model."): t for name, t in plain.items()
    }
    index = json.loads(Path("out/model.safetensors.index.json").read_text())["weight_map"]
    assert index == json.loads((vlm / "model.safetensors.index.json").read_text())["weight_map"]


def test_pipe_and_resharding_give_the_same(trio: Trio, vlm: Path) -> None:
    options = f"--rename '{RULE}' --missing keep"
    script = f"""
        weightsmith delta {trio.base} {trio.tuned} > delta.safetensors &&
        weightsmith graft {trio.base} {vlm} delta.safetensors {options} -o whole &&
        cat delta.safetensors | weightsmith graft {trio.base} {vlm} {options} --shard-size 5kB -o piped
        """
    done = shell(script)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("piped").glob("*.safetensors"))) > 2
    assert read(Path("whole")) == read(Path("piped"))


def test_the_base_of_a_delta_is_known_under_any_name(trio: Trio, vlm: Path) -> None:
    ours.delta(trio.base, trio.tuned, output="delta.safetensors")
    given = ("--rename", RULE, "--missing", "keep")
    assert (
        weightsmith("graft", trio.base, vlm, "delta.safetensors", *given, "-o", "o").returncode == 0
    )
    done = weightsmith("graft", trio.instruct, vlm, "delta.safetensors", *given, "-o", "p")
    assert_fails(done, 4, "another base")


def test_a_role_makes_its_names_the_others(trio: Trio, vlm: Path) -> None:
    rule = r"a:s/language_model\.//"
    done = weightsmith(
        "interpolate", vlm, trio.base, "--lambda", "0.5", "--rename", rule, "--missing", "keep",
        "-o", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours.interpolate(trio.instruct, trio.base, lam="0.5", output="same")
    found = read(Path("out"))
    del found[VISION]
    assert found == read(Path("same"))


def test_cat_renames_and_back(here: Path, trio: Trio) -> None:
    script = rf"""
        weightsmith cat {trio.base} --rename '{RULE}' |
        weightsmith cat --rename 's/language_model\.//' -o out
        """
    assert shell(script).returncode == 0
    assert read(Path("out")) == trio.tensors["base"]


def test_without_the_rule_nothing_matches(trio: Trio, vlm: Path) -> None:
    done = weightsmith("graft", trio.base, vlm, trio.tuned, "-o", "out")
    assert_fails(done, 4, "tensor is missing in one input", "--rename")


def test_provenance_names_the_rules(trio: Trio, vlm: Path) -> None:
    ours.interpolate(vlm, trio.base, lam="0.5", missing="keep", rename=RULE, output="out")
    done = weightsmith("inspect", "out", "--json")
    assert json.loads(done.stdout)["provenance"]["parameters"]["rename"] == [RULE]


def test_names_in_a_quantised_configuration_are_not_belied(here: Path, trio: Trio) -> None:
    ours.ptqtp(trio.base, output="packed")
    done = weightsmith("cat", "packed", "--rename", RULE, "-o", "out")
    assert_fails(done, 4, "quantised", "weightsmith unpack")


def test_models_of_a_list_have_numbers(trio: Trio, vlm: Path) -> None:
    """A rule without a role spares the first, whose names the output takes."""
    ours.linear(trio.base, trio.instruct, output="plain")
    expected = read(Path("plain"))
    ours.linear(trio.base, vlm, rename=r"s/language_model\.//", missing="drop", output="usual")
    assert read(Path("usual")) == expected
    rule = r"model1:s/language_model\.//"
    ours.linear(vlm, trio.base, rename=rule, missing="drop", output="named")
    assert read(Path("named")) == expected
    with pytest.raises(UsageError, match="expected one of model1, model2, got model3"):
        ours.linear(vlm, trio.base, rename="model3:s/a/b/", output="no")
