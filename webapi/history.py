"""A model's history: git's history of its file, with what each commit changed and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from reconciler.core.cases import Verdict
from reconciler.core.entities import FileChange, Identity
from webapi import history_schemas, model_schemas, openapi, paging, reading
from webapi.auth import caller
from webapi.models import no_such_model
from webapi.parts import Parts, parts

history = openapi.blueprint("history", prefix=f"{openapi.PREFIX}/serve", about="What a model's file has said.")

LONGEST_DIFF = 32 * 1024
"""How much of one commit's diff is shown, in characters."""

_COUNTED_FROM = 10**9


@history.get(
    "/models/<model_key>/history",
    summary="Show a model's history",
    responses=openapi.answers(
        HTTPStatus.OK, history_schemas.ModelHistory, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND
    ),
)
def list_model_history(path: model_schemas.ModelPath, query: history_schemas.HistoryQuery) -> dict[str, Any]:
    """List the commits that touched the model's file, newest first, from the one that brought it."""
    platform = parts()
    changes = _changes(platform, path.model_key)
    numbered = list(enumerate(changes))
    # Newest first, and a commit that comes later moves nothing on the pages that follow.
    page = paging.page(
        numbered, lambda each: (f"{_COUNTED_FROM - each[0]:010d}",), limit=query.limit, cursor=query.cursor
    )
    shown = [change for _, change in page.items]
    diffs = platform.store.diffs(shown)
    verdicts = platform.verdicts.of_model(path.model_key, [change.commit.sha for change in shown])
    items = [_view(change, diffs.get(change.commit.sha), verdicts.get(change.commit.sha)) for change in shown]
    return history_schemas.ModelHistory(items=items, next_cursor=page.next_cursor).model_dump(mode="json")


def _changes(platform: Parts, model_key: str) -> Sequence[FileChange]:
    """Give what commits did to a model's file, oldest first. Raises NotFound."""
    platform.store.read()
    changes = platform.store.life_of(model_key)
    identity = changes[-1].identity if changes else _known(platform, model_key)
    if identity is None or not caller().may_see(identity.user_id):
        raise no_such_model()
    return changes


def _known(platform: Parts, model_key: str) -> Identity | None:
    model = reading.one_model(platform, model_key)
    return model.identity if model is not None else None


def _view(change: FileChange, diff: str | None, verdict: Verdict | None) -> history_schemas.HistoryItem:
    commit = change.commit
    return history_schemas.HistoryItem(
        sha=commit.sha,
        author=commit.author,
        committed_at=commit.committed_at,
        subject=commit.subject,
        source=commit.source,
        kind=change.kind,
        blob=change.after.blob if change.after else None,
        diff=None if diff is None else diff[:LONGEST_DIFF],
        diff_is_cut=diff is None or len(diff) > LONGEST_DIFF,
        verdict=verdict,
    )
