"""Lets transformers load the packed weights beside this file, with trust_remote_code=True."""

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import weightsmith.inference.transformers  # noqa: F401 - registers the quantizer

Config = CONFIG_MAPPING["llama"]
