"""Commit statuses as each provider takes them.

GitHub:  POST /repos/{owner}/{repo}/statuses/{sha}, JSON (REST API, "Commit statuses"); 140 characters of description.
GitLab:  POST /projects/{id}/statuses/{sha}, a form (REST API, "Commits"); it says `failed` for whatever is not good.
Gitea:   POST /repos/{owner}/{repo}/statuses/{sha}, JSON; so does Forgejo.

`tests/contracts/provider_apis` holds what they publish of these operations; every request is held to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode

from reconciler.core.announcements import LONGEST_DESCRIPTION, STATUSES, Outlook, cut
from reconciler.core.delivery import Letter, Reply
from reconciler.shell.outbox import secrets
from reconciler.shell.outbox.destination import Request

Provider: TypeAlias = Literal["github", "gitlab", "gitea"]

USER_AGENT = "argus"
TOKEN_FILE = "spec_repo.statuses.token_file"  # noqa: S105  a key of the configuration

LONGEST: Mapping[Provider, int] = {"github": 140, "gitlab": LONGEST_DESCRIPTION, "gitea": LONGEST_DESCRIPTION}
"""Characters of a description that each provider takes."""

_LONGEST_SAID = 200
_GITLAB_HAS_IT = "Cannot transition status via :enqueue"


@dataclass(frozen=True, slots=True)
class CommitStatuses:
    """The provider that commit statuses are posted to. `branch` is the one that they are about."""

    provider: Provider
    base_url: str
    repository: str
    branch: str
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    name: str = STATUSES
    allow_private: bool = True
    """A provider of one's own mostly is in a private network; its address comes from the configuration alone."""

    def request(self, letter: Letter, now: datetime) -> Request:
        """Keep `Destination.request`."""
        told, token = letter.body, secrets.token(self.token, self.token_file, TOKEN_FILE)
        description = cut(told["description"], LONGEST[self.provider])
        url = {"target_url": told["target_url"]} if told["target_url"] else {}
        sha = quote(told["sha"], safe="")
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if self.provider == "gitlab":
            form = {
                "state": _gitlab_state(told["state"]),
                "ref": self.branch,
                "name": told["context"],
                "description": description,
                **url,
            }
            headers |= {"PRIVATE-TOKEN": token, "Content-Type": "application/x-www-form-urlencoded"}
            project = quote(self.repository, safe="")
            return Request(f"{self.base_url}/projects/{project}/statuses/{sha}", headers, urlencode(form).encode())
        if self.provider == "github":
            headers |= {
                "Authorization": f"Bearer {token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            }
        else:
            headers |= {"Authorization": f"token {token}"}
        headers["Content-Type"] = "application/json"
        body = {"state": told["state"], "context": told["context"], "description": description, **url}
        address = f"{self.base_url}/repos/{quote(self.repository)}/statuses/{sha}"
        return Request(address, headers, json.dumps(body).encode())

    def reply(self, letter: Letter, status: int, headers: dict[str, str], body: bytes) -> Reply:
        """Keep `Destination.reply`. GitLab refuses a `pending` for what is pending already: it has it."""
        said = _message(body)
        has_it = status == 400 and letter.body["state"] == Outlook.PENDING.value and said.startswith(_GITLAB_HAS_IT)
        return Reply(status, said, headers, is_done=self.provider == "gitlab" and has_it)


def _gitlab_state(state: str) -> str:
    return state if state in {Outlook.PENDING.value, Outlook.SUCCESS.value} else "failed"


def _message(body: bytes) -> str:
    """Give what an answer says in the member `message` or `error`, in one line; nothing of any other content."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    said = (found.get("message") or found.get("error") or "") if isinstance(found, dict) else ""
    text = said if isinstance(said, str) else json.dumps(said)
    return cut("".join(char if char.isprintable() else " " for char in text), _LONGEST_SAID)
