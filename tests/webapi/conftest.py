"""A whole API for each test: a real bare repository, a real SQLite ledger, the real Flask app under its test client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.settings import ApiSettings, HookSettings, PathSettings, ServingSettings, Settings
from tests.webapi.client import HOOK_SECRET, Api, opened


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """Make an API with nothing in it."""
    (tmp_path / "private/users/alice").mkdir(parents=True)
    (tmp_path / "hook-secret").write_text(f"{HOOK_SECRET}\n")
    settings = Settings(
        home=tmp_path,
        api=ApiSettings(
            max_body_bytes=100_000,
            log_follow_s=0.05,
            hooks=HookSettings(secret_files=("hook-secret",), max_body_bytes=2_000_000),
        ),
        paths=PathSettings(private_root="private"),
        serving=ServingSettings(max_replicas=8, max_gpus_per_replica=4),
    )
    with opened(settings) as made:
        yield made
