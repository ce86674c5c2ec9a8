"""Rolling a model back: what its file said at an earlier commit, committed anew while the loop goes on.

Nothing is taken out of history. Where the old version still runs (an update that failed), the loop returns to it
without a start, for it is the same content.
"""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus

from reconciler.core.entities import EventType, Identity, SpecFile, State
from reconciler.shell.git_answers import scrub
from reconciler.shell.objects import object_id
from reconciler.spec import SpecRejected, parse
from webapi import conditions, model_schemas, openapi
from webapi.auth import caller
from webapi.bodies import read_json
from webapi.models import Reply, answer, no_such_model, own_file, refuse_links_out
from webapi.parts import Parts, parts
from webapi.problems import Conflict, Invalid, NotFound, SpecRefused, Unprocessable
from webapi.store import PLAIN

rollback = openapi.blueprint("rollback", prefix=f"{openapi.PREFIX}/serve", about="Back to what was.")

TO = "Argus-Rollback-To"
FROM = "Argus-Rollback-From"
"""Trailers of a rollback's commit: the commit whose content it brings back, and the one it puts aside."""

MOST_EVENTS = 1000
"""How many of a model's events are looked through for the last commit that served."""

_SHA = re.compile(r"[0-9a-f]{7,40}\Z")
_SERVED = {EventType.DEPLOY_SUCCEEDED, EventType.SCALE_SUCCEEDED, EventType.RECOVERED}


@rollback.post(
    "/models/<model_key>/rollback",
    summary="Roll a model back",
    openapi_extensions=openapi.json_body(model_schemas.RollbackRequest),
    responses=openapi.answers(
        HTTPStatus.ACCEPTED,
        model_schemas.ModelWritten,
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.PRECONDITION_FAILED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    ),
)
def roll_model_back(path: model_schemas.ModelPath, header: model_schemas.MatchHeader) -> Reply:
    """Commit what the model's file said at `to`, or without `to` at the last commit that served and says otherwise.

    Where the file says that already, nothing is committed; the answer then is the model's present state and commit.
    """
    platform = parts()
    condition = conditions.matching(header.if_match)
    asked = read_json(model_schemas.RollbackRequest)
    file = _file(platform, path.model_key)
    identity = file.identity
    if asked.to is None:
        target, content = _last_good(platform, file)
    else:
        target = _commit(platform, asked.to)
        content = _acceptable(platform, identity, target)

    def change(before: bytes | None) -> bytes:
        if before is None:
            raise no_such_model()
        return content

    written = platform.store.write(
        identity.path,
        change,
        author=caller().author,
        subject=f"Roll {identity.suffix} back to {target[:12]}",
        body=_body(asked.reason, target, file.commit.sha),
        model_key=identity.model_key,
        condition=condition,
        replaces=True,
    )
    return answer(platform, written, State.QUEUED, HTTPStatus.ACCEPTED)


def _file(platform: Parts, model_key: str) -> SpecFile:
    """Give the model's file. Raises NotFound, and Conflict for a model that was deleted."""
    try:
        return own_file(platform, model_key)
    except NotFound:
        known = model_key.isascii() and model_key.isprintable()
        record = platform.reader.model(model_key) if known else None
        if record is None or not caller().may_see(record.identity.user_id):
            raise
    suffix = record.identity.suffix
    raise Conflict(
        "this model was deleted, and its key and name are gone for good. What its file said is in its history; "
        f"send that to POST /api/v2/serve/models, and '{suffix}' comes up as a new model",
        deleted_by=record.commit.sha,
    )


def _commit(platform: Parts, name: str) -> str:
    """Give the SHA of the commit of the branch that `name` means. Raises Invalid, Unprocessable."""
    if not _SHA.match(name):
        raise Invalid("to: right would be a commit's SHA, 7 to 40 hex digits", field="to")
    found = platform.store.commits(name)
    if len(found) == 1:
        return found[0]
    reason = "more than one commit begins so" if found else "the branch has no such commit (along first parents)"
    raise Unprocessable(f"to: {reason}; GET …/history lists those of this model", field="to")


def _acceptable(platform: Parts, identity: Identity, target: str) -> bytes:
    """Give what the model's file said at a commit, if a file may say so today. Raises Unprocessable, SpecRefused."""
    found = platform.store.text_at(target, identity.path)
    if found is None:
        raise Unprocessable(f"to: {identity.path} did not exist at {target[:12]}", field="to")
    mode, content = found
    if mode != PLAIN:
        raise Unprocessable(f"to: {identity.path} was no plain file at {target[:12]} (mode {mode})", field="to")
    spec = parse(content, owner=identity.user_id, limits=platform.settings.limits, suffix=identity.suffix)
    if isinstance(spec, SpecRejected):
        why = f"what the file said at {target[:12]} is not acceptable now: {spec.message}"
        raise SpecRefused(replace(spec, message=why))
    refuse_links_out(platform, spec, identity.user_id)
    return content


def _last_good(platform: Parts, file: SpecFile) -> tuple[str, bytes]:
    """Give the newest commit that served, and says something else than the file does now. Raises Conflict."""
    for sha in _that_served(platform, file.identity.model_key):
        if sha not in platform.store.commits(sha):
            continue  # rewritten history has lost it
        found = platform.store.text_at(sha, file.identity.path)
        if found is None or object_id("blob", found[1]) == file.blob:
            continue
        return sha, _acceptable(platform, file.identity, sha)
    raise Conflict("no earlier commit of this model has served; say which with `to`", field="to")


def _that_served(platform: Parts, model_key: str) -> list[str]:
    """Give the commits that the model answered with, newest first."""
    record = platform.reader.model(model_key)
    newest = [record.serving_commit.sha] if record is not None and record.serving_commit is not None else []
    events = platform.reader.recent_events(model_key, MOST_EVENTS)
    served = [event.commit for _, event in reversed(events) if event.event_type in _SERVED]
    return list(dict.fromkeys([*newest, *served]))


def _body(reason: str | None, to: str, of: str) -> str:
    """Write the commit's body. The reason is one line and not in the last paragraph: it cannot pass for a trailer."""
    said = scrub(reason or "")
    paragraphs = [f"Reason: {said}"] if said else []
    return "\n\n".join([*paragraphs, f"{TO}: {to}\n{FROM}: {of}"])
