"""graft --add: several task vectors in one pass, against the formula in numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import (
    Trio,
    assert_fails,
    decode,
    encode,
    from_bf16,
    random_tensors,
    read,
    shell,
    to_bf16,
    weightsmith,
    write_directory,
)

import weightsmith as package
from weightsmith.errors import UsageError
from weightsmith.operators.additions import parse


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tuned base."""
    return write_directory(tmp_path_factory.mktemp("more") / "tuned2", random_tensors(7))


def add(*arguments: object) -> dict:
    done = weightsmith("graft", *arguments, "-o", "out.safetensors", "--force")
    assert done.returncode == 0, done.stderr.decode()
    return read(Path("out.safetensors"))


def formula(trio: Trio, more: Path, *terms: tuple[str, float]) -> dict[str, bytes]:
    """((INSTRUCT + s1 d1) + s2 d2) in float32, rounded once."""
    tensors = trio.tensors | {"more": read(more)}
    result = {}
    for name in trio.tensors["instruct"]:
        instruct, base = (from_bf16(tensors[role][name][2]) for role in ("instruct", "base"))
        total = instruct
        for role, scale in terms:
            total = total + np.float32(scale) * (from_bf16(tensors[role][name][2]) - base)
        result[name] = to_bf16(total).tobytes()
    return result


def bits(tensors: dict) -> dict[str, bytes]:
    return {name: data for name, (_, _, data) in tensors.items()}


def record() -> dict:
    _, metadata = decode(Path("out.safetensors").read_bytes())
    return json.loads(metadata["weightsmith.provenance"])


def test_the_sum_is_its_formula(trio: Trio, more: Path, here: Path) -> None:
    found = add(trio.base, trio.instruct, trio.tuned, "--scale", "0.3", "--add", f"{more}=-0.7")
    assert bits(found) == formula(trio, more, ("tuned", 0.3), ("more", -0.7))


def test_one_addition_is_a_graft(trio: Trio, here: Path) -> None:
    """Without TUNED, standard input is not read."""
    found = add(trio.base, trio.instruct, "--add", f"{trio.tuned}=0.5")
    assert found == add(trio.base, trio.instruct, trio.tuned, "--scale", "0.5")


def test_the_order_changes_nothing(trio: Trio, more: Path, here: Path) -> None:
    given = [f"{more}=-0.7", f"{trio.tuned}=0.3"]
    outputs = []
    for first, second in (given, given[::-1]):
        add(trio.base, trio.instruct, "--add", first, "--add", second)
        outputs.append(Path("out.safetensors").read_bytes())
    assert outputs[0] == outputs[1]
    scales = [node["scale"] for node in record()["inputs"]["add"]]
    assert sorted(scales) == ["-0.7", "0.3"]


def test_deltas_and_models_are_the_same(trio: Trio, more: Path, here: Path) -> None:
    plain = ["--add", f"{trio.tuned}=0.5", "--add", f"{more}=0.25"]
    add(trio.base, trio.instruct, *plain)
    expected = Path("out.safetensors").read_bytes()
    for extra in ([], ["--lossless"]):
        done = weightsmith("delta", trio.base, more, "-o", "d.safetensors", "--force", *extra)
        assert done.returncode == 0, done.stderr.decode()
        found = add(trio.base, trio.instruct, *plain[:2], "--add", "d.safetensors=0.25")
        assert bits(found) == bits(decode(expected)[0])
        if not extra:
            assert Path("out.safetensors").read_bytes() == expected


def test_scales_by_pattern(trio: Trio, more: Path, here: Path) -> None:
    found = add(
        *(trio.base, trio.instruct, trio.tuned, "--scale", "0.5"),
        *("--add", f"{more}=0.25", "--add", f"{more}=*.layers.0.*=2", "--add", f"{more}=*norm*=0"),
    )
    plain, double, none = (
        formula(trio, more, ("tuned", 0.5), ("more", scale)) for scale in (0.25, 2, 0)
    )
    for name, data in bits(found).items():
        expected = none if "norm" in name else double if ".layers.0." in name else plain
        assert data == expected[name], name


def test_through_a_pipe(trio: Trio, more: Path, here: Path) -> None:
    script = f"weightsmith delta {trio.base} {trio.tuned} | weightsmith graft {trio.base} {trio.instruct}"
    for form in (f"- --add {more}=0.25", f"--add -=1 --add {more}=0.25"):
        done = shell(f"{script} {form} -o out.safetensors --force")
        assert done.returncode == 0, done.stderr.decode()
        found = bits(read(Path("out.safetensors")))
        swapped = formula(trio, more, ("more", 0.25), ("tuned", 1))
        assert found in (formula(trio, more, ("tuned", 1), ("more", 0.25)), swapped)


def test_by_the_python_function(trio: Trio, more: Path, here: Path) -> None:
    package.graft(
        *(trio.base, trio.instruct),
        add=[f"{trio.tuned}=0.3", f"{more}=-0.7"],
        output="py.safetensors",
    )
    found = add(trio.base, trio.instruct, "--add", f"{trio.tuned}=0.3", "--add", f"{more}=-0.7")
    assert read(Path("py.safetensors")) == found


def test_cut_anyhow_it_is_the_same(trio: Trio, more: Path, here: Path) -> None:
    arguments = (trio.base, trio.instruct, "--add", f"{trio.tuned}=0.3", "--add", f"{more}=-0.7")
    assert add(*arguments) == add(*arguments, "--memory", "100KB", "--jobs", 2)


def test_a_delta_of_another_base(trio: Trio, more: Path, here: Path) -> None:
    done = weightsmith("delta", more, trio.tuned, "-o", "d.safetensors")
    assert done.returncode == 0
    arguments = (
        "graft",
        trio.base,
        trio.instruct,
        "--add",
        "d.safetensors=1",
        "-o",
        "out.safetensors",
    )
    assert_fails(weightsmith(*arguments), 4, "d.safetensors", "another base")
    assert weightsmith(*arguments, "--force").returncode == 0


def test_what_lacks_a_tensor_is_named(trio: Trio, here: Path) -> None:
    part = dict(list(trio.tensors["tuned"].items())[:3])
    Path("part.safetensors").write_bytes(encode(part))
    arguments = (
        trio.base,
        trio.instruct,
        "--add",
        "part.safetensors=1",
        "--add",
        f"{trio.tuned}=1",
    )
    done = weightsmith("graft", *arguments, "-o", "out.safetensors")
    assert_fails(done, 4, "part.safetensors", "--missing keep")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["d"], "expected DELTA=SCALE"),
        (["d=much"], "not a number"),
        (["d=1", "d=2"], "twice"),
        (["d=1", "d=*.mlp.*=x"], "not a number"),
    ],
)
def test_what_cannot_be_read(given: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(given)


def test_addresses_with_signs_in_them() -> None:
    """A path may hold an equals sign; a later value of the same path is a pattern."""
    first, second = parse(["lr=1e-4/d=0.5", "hf://a/b@c=-1", "lr=1e-4/d=*.mlp.*=2"])
    assert (first.address, second.address) == ("lr=1e-4/d", "hf://a/b@c")
    assert first.scale.record() == [["*", "0.5"], ["*.mlp.*", "2"]]
    assert second.scale.record() == "-1"


def test_scale_is_for_tuned(trio: Trio, here: Path) -> None:
    done = weightsmith(
        *("graft", trio.base, trio.instruct, "--add", f"{trio.tuned}=1", "--scale", "2", "-o", "x")
    )
    assert_fails(done, 2, "--scale", "TUNED")
