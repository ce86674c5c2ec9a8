"""Models: written as commits to the spec repository, shown as git and the ledger have them.

Another user's model does not exist for anybody but the admin: 404, in the same words as for a key that nobody has.
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeAlias

from reconciler.core import room
from reconciler.core.entities import SpecFile, State
from reconciler.core.times import iso
from reconciler.names import spec_path
from reconciler.spec import LocalSource, Problem, ServingSpec, SpecRejected, parse, source_of
from webapi import changes, conditions, model_schemas, openapi, paging, reading, views
from webapi.auth import caller, require_admin
from webapi.bodies import read_json, read_spec
from webapi.parts import Parts, parts
from webapi.problems import Conflict, Forbidden, Invalid, NotFound, SpecRefused
from webapi.store import Written
from webapi.users import require_user

models = openapi.blueprint("models", prefix=f"{openapi.PREFIX}/serve", about="What should run, and what runs.")

Reply: TypeAlias = tuple[dict[str, Any], HTTPStatus, dict[str, str]]
"""A body, a status and headers, as Flask takes them."""

MOST_EVENTS = 200
"""How many events a detail shows: the newest."""

_OK, _INVALID, _ABSENT = HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND
_SPEC_PROBLEMS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@models.post(
    "/models",
    summary="Create or update a model",
    openapi_extensions=openapi.spec_body(),
    responses=openapi.answers(HTTPStatus.ACCEPTED, model_schemas.ModelWritten, *_SPEC_PROBLEMS),
)
def write_model(query: model_schemas.OwnerQuery, header: model_schemas.CreateHeader) -> Reply:
    """Commit a spec exactly as it was sent. The same user and suffix again is an update of that model.

    A body that is in git already makes no commit; the answer then is the model's present state and commit.
    """
    platform = parts()
    condition = conditions.matching(header.if_match)
    owner = owner_of(platform, query.user_id)
    body = read_spec()
    spec = _accepted(parse(body, owner=owner, limits=platform.settings.limits))
    refuse_links_out(platform, spec, owner)
    create_only = (header.if_none_match or "").strip() == "*"

    def change(before: bytes | None) -> bytes:
        if create_only and before is not None:
            raise Conflict("the model exists already, and If-None-Match: * asks to create only", field="model_id")
        _refuse_what_can_never_fit(platform, spec, before, owner)
        return body

    def subject(before: bytes | None, _after: bytes | None) -> str:
        return f"{'Create' if before is None else 'Update'} {spec.model_id}"

    path = spec_path(owner, spec.model_id)
    written = platform.store.write(
        path, change, author=caller().author, subject=subject, condition=condition, replaces=True
    )
    return answer(platform, written, State.QUEUED, HTTPStatus.ACCEPTED)


@models.get(
    "/models",
    summary="List models",
    responses=openapi.answers(_OK, model_schemas.ModelList, _INVALID, HTTPStatus.FORBIDDEN),
)
def list_models(query: model_schemas.ModelsQuery) -> dict[str, Any]:
    """List one's own models, oldest first. The admin may ask for a user's or for all (`all=true`)."""
    platform = parts()
    found, _ = reading.all_models(platform, _asked_for(query))
    if caller().is_admin and not query.all and query.user_id is None:
        found = []  # the admin owns none
    page = paging.page(found, _sorting_key, limit=query.limit, cursor=query.cursor)
    url = platform.settings.openai_base_url
    now = datetime.now(UTC)
    items = [views.serving_model(reading.with_spec(platform, model), url, now) for model in page.items]
    answer = model_schemas.ModelList(items=items, openai_base_url=url, next_cursor=page.next_cursor)
    return answer.model_dump(mode="json")


@models.get(
    "/models/<model_key>",
    summary="Show a model",
    responses=openapi.answers(_OK, model_schemas.ModelDetail, _ABSENT),
)
def read_model(path: model_schemas.ModelPath) -> Reply:
    """Show a model with its resolved spec, its newest events and its deployment. DELETED models are kept as history.

    `ETag` is the content of the model's file; send it as `If-Match` to change only what was seen.
    """
    platform = parts()
    model = reading.one_model(platform, path.model_key)
    if model is None or not caller().may_see(model.identity.user_id):
        raise no_such_model()
    events = [event for _, event in platform.reader.recent_events(path.model_key, MOST_EVENTS)]
    settings = platform.settings
    detail = views.detail(
        model,
        events,
        platform.reader.status(),
        settings.openai_base_url,
        datetime.now(UTC),
        update_strategy=settings.serving.update_strategy,
    )
    return detail.model_dump(mode="json"), _OK, conditions.etag(detail.model.blob)


@models.patch(
    "/models/<model_key>",
    summary="Scale or change a model",
    openapi_extensions=openapi.json_body(model_schemas.SpecPatch),
    responses=openapi.answers(_OK, model_schemas.ModelWritten, *_SPEC_PROBLEMS),
)
def patch_model(path: model_schemas.ModelPath, header: model_schemas.MatchHeader) -> Reply:
    """Change replicas, GPUs, engine arguments or how updates go (a JSON merge patch). Comments and order are kept."""
    platform = parts()
    condition = conditions.matching(header.if_match)
    file = own_file(platform, path.model_key)
    patch = read_json(model_schemas.SpecPatch).model_dump(exclude_unset=True)
    if not patch:
        fields = "num_replicas, gpus_per_replica, engine_kwargs or update_strategy"
        raise Invalid(f"the body names nothing to change; give {fields}")
    identity, limits = file.identity, platform.settings.limits

    def change(before: bytes | None) -> bytes:
        if before is None:
            raise no_such_model()
        after = changes.patched_spec(before, patch, owner=identity.user_id, limits=limits, suffix=identity.suffix)
        spec = _accepted(parse(after, owner=identity.user_id, limits=limits, suffix=identity.suffix))
        _refuse_what_can_never_fit(platform, spec, before, identity.user_id)
        return after

    subject = changes.subject_of(patch, identity.suffix)
    written = platform.store.write(
        identity.path,
        change,
        author=caller().author,
        subject=subject,
        model_key=identity.model_key,
        condition=condition,
    )
    return answer(platform, written, State.QUEUED)


@models.delete(
    "/models/<model_key>",
    summary="Delete a model",
    responses=openapi.answers(
        _OK, model_schemas.ModelWritten, _INVALID, _ABSENT, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED
    ),
)
def delete_model(path: model_schemas.ModelPath, header: model_schemas.MatchHeader) -> Reply:
    """Take a model's file out of the repository; the reconciler then takes the model down."""
    platform = parts()
    condition = conditions.matching(header.if_match)
    identity = own_file(platform, path.model_key).identity

    def change(before: bytes | None) -> None:
        if before is None:
            raise no_such_model()

    subject = f"Delete {identity.suffix}"
    written = platform.store.write(
        identity.path,
        change,
        author=caller().author,
        subject=subject,
        model_key=identity.model_key,
        condition=condition,
        replaces=True,
    )
    return answer(platform, written, State.DELETING)


