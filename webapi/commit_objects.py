"""Commit objects as the API makes them, signed where the platform signs, and what it reads of those that are there."""

from __future__ import annotations

import re
from collections.abc import Callable

from reconciler.core.entities import Commit
from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.core.identity import moment
from reconciler.shell.git_answers import clean
from reconciler.shell.objects import object_id

_COMMITTED_AT = re.compile(rb"^committer .*> ([0-9]{1,12}) [+-][0-9]{4}$", re.MULTILINE)


def commit_object(
    root: str, parent: str | None, at: int, author: str, message: str, *, sign: Callable[[bytes], bytes] | None
) -> tuple[bytes, Commit]:
    """Make the commit of a tree on top of `parent` (None: it is the first), at a time in seconds since the epoch.

    Gives the object's content and the commit as it will be read. Raises what `sign` raises.
    """
    email = f"{author.replace(' ', '.')}@users.argus"
    lines = [
        f"tree {root}",
        *([f"parent {parent}"] if parent else []),
        f"author {author} <{email}> {at} +0000",
        f"committer {API_NAME} <{API_EMAIL}> {at} +0000",
        "",
        f"{message}\n",
    ]
    content = "\n".join(lines).encode()
    if sign is not None:
        content = sign(content)
    sha = object_id("commit", content)
    subject = clean(message.partition("\n")[0].encode())
    commit = Commit(sha=sha, author=author, committed_at=moment(str(at)), source="api", subject=subject, email=email)
    return content, commit


def committed_at(commit: bytes) -> int:
    """Say when a commit was made, in seconds since the epoch; 0 where it does not say so."""
    found = _COMMITTED_AT.search(commit.partition(b"\n\n")[0])
    return int(found[1]) if found else 0


def tree_of(commit: bytes) -> str:
    """Give the id of a commit's tree."""
    return commit[5:45].decode(errors="replace")
