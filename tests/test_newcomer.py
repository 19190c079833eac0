"""Whoever has only the README: clone, demo, then the graft of three checkpoints of their own."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import from_bf16, make_trio, read, to_bf16
from test_docs import ROOT, blocks_of

README = ROOT / "README.md"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_the_first_steps_lead_from_a_clone_to_a_graft(here: Path) -> None:
    """What stands under "First steps" runs as one script, without an environment of ours."""
    subprocess.run(["git", "clone", "--quiet", ROOT, "clone"], check=True)
    trio = make_trio(here / "clone")
    steps = README.read_text(encoding="utf-8").partition("## First steps")[2].partition("\n## ")[0]
    scripts = [text for language, text in blocks_of(steps) if language == "sh"]
    assert len(scripts) == 2
    ours = {"VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    strangers = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", "\n".join(scripts)],
        cwd="clone",
        env=strangers,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The graft brought the skill" in done.stdout
    grafted = read(here / "clone" / "grafted")
    assert grafted.keys() == trio.tensors["instruct"].keys()
    for name, (dtype, shape, data) in grafted.items():
        base, tuned, instruct = (
            from_bf16(trio.tensors[role][name][2]) for role in ("base", "tuned", "instruct")
        )
        expected = to_bf16(instruct + (tuned - base))
        assert (dtype, shape) == trio.tensors["instruct"][name][:2]
        assert np.array_equal(np.frombuffer(data, np.uint16), np.ravel(expected)), name
