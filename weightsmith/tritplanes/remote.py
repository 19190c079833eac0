"""A little code beside packed weights, for loading them where nobody imports weightsmith.

With trust_remote_code=True transformers imports the file that a config's auto_map names before it
looks for the quantizer; ours imports weightsmith and hands back the model's usual config class.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.tritplanes.encoding import METHOD

FILE = "configuration_weightsmith.py"
REFERENCE = f"{FILE.removesuffix('.py')}.Config"
CODE = '''\
"""Lets transformers load the packed weights beside this file, with trust_remote_code=True."""

import weightsmith.inference.transformers  # noqa: F401 - registers the quantizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Config = CONFIG_MAPPING["{model_type}"]
'''


def code_for(config: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The change of config.json and the text of FILE.

    Args:
        config: the model's config.json.

    Returns:
        None where the model has code of its own for its config, which has to stay.
    """
    kept = config.get("auto_map")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type.replace("-", "_").isidentifier():
        return None
    if isinstance(kept, Mapping) and "AutoConfig" in kept:
        return None
    return {"auto_map": {"AutoConfig": REFERENCE}}, CODE.format(model_type=model_type)


def furnish(directory: Path) -> None:
    """Give a finished checkpoint directory the code if it is packed, and take it away if not."""
    path = directory / "config.json"
    if not path.is_file():
        return
    config = json.loads(path.read_bytes())
    record, found = config.get("quantization_config"), config.get("auto_map")
    packed = isinstance(record, dict) and record.get("quant_method") == METHOD
    if not isinstance(found, dict):
        found = {}  # the model's own config, whatever it holds
    others = {k: v for k, v in found.items() if v != REFERENCE}
    made = code_for({**config, "auto_map": others}) if packed else None
    if made is not None:
        changed = {"auto_map": {**others, **made[0]["auto_map"]}}
        (directory / FILE).write_text(made[1], encoding="utf-8")
    elif others != found:
        changed = {"auto_map": others}
        (directory / FILE).unlink(missing_ok=True)
    else:
        return
    config |= changed
    if not config["auto_map"]:
        del config["auto_map"]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
