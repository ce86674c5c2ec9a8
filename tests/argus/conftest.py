"""The real API under a real HTTP server, for commands that speak to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from reconciler.settings import PathSettings, Settings
from tests.webapi.client import ADMIN_TOKEN, Api, opened


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "admin-token").write_text(ADMIN_TOKEN)
    with opened(Settings(home=tmp_path, paths=PathSettings(private_root="private"))) as made:
        yield made


@pytest.fixture
def server(api: Api) -> Iterator[str]:
    listening = make_server("127.0.0.1", 0, api.app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join(10)
