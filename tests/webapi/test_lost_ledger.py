"""An API whose ledger's file is taken away while it runs."""

from __future__ import annotations

from pathlib import Path

from reconciler.settings import Settings
from tests.webapi.client import ADMIN_TOKEN, git
from webapi.app import create_app


def test_a_lost_ledger_is_503_and_told_once_so_that_the_worker_is_replaced(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "specs.git")
    settings = Settings(home=tmp_path)
    told: list[bool] = []
    (tmp_path / "admin-token").write_text(ADMIN_TOKEN)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    client = create_app(settings, on_lost_ledger=lambda: told.append(True)).test_client()
    assert client.get("/api/v2/users", headers=headers).status_code == 200
    assert not told
    (tmp_path / "ledger.sqlite").unlink()
    for _ in range(2):
        answer = client.get("/api/v2/users", headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert (answer.json or {})["error"]["code"] == "ledger_unreachable"
    assert told == [True]
    anew = create_app(settings).test_client()
    assert anew.get("/api/v2/users", headers=headers).status_code == 200
