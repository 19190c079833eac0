"""Pinned threads, and the fixtures that most tests share."""

import os
import signal

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Tests that are started in the background would hand on that Ctrl-C is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest
from support import Trio, make_trio


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Three tiny checkpoints of one architecture, shared and never written to."""
    return make_trio(tmp_path_factory.mktemp("trio"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
