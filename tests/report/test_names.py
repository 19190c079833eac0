"""Layer and module, from names of many families."""

import pytest

from weightsmith.report.names import Place, counts, labels, place_of


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.q_proj.weight", Place("model.layers", 3, "self_attn.q_proj")),
        ("model.layers.3.self_attn.q_proj.bias", Place("model.layers", 3, "self_attn.q_proj.bias")),
        ("transformer.h.11.attn.c_attn.weight", Place("transformer.h", 11, "attn.c_attn")),
        ("h.0.ln_1.weight", Place("h", 0, "ln_1")),
        (
            "model.layers.2.mlp.experts.17.up_proj.weight",
            Place("model.layers", 2, "mlp.experts.*.up_proj"),
        ),
        ("layers.4.weight", Place("layers", 4, "weight")),
        ("lm_head.weight", Place("", None, "lm_head.weight")),
        ("0.weight", Place("", None, "0.weight")),
        ("layers.5", Place("", None, "layers.5")),
        ("a." + "9" * 5000 + ".b", Place("", None, "a." + "9" * 5000 + ".b")),
        ("a.\u0663.b.weight", Place("", None, "a.\u0663.b.weight")),
        ("", Place("", None, "")),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_places(name: str, place: Place) -> None:
    assert place_of(name) == place


def test_labels_tell_stacks_apart_where_there_are_several() -> None:
    text, vision = Place("text.layers", 0, "q"), Place("vision.layers", 0, "q")
    assert labels([text]) == {text: "q"}
    assert labels([text, vision]) == {text: "text.layers.*.q", vision: "vision.layers.*.q"}


@pytest.mark.parametrize(
    ("name", "counted"),
    [("a.q_proj.weight", True), ("a.q_proj.bias", False), ("a.input_LayerNorm.weight", False)],
)
def test_biases_and_norms_do_not_count(name: str, counted: bool) -> None:
    assert counts(name) == counted
