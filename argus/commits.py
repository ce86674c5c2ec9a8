"""`argus commits`: what became of commits, and waiting for what becomes of one, as after a push or in a CI job."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from argus.client import Client
from argus.errors import ClientError

COMMITS = "/api/v2/serve/commits"

FINE, BAD, MISUSED, UNKNOWN = 0, 1, 2, 3
"""Exit statuses: it came to what it asks for; it did not; this cannot be asked; it is not known (yet)."""

ASK_S = 30
"""How long one request may wait for a verdict, in seconds; the API takes no more."""

UNSEEN_S = 60.0
"""How long a commit may be unknown to the API, in seconds, before it counts as not there."""

AGAIN_S = 2.0
"""Pause after an answer that came too early or not at all, in seconds."""

_GOOD = {"APPLIED", "NO_CHANGE", "REMOVED", "SUPERSEDED"}
_STAGES = ("seen", "planned", "applied", "ready")
_FOR_NOW = {None, 502, 503, 504}
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """What passes the time while one waits."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def show(client: Client, limit: int, form: str) -> int:
    """Print the newest commits with their verdicts, at most `limit`. Gives the exit status. Raises ClientError."""
    found = list(_newest(client, limit))
    if form == "json":
        print(json.dumps(found, indent=2))
    else:
        for commit in found:
            print("\n".join(_lines(commit, with_stages=False)))
    return FINE


def wait(client: Client, sha: str, timeout_s: float, form: str, clock: Clock = Clock()) -> int:
    """Wait for a commit's verdict and print it; each stage on standard error as it is reached.

    Gives the exit status, also where the API does not answer or refuses.
    """
    began = clock.now()
    commit: dict[str, Any] | None = None
    told: set[str] = set()
    trouble = ""
    while (left_s := began + timeout_s - clock.now()) > 0:
        asked = clock.now()
        patience_s = min(ASK_S, int(left_s))
        try:
            commit = client.get(f"{COMMITS}/{quote(sha, safe='')}?wait={patience_s}", timeout_s=patience_s + 10)
        except ClientError as error:
            trouble = str(error)
            not_there = error.status == 404 and clock.now() - began >= UNSEEN_S
            if not_there or (error.status != 404 and error.status not in _FOR_NOW):
                print(f"argus: {trouble}", file=sys.stderr)
                return UNKNOWN if not_there else MISUSED
        else:
            _tell(commit, told)
            if commit["state"] == "closed":
                return _verdict(commit, form)
        if clock.now() - asked < AGAIN_S:
            clock.pause(max(0.0, min(AGAIN_S, began + timeout_s - clock.now())))
    if commit is not None and form == "json":
        print(json.dumps(commit, indent=2))
    where = "it is not on the branch that Argus sees" if commit is None else "it is still open"
    print(f"argus: no verdict on {sha} within {timeout_s:g} s: {trouble or where}", file=sys.stderr)
    return UNKNOWN


def _verdict(commit: Mapping[str, Any], form: str) -> int:
    print(json.dumps(commit, indent=2) if form == "json" else "\n".join(_lines(commit, with_stages=True)))
    return FINE if commit["verdict"] in _GOOD else BAD


def _newest(client: Client, limit: int) -> Iterator[dict[str, Any]]:
    cursor = ""
    while limit > 0:
        page = client.get(f"{COMMITS}?limit={min(limit, _PAGE)}{cursor}")
        yield from page["items"]
        limit -= len(page["items"])
        if not page["next_cursor"]:
            return
        cursor = f"&cursor={quote(page['next_cursor'])}"


def _tell(commit: Mapping[str, Any], told: set[str]) -> None:
    for stage in _STAGES:
        if commit["stages"][stage] and stage not in told:
            told.add(stage)
            print(f"{stage} {commit['stages'][stage]}", file=sys.stderr, flush=True)


def _lines(commit: Mapping[str, Any], *, with_stages: bool) -> list[str]:
    verdict = commit["verdict"] or "open"
    lines = [f"{commit['sha'][:12]} {verdict:<10} {commit['author']}: {commit['subject']}"]
    for file in commit["files"]:
        is_alone = len(commit["files"]) == 1 and not with_stages
        said = _said(file)
        if said or not is_alone:
            lines.append(f"  {_place(file)}: {file['verdict'] or 'open'}{said}")
    if with_stages:
        lines.append("  " + ", ".join(_times(commit["stages"])))
    return lines


def _place(file: Mapping[str, Any]) -> str:
    where = [file["path"], *(str(file[name]) for name in ("line", "column") if file[name] is not None)]
    return ":".join(where)


def _said(file: Mapping[str, Any]) -> str:
    by = f" by {file['superseded_by'][:12]}" if file["superseded_by"] else ""
    return by + (f", {file['message']}" if file["message"] else "")


def _times(stages: Mapping[str, str | None]) -> list[str]:
    """Give each stage with the seconds since the commit was made: by git's clock, which counts whole ones."""
    committed = datetime.fromisoformat(stages["committed"] or "")
    reached = {name: stages[name] for name in _STAGES}
    return [f"committed {stages['committed']}"] + [
        f"{name} +{(datetime.fromisoformat(at) - committed).total_seconds():.1f} s"
        for name, at in reached.items()
        if at
    ]
