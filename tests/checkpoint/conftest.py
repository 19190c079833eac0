"""A Hub of our own, and a client in this process that knows no other."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hubserver import Hub, running


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import close_session

    with running() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache" / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        # Retries are meant to wait; here nobody would get better by it.
        monkeypatch.setattr("weightsmith.checkpoint.remote._WAIT", 0)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        yield hub
        for thread in threading.enumerate():
            # What was given up still ends its last request.
            if thread.name.startswith("weightsmith"):
                thread.join()
        close_session()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
