"""The real API under a real HTTP server, for commands that speak to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from reconciler.settings import PathSettings, Settings
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import Accounts, EngineLog, LedgerReader, Outbox, SqlLedger, VerdictReader, open_ledger
from reconciler.shell.source import GitSource
from tests.webapi.client import ADMIN_TOKEN, Api, git
from webapi.app import assemble
from webapi.parts import Parts
from webapi.store import SpecStore


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    git(tmp_path, "init", "--quiet", "--bare", "specs.git")
    (tmp_path / "private" / "hf" / "demo").mkdir(parents=True)
    (tmp_path / "admin-token").write_text(ADMIN_TOKEN)
    settings = Settings(home=tmp_path, paths=PathSettings(private_root="private"))
    engine = open_ledger(settings.ledger_url, settings.ledger.timeout_s)
    reader = LedgerReader(engine)
    parts = Parts(
        settings=settings,
        store=SpecStore(GitSource.from_settings(settings), reader),
        folders=DiskModelFolders(settings.private_root),
        reader=reader,
        accounts=Accounts(engine),
        ledger=SqlLedger(engine),
        engine_log=EngineLog(engine),
        outbox=Outbox(engine),
        verdicts=VerdictReader(engine),
        admin_token=ADMIN_TOKEN,
    )
    yield Api(assemble(parts), parts, tmp_path)
    engine.dispose()


@pytest.fixture
def server(api: Api) -> Iterator[str]:
    listening = make_server("127.0.0.1", 0, api.app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join(10)
