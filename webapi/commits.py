"""Commits and what became of them: read from the ledger, completed from git.

The ledger holds a case for each change that a pass has judged, or is about to. What it does not hold is on the branch:
a commit that no pass has seen yet is open, and one from before Argus began to judge was superseded by whatever happened
to its files next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, current_app

from reconciler.core.cases import Case, Stages, Verdict, stages_of, worst
from reconciler.core.entities import ChangeKind, Commit, FileChange, State
from reconciler.shell.source import Past
from webapi import commit_schemas, openapi, paging, schemas
from webapi.auth import Caller, caller
from webapi.parts import Parts, parts
from webapi.problems import Conflict, NotFound

commits = openapi.blueprint("commits", prefix=f"{openapi.PREFIX}/serve", about="What became of each commit.")

LOOK_EVERY_S = 0.4
"""How often a request that waits for a verdict looks for it, in seconds."""

_FULL = 40
_WAITERS = "argus-waiters"


def install(app: Flask, threads: int) -> None:
    """Let at most half of a process's `threads` wait for verdicts at a time: the others answer."""
    app.extensions[_WAITERS] = threading.Semaphore(threads // 2)


@commits.get(
    "/commits",
    summary="List commits with their verdicts",
    responses=openapi.answers(HTTPStatus.OK, commit_schemas.CommitList, HTTPStatus.BAD_REQUEST),
)
def list_commits(query: schemas.PageQuery) -> dict[str, Any]:
    """List the commits that touched one's own spec files (for the admin: any), newest first.

    They are those that Argus has judged or is about to.
    """
    user_id = caller().user_id
    before = paging.number_after(query.cursor)
    found = parts().verdicts.page(user_id, query.limit + 1, before)
    items = [_view(cases[0].commit, cases) for _, cases in found[: query.limit]]
    more = paging.cursor_to((str(found[query.limit - 1][0]),)) if len(found) > query.limit else None
    return commit_schemas.CommitList(items=items, next_cursor=more).model_dump(mode="json")


@commits.get(
    "/commits/<sha>",
    summary="Show what became of a commit",
    responses=openapi.answers(
        HTTPStatus.OK, commit_schemas.CommitView, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
    ),
)
def read_commit(path: commit_schemas.CommitPath, query: commit_schemas.WaitQuery) -> dict[str, Any]:
    """Show a commit's verdict, that on each file, and the stages it went through.

    With `wait`, the answer comes when the verdict is there. A commit that is not known yet is waited for, too.
    """
    platform, asking = parts(), caller()
    found = _find(platform, asking, path.sha)
    if query.wait and (found is None or found.state == "open"):
        waiters: threading.Semaphore = current_app.extensions[_WAITERS]
        if waiters.acquire(blocking=False):
            try:
                found = _wait(platform, asking, path.sha, found, time.monotonic() + query.wait)
            finally:
                waiters.release()
    if found is None:
        raise NotFound("there is no such commit on the branch that touches a file of yours")
    return found.model_dump(mode="json")


def _wait(
    platform: Parts, asking: Caller, prefix: str, found: commit_schemas.CommitView | None, deadline: float
) -> commit_schemas.CommitView | None:
    """Look again until a commit is judged or the time is up, at git only where the ledger does not know it yet."""
    base = -1  # a pass may have ended since `found` was read
    while (found is None or found.state == "open") and time.monotonic() < deadline:
        time.sleep(max(0.0, min(LOOK_EVERY_S, deadline - time.monotonic())))
        before, base = base, platform.verdicts.stand().base
        if base != before or found is None:
            found = _find(platform, asking, prefix)
    return found


def _find(platform: Parts, asking: Caller, prefix: str) -> commit_schemas.CommitView | None:
    """Give the commit that begins with `prefix` as the caller may see it. Raises Conflict where it is not the only one.

    The revision is read before the cases: a pass that ends in between then makes a commit look open, never judged.
    """
    revision = platform.verdicts.stand().revision
    known = {sha: platform.verdicts.of_commit(sha) for sha in platform.verdicts.commits(prefix)}
    past = {each.commit.sha: each for each in platform.store.past(prefix)}
    views = []
    for sha in known.keys() | past.keys():
        cases = list(known.get(sha, ()))
        if sha in past:
            cases += _implied(platform, past[sha], cases, revision)
        mine = [case for case in cases if asking.may_see(case.user_id)]
        if mine or (asking.is_admin and not cases):
            commit = past[sha].commit if sha in past else mine[0].commit
            views.append(_view(commit, sorted(mine, key=lambda case: case.path)))
    if len(views) > 1:
        raise Conflict(f"more than one commit begins with these {len(prefix)} digits; give more of them, up to {_FULL}")
    return views[0] if views else None


def _implied(platform: Parts, past: Past, known: Sequence[Case], revision: str | None) -> list[Case]:
    """Judge what the ledger does not hold of a commit on the branch."""
    there = {case.path for case in known}
    missing = [(change, later) for change, later in past.changes if change.identity.path not in there]
    if not missing:
        return []
    is_new = platform.store.is_after(past.commit.sha, revision)
    return [_implied_case(platform, change, later, is_new=is_new) for change, later in missing]


def _implied_case(platform: Parts, change: FileChange, later: FileChange | None, *, is_new: bool) -> Case:
    removes = change.kind is ChangeKind.DELETED
    verdict: Verdict | None = None
    if not is_new and change.held is not None:
        verdict = Verdict.HELD
    elif not is_new and later is not None:
        verdict = Verdict.SUPERSEDED
    elif not is_new and removes:
        record = platform.reader.model(change.identity.model_key)
        verdict = Verdict.REMOVED if record is None or record.state is State.DELETED else None
    return Case(
        commit=change.commit,
        path=change.identity.path,
        model_key=change.identity.model_key,
        user_id=change.identity.user_id,
        removes=removes,
        stages=Stages(change.commit.committed_at),
        verdict=verdict,
        message=change.held,
        superseded_by=later.commit.sha if verdict is Verdict.SUPERSEDED and later else None,
    )


def _view(commit: Commit, cases: Sequence[Case]) -> commit_schemas.CommitView:
    verdict = worst(case.verdict for case in cases)
    return commit_schemas.CommitView(
        sha=commit.sha,
        author=commit.author,
        subject=commit.subject,
        committed_at=commit.committed_at,
        state="open" if verdict is None else "closed",
        verdict=verdict,
        files=[_file(case) for case in cases],
        stages=_stages(stages_of(cases) if cases else Stages(commit.committed_at)),
    )


def _file(case: Case) -> commit_schemas.CommitFile:
    return commit_schemas.CommitFile(
        path=case.path,
        model_key=case.model_key,
        verdict=case.verdict,
        message=case.message,
        line=case.line,
        column=case.column,
        superseded_by=case.superseded_by,
        stages=_stages(case.stages),
    )


def _stages(stages: Stages) -> commit_schemas.CommitStages:
    return commit_schemas.CommitStages(
        committed=stages.committed,
        seen=stages.seen,
        planned=stages.planned,
        applied=stages.applied,
        ready=stages.ready,
    )
