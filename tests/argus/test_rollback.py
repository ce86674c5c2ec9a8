"""`argus rollback` as a person types it, against the real API under a real HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from argus import cli
from reconciler.settings import PathSettings, Settings
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import Accounts, EngineLog, LedgerReader, Outbox, SqlLedger, VerdictReader, open_ledger
from reconciler.shell.source import GitSource
from tests.webapi.client import ADMIN_TOKEN, SPEC, Api, git
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
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join(10)


def argus(api: Api, server: str, *words: str, token: str | None = None) -> int:
    """Run the command as on the platform's own machine, or with a token as from anywhere."""
    environ = {"ARGUS_HOME": str(api.folder), "ARGUS_API_PORT": server.rpartition(":")[2]}
    if token:
        environ |= {"ARGUS_SERVER": server, "ARGUS_TOKEN": token}
    return cli.main(["rollback", *words], environ)


def two_versions(api: Api) -> tuple[str, str]:
    key = api.created(SPEC)
    first = api.head()
    api.post(f"{SPEC}num_replicas: 2\n")
    return key, first


@pytest.mark.parametrize("named", ["hello", "the key", "the public name"])
def test_a_model_is_rolled_back_by_any_of_its_names(
    api: Api, server: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, first = two_versions(api)
    model = api.parts.store.read().files[key].identity
    name = {"hello": "hello", "the key": key, "the public name": model.model_id}[named]
    assert argus(api, server, name, "--to", first[:10], "--reason", "too many", token=api.token("alice")) == 0
    assert capsys.readouterr().out == f"{key}: rolled back by commit {api.head()} (QUEUED)\n"
    assert api.content("users/alice/hello.yaml") == SPEC
    assert api.log()[0] == f"alice|Argus|Roll hello back to {first[:12]}"
    assert argus(api, server, name, "--to", first, token=api.token("alice")) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_admins_token_in_the_state_folder_will_do(api: Api, server: str) -> None:
    _, first = two_versions(api)
    assert argus(api, server, "hello", "--to", first) == 0
    assert api.log()[0].startswith("admin|")


def test_a_token_file_counts_before_the_environment(api: Api, server: str) -> None:
    _, first = two_versions(api)
    (api.folder / "mine").write_text(api.token("alice") + "\n")
    assert argus(api, server, "hello", "--to", first, "--token-file", str(api.folder / "mine"), token="wrong") == 0


@pytest.mark.parametrize("words", [("hello", "--to", "0" * 40), ("nobodys", "--to", "0" * 40), ("hello",)])
def test_what_cannot_be_is_told_in_one_line(
    api: Api, server: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    two_versions(api)
    assert argus(api, server, *words) == 1
    said = capsys.readouterr().err
    assert said.startswith("argus: ")
    assert said.count("\n") == 1


def test_a_suffix_that_two_users_have_is_not_guessed(api: Api, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = sorted([api.created(SPEC, "alice"), api.created(SPEC, "bob")])
    assert argus(api, server, "hello", "--to", api.head()) == 1
    assert f"{keys[0]} or {keys[1]}" in capsys.readouterr().err


def test_without_any_token_the_way_to_give_one_is_named(
    api: Api, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (api.folder / "admin-token").unlink()
    assert argus(api, server, "hello") == 2
    assert "--token-file" in capsys.readouterr().err