def owner_of(platform: Parts, user_id: str | None) -> str:
    """Say for whom a model is written. Raises Forbidden, NotFound."""
    asking = caller()
    if asking.user_id is None:
        if user_id is None:
            raise Forbidden("the admin owns no models; say for whom with ?user_id=<user>, or use the user's own token")
        require_user(platform, user_id)
        return user_id
    if user_id not in {None, asking.user_id}:
        raise Forbidden("only the admin may write models for others; leave ?user_id= out")
    return asking.user_id


def _asked_for(query: model_schemas.ModelsQuery) -> str | None:
    """Say whose models are asked for, None for everybody's. Raises Forbidden."""
    asking = caller()
    if query.all:
        require_admin()
        return query.user_id
    if asking.is_admin:
        return query.user_id
    if query.user_id not in {None, asking.user_id}:
        raise Forbidden("only the admin may list others' models; leave ?user_id= out")
    return asking.user_id


def own_file(platform: Parts, model_key: str) -> SpecFile:
    """Give the file of a model that is the caller's to change. Raises NotFound."""
    file = platform.store.read().files.get(model_key)
    if file is None or not caller().may_see(file.identity.user_id):
        raise no_such_model()
    return file


def answer(platform: Parts, written: Written, state: State, status: HTTPStatus = _OK) -> Reply:
    """Answer a write, after a nudge: with `state` where there is a new commit, else with what is there already."""
    identity = written.identity
    assert identity is not None, "a spec's path has an identity"  # noqa: S101  SpecStore.write
    if written.changed and written.commit is not None:
        platform.nudge()
        body = model_schemas.ModelWritten(model_key=identity.model_key, state=state, commit=written.commit)
    else:
        model = reading.one_model(platform, identity.model_key)
        if model is None:
            raise no_such_model()
        body = views.written(model)
    return body.model_dump(mode="json"), status, conditions.etag(written.blob)


def _accepted(outcome: ServingSpec | SpecRejected) -> ServingSpec:
    if isinstance(outcome, SpecRejected):
        raise SpecRefused(outcome)
    return outcome


def refuse_links_out(platform: Parts, spec: ServingSpec, owner: str) -> None:
    """Look once at the disk when a spec is written. The reconciler looks again at every apply, and at the content.

    Raises Forbidden where a link leads out of what the owner may use. What is missing is accepted: it may come yet.
    """
    source = source_of(spec.model_source, owner)
    if isinstance(source, LocalSource) and (why := platform.folders.leads_out(source, owner)):
        raise Forbidden(why, field="model_source")


def _refuse_what_can_never_fit(platform: Parts, spec: ServingSpec, before: bytes | None, owner: str) -> None:
    """Refuse a spec that asks for more GPUs than the whole cluster had when it was last seen. Raises SpecRefused.

    A file that asked for as much before may be changed in other ways: the cluster may have become smaller since.
    """
    status = platform.reader.status()
    needed = spec.num_replicas * spec.gpus_per_replica
    if status is None or not room.too_big(needed, status.total_gpus):
        return
    present = parse(before, owner=owner, limits=platform.settings.limits) if before is not None else None
    if isinstance(present, ServingSpec) and needed <= present.num_replicas * present.gpus_per_replica:
        return
    field = "gpus_per_replica" if spec.gpus_per_replica > status.total_gpus else "num_replicas"
    why = room.why_too_big(spec.num_replicas, spec.gpus_per_replica, status.total_gpus)
    raise SpecRefused(SpecRejected(Problem.UNPROCESSABLE, f"the model {why}", field))


def _sorting_key(model: views.Model) -> paging.SortingKey:
    return (iso(model.identity.created_at), model.identity.model_key)


def no_such_model() -> NotFound:
    """Give the error of a key that nobody has, or somebody else."""
    return NotFound("there is no such model among yours")
