"""A whole API for each test: a real bare repository, a real SQLite ledger, the real Flask app under its test client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.settings import ApiSettings, HookSettings, PathSettings, ServingSettings, Settings
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import Accounts, EngineLog, LedgerReader, Outbox, SqlLedger, VerdictReader, open_ledger
from reconciler.shell.source import GitSource
from tests.webapi.client import ADMIN_TOKEN, HOOK_SECRET, Api, git
from webapi.app import assemble
from webapi.parts import Parts
from webapi.store import SpecStore


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """Make an API with nothing in it."""
    git(tmp_path, "init", "--quiet", "--bare", "specs.git")
    for folder in ("hf/demo", "users/alice"):
        (tmp_path / "private" / folder).mkdir(parents=True)
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
    engine = open_ledger(settings.ledger_url, settings.ledger.timeout_s)
    parts = Parts(
        settings=settings,
        store=SpecStore(GitSource.from_settings(settings), LedgerReader(engine)),
        folders=DiskModelFolders(settings.private_root),
        reader=LedgerReader(engine),
        verdicts=VerdictReader(engine),
        accounts=Accounts(engine),
        ledger=SqlLedger(engine),
        engine_log=EngineLog(engine),
        outbox=Outbox(engine),
        admin_token=ADMIN_TOKEN,
    )
    yield Api(assemble(parts), parts, tmp_path)
    engine.dispose()
