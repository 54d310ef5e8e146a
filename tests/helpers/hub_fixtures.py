"""huggingface_hub set to a Hub on loopback and to an empty cache."""

import pytest
from hub_server import TOKEN, running_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; this process is logged in, and waits for nothing before it tries again."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with running_hub() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        yield server
