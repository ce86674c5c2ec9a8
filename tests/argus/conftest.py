"""The real API under a real HTTP server, for commands that speak to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.settings import PathSettings, Settings
from tests.webapi.client import ADMIN_TOKEN, Api, listening, opened


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "admin-token").write_text(ADMIN_TOKEN)
    with opened(Settings(home=tmp_path, paths=PathSettings(private_root="private"))) as made:
        yield made


@pytest.fixture
def server(api: Api) -> Iterator[str]:
    with listening(api) as url:
        yield url
