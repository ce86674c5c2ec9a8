"""`argus comment`: one comment on a pull request that each run rewrites, on GitHub, GitLab and Gitea.

Where it runs, and for which pull request, says the environment that each of them gives its jobs. The comment is known
again by its first line and by who wrote it, so that nobody else's is ever rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from argus.errors import UpFailed
from argus.plan_text import MARKER

TIMEOUT_S = 20.0
MOST_PAGES = 20
PAGE = 100
LONGEST = 65_000
"""Characters in a comment; the smallest of the hosts' limits is 65,536."""

# Who a job's own token writes as, on hosts where that token may not ask for its own name.
_JOBS = frozenset({"github-actions[bot]", "gitea-actions", "forgejo-actions"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where the comments of one pull request are. `one` and a comment's id are its address, `edit` rewrites it."""

    api: str
    comments: str
    one: str
    edit: str
    headers: Mapping[str, str]


def place(environ: Mapping[str, str]) -> Place:
    """Find the pull request that a job runs for. Raises UpFailed where the environment names none."""
    if environ.get("GITLAB_CI"):
        return _gitlab(environ)
    if environ.get("GITHUB_ACTIONS") or environ.get("GITEA_ACTIONS"):
        return _github(environ)
    raise UpFailed("this is no job of GitHub, GitLab or Gitea: their variables are not set")


def comment(text: str, where: Place) -> str:
    """Write `text` as the one comment. Gives `made` or `changed`. Raises UpFailed."""
    if not text.startswith(MARKER):
        raise UpFailed(f"the comment must begin with {MARKER}, as `argus plan --format markdown` writes it")
    if len(text) > LONGEST:
        text = text[:LONGEST] + "\n\n… cut here."
    # trust_env stays on: code hosts are often reached through a proxy, and the token is theirs.
    with httpx.Client(base_url=where.api, headers=dict(where.headers), timeout=TIMEOUT_S) as http:
        own = _names(http)
        for found in _comments(http, where):
            if str(found.get("body", "")).startswith(MARKER) and _author(found) in own:
                _ask(http, where.edit, f"{where.one}/{found['id']}", {"body": text})
                return "changed"
        _ask(http, "POST", where.comments, {"body": text})
        return "made"


def run(file: Path, environ: Mapping[str, str]) -> str:
    """Comment with a file's text. Gives what to print. Raises UpFailed."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UpFailed(f"{file} cannot be read: {type(error).__name__}") from None
    return f"comment {comment(text, place(environ))}\n"


def _github(environ: Mapping[str, str]) -> Place:
    """GitHub, and Gitea, whose jobs have the same variables and whose API has the same addresses."""
    api = _needed(environ, "GITHUB_API_URL")
    repository = f"/repos/{_needed(environ, 'GITHUB_REPOSITORY')}/issues"
    try:
        event = json.loads(Path(_needed(environ, "GITHUB_EVENT_PATH")).read_text(encoding="utf-8"))
        number = int(event["pull_request"]["number"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UpFailed("GITHUB_EVENT_PATH names no pull request's event") from None
    headers = {"Authorization": f"Bearer {_needed(environ, 'GITHUB_TOKEN')}", "Accept": "application/json"}
    return Place(api, f"{repository}/{number}/comments", f"{repository}/comments", "PATCH", headers)


def _gitlab(environ: Mapping[str, str]) -> Place:
    project, number = _needed(environ, "CI_PROJECT_ID"), _needed(environ, "CI_MERGE_REQUEST_IID")
    notes = f"/projects/{int(project)}/merge_requests/{int(number)}/notes"
    headers = {"PRIVATE-TOKEN": _needed(environ, "ARGUS_GITLAB_TOKEN")}
    return Place(_needed(environ, "CI_API_V4_URL"), notes, notes, "PUT", headers)


def _needed(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise UpFailed(f"the variable {name} is not set")
    return value


def _names(http: httpx.Client) -> frozenset[str]:
    """Say under which names this token writes."""
    try:
        said = http.get("/user").raise_for_status().json()
        return frozenset({str(said.get("login") or said.get("username"))})
    except (httpx.HTTPError, ValueError, AttributeError):
        return _JOBS


def _comments(http: httpx.Client, where: Place) -> Iterator[Mapping[str, Any]]:
    for page in range(1, MOST_PAGES + 1):
        found = _ask(http, "GET", where.comments, params={"per_page": PAGE, "limit": PAGE, "page": page})
        if not isinstance(found, list):
            raise UpFailed("the code host's list of comments is no list")
        yield from found
        if len(found) < PAGE:
            return


def _author(found: Mapping[str, Any]) -> str:
    author = found.get("user") or found.get("author") or {}
    return str(author.get("login") or author.get("username"))


def _ask(http: httpx.Client, method: str, path: str, body: Any = None, params: Mapping[str, int] | None = None) -> Any:
    try:
        answer = http.request(method, path, json=body, params=params)
    except httpx.HTTPError as error:
        raise UpFailed(f"the code host does not answer: {type(error).__name__}") from None
    if answer.is_error:
        raise UpFailed(f"the code host refuses {method} {path}: {answer.status_code}")
    try:
        return answer.json()
    except ValueError:
        raise UpFailed(f"the code host's answer to {method} {path} is not JSON") from None
