"""A little code beside packed weights, for loading them where nobody imports weightsmith.

With trust_remote_code=True transformers imports the file that a config's auto_map names before it
looks for the quantizer; ours imports weightsmith and hands back the model's usual config class.
"""

from collections.abc import Mapping
from typing import Any

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
