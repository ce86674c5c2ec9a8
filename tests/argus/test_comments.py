"""`argus comment` against a code host's API over real HTTP: one comment, rewritten, and nobody else's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from argus import cli
from argus.plan_text import MARKER
from tests.servers import Handler, serving

TEXT = f"{MARKER}\n### Argus plan: nothing changes\n"


@dataclass
class Host:
    """A code host's comments on pull request 7, under `/api`: as GitHub and Gitea have them, and as GitLab does."""

    url: str = ""
    me: str | None = "argus-bot"
    token: str = "t0ken"
    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def add(self, author: str, body: str) -> None:
        self.comments.append({"id": 100 + len(self.comments), "author": author, "body": body})

    def answer(self, method: str, target: str, headers: Any, body: Any) -> tuple[int, Any]:
        self.asked.append(method)
        where = urlsplit(target)
        gitlab = where.path.startswith("/api/projects/")
        sent = headers.get("PRIVATE-TOKEN") if gitlab else headers.get("Authorization", "").removeprefix("Bearer ")
        if where.path == "/api/user":
            return (200, {"login": self.me}) if self.me else (403, {})
        if sent != self.token:
            return 401, {}
        name = "author" if gitlab else "user"
        key = "username" if gitlab else "login"
        shown = [{"id": c["id"], name: {key: c["author"]}, "body": c["body"]} for c in self.comments]
        listed = {"/api/repos/team/specs/issues/7/comments", "/api/projects/42/merge_requests/7/notes"}
        if where.path in listed and method == "GET":
            query = parse_qs(where.query)
            page, size = int(query["page"][0]), int(query["per_page"][0])
            return 200, shown[(page - 1) * size : page * size]
        if where.path in listed and method == "POST":
            self.add(self.me or "github-actions[bot]", body["body"])
            return 201, {}
        edited = re.fullmatch(
            r"/api/(?:repos/team/specs/issues/comments|projects/42/merge_requests/7/notes)/(\d+)", where.path
        )
        if edited and method == ("PUT" if gitlab else "PATCH"):
            self.comments[int(edited[1]) - 100]["body"] = body["body"]
            return 200, {}
        return 404, {}


@pytest.fixture
def host() -> Iterator[Host]:
    kept = Host()

    class Comments(Handler):
        def handle_any(self) -> None:
            sent = self.body()
            body = json.loads(sent) if sent else None
            status, said = kept.answer(self.command, self.path, self.headers, body)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_PUT = handle_any  # noqa: N815  the names that http.server looks for

    with serving(Comments) as url:
        kept.url = f"{url}/api"
        yield kept


def github(host: Host, folder: Path) -> dict[str, str]:
    event = folder / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "title": "$(touch sprung)"}}))
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": host.url,
        "GITHUB_REPOSITORY": "team/specs",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_TOKEN": host.token,
    }


def gitlab(host: Host, _folder: Path) -> dict[str, str]:
    return {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": host.url,
        "CI_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "7",
        "ARGUS_GITLAB_TOKEN": host.token,
    }


HOSTS = pytest.mark.parametrize("job", [github, gitlab])


def comment(folder: Path, environ: dict[str, str], text: str = TEXT) -> int:
    file = folder / "plan.md"
    file.write_text(text)
    return cli.main(["comment", str(file)], environ)


@HOSTS
def test_the_first_run_comments_and_the_next_rewrites_that_comment(host: Host, job: Any, tmp_path: Path) -> None:
    host.add("alice", "looks good")
    assert comment(tmp_path, job(host, tmp_path)) == 0
    assert comment(tmp_path, job(host, tmp_path), TEXT + "more\n") == 0
    assert [each["body"] for each in host.comments] == ["looks good", TEXT + "more\n"]


@HOSTS
def test_a_comment_of_somebody_else_is_left_alone_whatever_it_begins_with(host: Host, job: Any, tmp_path: Path) -> None:
    host.add("mallory", TEXT)
    assert comment(tmp_path, job(host, tmp_path), TEXT + "mine\n") == 0
    assert [each["body"] for each in host.comments] == [TEXT, TEXT + "mine\n"]


def test_a_jobs_own_token_may_not_ask_for_its_name_and_finds_its_comment_all_the_same(
    host: Host, tmp_path: Path
) -> None:
    host.me = None
    for more in ("", "again\n"):
        assert comment(tmp_path, github(host, tmp_path), TEXT + more) == 0
    assert [each["body"] for each in host.comments] == [TEXT + "again\n"]


@HOSTS
def test_its_comment_is_found_behind_many_others(host: Host, job: Any, tmp_path: Path) -> None:
    for number in range(130):
        host.add("alice", f"remark {number}")
    host.add("argus-bot", TEXT)
    assert comment(tmp_path, job(host, tmp_path), TEXT + "new\n") == 0
    assert len(host.comments) == 131
    assert host.comments[-1]["body"] == TEXT + "new\n"


@HOSTS
def test_a_refusal_is_exit_1_and_does_not_show_the_token(
    host: Host, job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {**job(host, tmp_path)}
    host.token = "another"
    assert comment(tmp_path, environ) == 1
    said = capsys.readouterr().err
    assert "401" in said
    assert "t0ken" not in said


@HOSTS
def test_each_variable_that_is_missing_is_named(
    host: Host, job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = job(host, tmp_path)
    for name in list(environ)[1:]:
        assert comment(tmp_path, {key: value for key, value in environ.items() if key != name}) == 1
        assert name in capsys.readouterr().err
    assert comment(tmp_path, {}) == 1
    assert host.comments == []


def test_what_is_no_plan_is_not_posted(host: Host, tmp_path: Path) -> None:
    assert comment(tmp_path, github(host, tmp_path), "anything else") == 1
    assert host.asked == []


def test_a_comment_that_is_too_long_is_cut(host: Host, tmp_path: Path) -> None:
    assert comment(tmp_path, github(host, tmp_path), TEXT + "x" * 100_000) == 0
    assert len(host.comments[0]["body"]) < 65_536
