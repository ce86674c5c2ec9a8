"""`argus logs` against the real API under gunicorn: as a person at a terminal has it, from any machine."""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from argus import cli, remote
from argus.client import Client
from argus.errors import ClientError
from argus.logs import logs
from reconciler.core.entities import Record, State
from reconciler.errors import SettingsError
from reconciler.ports import Advance
from reconciler.settings import Settings
from reconciler.shell.ledger import Batch, EngineLog, SqlLedger, open_ledger
from tests.processes import free_port
from tests.webapi.client import MODELS, SPEC, git

ADMIN = "the-admin-token"
NOON = datetime(2026, 1, 6, 12, 0, tzinfo=UTC)
LIMIT_S = 30.0


@dataclass
class Server:
    """A real API, alone, with a model in it."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    key: str = ""
    model_id: str = ""
    said: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        return {"ARGUS_HOME": str(self.home), "ARGUS_API_PORT": str(self.port), "ARGUS_ADMIN_TOKEN": ADMIN}

    def start(self) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ARGUS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "argus", "api"],
            env={**environ, **self.environ},
            stderr=(self.home / "api.log").open("ab"),
        )
        until = time.monotonic() + LIMIT_S
        while not self._answers():
            assert self.process.poll() is None, (self.home / "api.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)

    def stop(self) -> float:
        """End it as a supervisor does, and give the seconds that it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT_S)
        return time.monotonic() - began

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/v2/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def say(self, *lines: str) -> None:
        engine = open_ledger(f"sqlite:///{self.home / 'ledger.sqlite'}", 5)
        before = EngineLog(engine).positions().get(f"{self.key}/r1")
        batch = Batch(f"{self.key}/r1", self.key, "r1", before, str(int(before or 0) + 1), lines)
        EngineLog(engine).append([batch], NOON)
        engine.dispose()

    def delete(self) -> None:
        """Write into the ledger what the reconciler does when the model is gone."""
        from reconciler.shell.source import GitSource

        settings = Settings(home=self.home)
        file = GitSource.from_settings(settings).read(None).tree.files[self.key]
        engine = open_ledger(settings.ledger_url, 5)
        ledger = SqlLedger(engine)
        gone = Record(file.identity, file.blob, file.commit, State.DELETED, file.commit.committed_at)
        ledger.record(ledger.load().base, Advance(None, [gone]))
        engine.dispose()
        git(self.home, "clone", "--quiet", "specs.git", "clone")
        (self.home / "clone" / file.identity.path).unlink()
        git(self.home / "clone", "commit", "--quiet", "--all", "--message", "gone")
        git(self.home / "clone", "push", "--quiet", "origin", "HEAD:main")

    def argus(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Run `argus logs` as a person does."""
        return subprocess.Popen(
            [sys.executable, "-m", "argus", "logs", *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    git(tmp_path, "init", "--quiet", "--bare", "specs.git")
    made = Server(tmp_path, free_port())
    made.start()
    admin = Client(made.url, ADMIN)
    admin.post("/api/v2/users", {"user_id": "alice"})
    made.key = admin.post(f"{MODELS}?user_id=alice", yaml=SPEC)["model_key"]
    made.model_id = admin.get(f"{MODELS}/{made.key}")["model"]["model_id"]
    yield made
    made.stop()


def line(text: str) -> str:
    return f"2026-01-06T12:00:00Z r1 {text}\n"


def test_a_follower_sees_lines_as_they_come_through_a_restart_until_the_model_is_gone(server: Server) -> None:
    server.say("one", "two")
    following = server.argus(server.model_id, "--follow", "--tail", "1", **server.environ)
    assert following.stdout is not None
    assert following.stdout.readline() == line("two")
    server.say("three")
    assert following.stdout.readline() == line("three")
    # A process that is told to stop does not wait for those who follow: gunicorn itself would for ten seconds.
    assert server.stop() < 8
    server.say("four, while the API was away")
    server.start()
    assert following.stdout.readline() == line("four, while the API was away")
    server.say("goodbye")
    server.delete()
    out, err = following.communicate(timeout=LIMIT_S)
    assert (out, err, following.returncode) == (line("goodbye"), "", 0)


def test_a_client_that_goes_away_frees_its_place_at_once(server: Server) -> None:
    path, headers = f"{server.url}{MODELS}/{server.key}/logs?follow=true", {"Authorization": f"Bearer {ADMIN}"}

    def follow(streams: list[Any]) -> int:
        opened = httpx.Client(timeout=LIMIT_S)
        stream = opened.stream("GET", path, headers=headers)
        streams.append((opened, stream))
        return stream.__enter__().status_code

    streams: list[Any] = []
    # Two workers with four places each; who gets which worker is chance.
    answers: list[int] = []
    while answers.count(200) < 8 and len(answers) < 500:
        answers.append(follow(streams))
    assert answers.count(200) == 8
    assert follow(streams) == 503
    for opened, stream in streams:
        stream.__exit__(None, None, None)
        opened.close()
    until = time.monotonic() + 10  # well before the next sign of life would find out
    while follow(streams) != 200:
        assert time.monotonic() < until
    streams[-1][1].__exit__(None, None, None)
    for opened, _ in streams:
        opened.close()


def test_the_admin_of_this_machine_and_users_anywhere_see_the_log(server: Server, tmp_path: Path) -> None:
    server.say("one")
    token = Client(server.url, ADMIN).post("/api/v2/users/alice/tokens", {})["token"]
    (tmp_path / "token").write_text(token + "\n")
    here = server.argus(server.key, **server.environ)
    assert here.communicate(timeout=LIMIT_S) == (line("one"), "")
    by_file = server.argus(server.model_id, "--server", server.url, "--token-file", str(tmp_path / "token"))
    assert by_file.communicate(timeout=LIMIT_S) == (line("one"), "")
    by_environ = server.argus(server.key, ARGUS_SERVER=server.url, ARGUS_TOKEN=token)
    assert by_environ.communicate(timeout=LIMIT_S) == (line("one"), "")
    absent = server.argus("alice-202001010000-none", ARGUS_SERVER=server.url, ARGUS_TOKEN=token)
    out, err = absent.communicate(timeout=LIMIT_S)
    assert (out, absent.returncode) == ("", 1)
    assert err == (
        "argus: there is no one model 'alice-202001010000-none' among yours; right would be its key, name or suffix\n"
    )


def arguments(**given: str | None) -> argparse.Namespace:
    return argparse.Namespace(**{"server": None, "token_file": None, **given})


def test_the_admins_token_of_this_machine_is_not_sent_to_another_server(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text(ADMIN)
    settings = Settings(home=tmp_path)
    here = remote.connect(arguments(), settings, {})
    assert (here.base_url, here.token) == ("http://127.0.0.1:8080", ADMIN)
    for given, environ in ((arguments(server="https://a.example"), {}), (arguments(), {"ARGUS_SERVER": "http://b"})):
        with pytest.raises(SettingsError, match="no token"):
            remote.connect(given, settings, environ)
    there = remote.connect(arguments(server="https://a.example/"), settings, {"ARGUS_TOKEN": "mine"})
    assert (there.base_url, there.token) == ("https://a.example", "mine")


@pytest.mark.parametrize("url", ["a.example", "ftp://a.example", "https://user:hidden@a.example", "http://"])
def test_a_wrong_address_is_a_clear_error_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="right would be http") as raised:
        remote.connect(arguments(server=url), Settings(home=tmp_path), {"ARGUS_TOKEN": "t"})
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("token", ["two words", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(SettingsError, match="printable") as raised:
        remote.connect(arguments(token_file=str(tmp_path / "token")), Settings(home=tmp_path), {})
    assert token not in str(raised.value)


def test_a_server_that_is_away_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"ARGUS_SERVER": f"http://127.0.0.1:{free_port()}", "ARGUS_TOKEN": "t"}
    assert cli.main(["logs", "svc-alice-20260106-120000-abcd"], environ) == 1
    assert capsys.readouterr().err.startswith("argus: GET http://127.0.0.1:")


def test_a_follower_gives_up_on_a_server_that_stays_away() -> None:
    pauses: list[float] = []
    with pytest.raises(ClientError):
        logs(
            Client(f"http://127.0.0.1:{free_port()}", "t"),
            "svc-a",
            follow=True,
            tail=1,
            out=io.StringIO(),
            pause=pauses.append,
        )
    assert sum(pauses) == pytest.approx(300)


def test_a_reader_that_goes_away_is_no_error(server: Server) -> None:
    server.say(*(f"line {number}" for number in range(1500)))
    head = server.argus(server.key, "--tail", "1500", **server.environ)
    assert head.stdout is not None
    assert head.stderr is not None
    assert head.stdout.readline() == line("line 0")
    head.stdout.close()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(head.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    reader.join(LIMIT_S)
    assert errors == [""]
    assert head.wait(LIMIT_S) == 0
