"""`argus commits` as a person or a CI job runs it, against the real API under a real HTTP server."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from argus import cli, commits
from argus.client import Client
from argus.commits import UNSEEN_S, Clock
from argus.errors import ClientError
from reconciler.core.cases import Case, Stages, Verdict
from tests.webapi.client import SPEC, Api

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def argus(api: Api, server: str, *words: str, token: str | None = None) -> int:
    environ = {"ARGUS_HOME": str(api.folder), "ARGUS_API_PORT": server.rpartition(":")[2]}
    if token:
        environ |= {"ARGUS_SERVER": server, "ARGUS_TOKEN": token}
    return cli.main(["commits", *words], environ)


def judge(api: Api, sha: str, verdict: Verdict | None, **known: Any) -> None:
    """Write into the ledger what a pass would."""
    [past] = api.parts.store.past(sha)
    cases = []
    for change, _ in past.changes:
        identity = change.identity
        stages = Stages(change.commit.committed_at, *[change.commit.committed_at + timedelta(seconds=1.25)] * 3)
        cases.append(
            Case(change.commit, identity.path, identity.model_key, identity.user_id, False, stages, verdict, **known)
        )
    api.record(cases=tuple(cases))


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.APPLIED, 0),
        (Verdict.NO_CHANGE, 0),
        (Verdict.REMOVED, 0),
        (Verdict.SUPERSEDED, 0),
        (Verdict.FAILED, 1),
        (Verdict.REJECTED, 1),
        (Verdict.HELD, 1),
    ],
)
def test_the_exit_status_says_what_became_of_the_commit(
    api: Api, server: str, verdict: Verdict, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = api.post().json["commit"]
    judge(api, sha, verdict)
    assert argus(api, server, "--wait", sha[:10], token=api.token("alice")) == status
    said = capsys.readouterr()
    assert said.out.startswith(f"{sha[:12]} {verdict}")
    assert "seen +1.2 s, planned +1.2 s, applied +1.2 s" in said.out
    assert [line.split()[0] for line in said.err.splitlines()] == ["seen", "planned", "applied"]


def test_a_refused_file_is_named_with_its_line_and_the_reason(
    api: Api, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = api.post().json["commit"]
    judge(api, sha, Verdict.REJECTED, message="num_replicas: no count", line=3, column=15)
    assert argus(api, server, "--wait", sha) == 1
    assert "  users/alice/hello.yaml:3:15: REJECTED, num_replicas: no count\n" in capsys.readouterr().out


def test_the_verdict_is_waited_for(api: Api, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    sha = api.post().json["commit"]
    judge(api, sha, None)
    later = threading.Timer(0.1, judge, (api, sha, Verdict.APPLIED))
    later.start()
    assert argus(api, server, "--wait", sha) == 0
    later.join()
    assert "APPLIED" in capsys.readouterr().out


def test_no_verdict_in_time_is_an_exit_status_of_its_own(
    api: Api, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = api.post().json["commit"]
    assert argus(api, server, "--wait", sha, "--timeout", "0.2") == 3
    assert "no verdict" in capsys.readouterr().err
    assert argus(api, server, "--wait", "0" * 40, "--timeout", "0.2") == 3


@pytest.mark.parametrize("words", [("--wait", "main"), ("--limit", "0"), ("--limit", "x"), ("--timeout", "-1")])
def test_what_makes_no_sense_is_exit_status_2(api: Api, server: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        argus(api, server, *words)
    assert ended.value.code == 2
    assert argus(api, server, "--wait", "0" * 40, token="no-token-of-anybody") == 2


def test_the_newest_commits_are_listed_and_only_as_many_as_asked_for(
    api: Api, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = api.post().json["commit"]
    second = api.post(f"{SPEC}num_replicas: 2\n").json["commit"]
    judge(api, first, Verdict.SUPERSEDED, superseded_by=second)
    judge(api, second, None)
    assert argus(api, server, token=api.token("alice")) == 0
    assert capsys.readouterr().out == (
        f"{second[:12]} open       alice: Update hello\n"
        f"{first[:12]} SUPERSEDED alice: Create hello\n"
        f"  users/alice/hello.yaml: SUPERSEDED by {second[:12]}\n"
    )
    assert argus(api, server, "--limit", "1", "--format", "json") == 0
    assert [each["sha"] for each in json.loads(capsys.readouterr().out)] == [second]


class Away(Client):
    """An API that answers with errors, then with what it has."""

    def __init__(self, *answers: Any) -> None:
        object.__setattr__(self, "answers", list(answers))

    def get(self, path: str, *, timeout_s: float = 0) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]  # type: ignore[attr-defined]
        if isinstance(answer, Exception):
            raise answer
        return answer


def waited(*answers: Any) -> tuple[int, float]:
    now = [0.0]
    clock = Clock(now=lambda: now[0], pause=lambda seconds: now.__setitem__(0, now[0] + seconds))
    status = commits.wait(Away(*answers), "0" * 40, 600, "text", clock)
    return status, now[0]


def test_an_api_that_is_away_is_asked_again_until_the_time_is_up() -> None:
    stages = {"committed": NOON.isoformat(), "seen": None, "planned": None, "applied": None, "ready": None}
    good = {"sha": "0" * 40, "author": "a", "subject": "b", "state": "closed", "verdict": "APPLIED", "files": []}
    assert waited(ClientError("gone"), ClientError("busy", 503), {**good, "stages": stages}) == (0, 4)
    assert waited(ClientError("gone")) == (3, 600)
    assert waited(ClientError("not there", 404)) == (3, UNSEEN_S)
