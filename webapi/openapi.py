"""The OpenAPI 3.1 document: made by flask-openapi3 from the handlers' pydantic models, completed here.

flask-openapi3 gathers paths, parameters and answers; bodies are read by `bodies`, because its own reading knows neither
YAML nor 415, takes a JSON string for an object, and cannot tell broken JSON from none. The schemas of the document are
pydantic's own: flask-openapi3 drops keywords that it has no field for (`examples`, `propertyNames`).
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NoReturn

from flask import Flask
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from reconciler.spec import ServingSpec
from webapi import (
    bodies,
    commit_schemas,
    history_schemas,
    hold_schemas,
    hook_schemas,
    model_schemas,
    outbox_schemas,
    plan_schemas,
    schemas,
    status_schemas,
    user_schemas,
)

PREFIX = "/api/v2"

_BEARER = "bearer"
_SECURITY: list[dict[str, list[str]]] = [{_BEARER: []}]

HOOK_SECURITY = {
    "hub_signature": "X-Hub-Signature-256",
    "gitea_signature": "X-Gitea-Signature",
    "gitlab_token": "X-Gitlab-Token",
    "standard_webhooks": "webhook-signature",
}
"""What a webhook is known by, and the header that carries it: any one of them will do."""

_REFS = "#/components/schemas/{model}"

_DESCRIPTION = """\
Serve language models by writing what should run into a git repository.

Every change is one commit; a reconciler makes it true. Send `Authorization: Bearer <token>`: a user's token, or the
admin token where an operation says so. Every error has the body `{"error": {"code", "message", "details"}}`.
Inference is not here: clients of the OpenAI API use `openai_base_url` (no token needed).
"""

SPEC_EXAMPLE = """\
model_id: qwen-0.5b                       # the suffix of the public model name
model_source: $HOME/common/hf/demo        # a folder, or org/name[@revision] from the shared cache
num_replicas: 1
gpus_per_replica: 1
engine_kwargs:
  max_model_len: 4096
"""

_SPEC_AS_JSON = {"model_id": "qwen-0.5b", "model_source": "$HOME/common/hf/demo", "num_replicas": 1}

_REQUESTS: tuple[type[BaseModel], ...] = (
    ServingSpec,
    model_schemas.SpecPatch,
    user_schemas.NewUser,
    model_schemas.RollbackRequest,
    hold_schemas.FreezeOverride,
    hold_schemas.RemovalsAllowed,
    hold_schemas.Suspended,
    plan_schemas.PlanRequest,
)
_ANSWERS: tuple[type[BaseModel], ...] = (
    commit_schemas.CommitList,
    commit_schemas.CommitView,
    schemas.ErrorBody,
    status_schemas.HealthView,
    hold_schemas.HeldRemovals,
    hold_schemas.HoldWritten,
    hook_schemas.HookTaken,
    user_schemas.IssuedTokenView,
    model_schemas.ModelDetail,
    history_schemas.ModelHistory,
    model_schemas.ModelList,
    model_schemas.ModelWritten,
    outbox_schemas.OutboxItem,
    outbox_schemas.OutboxList,
    plan_schemas.PlanView,
    status_schemas.PlatformSummary,
    status_schemas.ReadyView,
    user_schemas.TokenList,
    user_schemas.UserList,
    user_schemas.UserView,
)


def answers(ok: int, body: type[BaseModel] | None, *errors: int) -> dict[str | int | HTTPStatus, Any]:
    """Give the answers of one operation: the good one, its own errors, and those that any operation may give."""
    always = (HTTPStatus.UNAUTHORIZED, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
    return {ok: body, **{int(status): schemas.ErrorBody for status in sorted({*errors, *always})}}


def spec_body() -> dict[str, Any]:
    """Describe a body that is a ServingSpec, in each form in which it is accepted."""
    schema = {"$ref": _REFS.format(model=ServingSpec.__name__)}
    content: dict[str, Any] = {name: {"schema": schema, "example": SPEC_EXAMPLE} for name in bodies.YAML}
    content[bodies.JSON] = {"schema": schema, "example": _SPEC_AS_JSON}
    return {"requestBody": {"required": True, "content": content}}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is a JSON object."""
    schema = {"$ref": _REFS.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {bodies.JSON: {"schema": schema}}}}


def any_body(description: str) -> dict[str, Any]:
    """Describe a body of which nothing is asked."""
    content: dict[str, Any] = {bodies.JSON: {"schema": {}}, "application/x-www-form-urlencoded": {"schema": {}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def blueprint(
    name: str, *, prefix: str, about: str, security: Sequence[dict[str, list[str]]] = _SECURITY
) -> APIBlueprint:
    """Make the blueprint of one resource. Its operations are called by their handlers' names in the document.

    `security` says what opens it: any one of these; nothing is needed where there is none.
    """
    return APIBlueprint(
        name,
        "webapi",
        url_prefix=prefix,
        abp_tags=[Tag(name=name, description=about)],
        abp_security=list(security),
        operation_id_callback=_operation_id,
    )


def make_app(version: str) -> OpenAPI:
    """Make an empty Flask app that gathers its own OpenAPI document."""
    app = OpenAPI(
        "webapi",
        info=Info(title="Argus", version=version, description=_DESCRIPTION),
        security_schemes={
            _BEARER: {"type": "http", "scheme": "bearer"},
            **{name: {"type": "apiKey", "in": "header", "name": header} for name, header in HOOK_SECURITY.items()},
        },
        validation_error_callback=_raise,
        # The form of flask-openapi3's own validation errors is added wherever this status is not described. Ours have
        # another form, and 500 is described everywhere.
        validation_error_status=int(HTTPStatus.INTERNAL_SERVER_ERROR),
        doc_ui=False,
        static_folder=None,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's default provider has it
    return app


def document(app: Flask) -> dict[str, Any]:
    """Give the OpenAPI document of an app that `make_app` made."""
    described: dict[str, Any] = dict(app.api_doc)  # type: ignore[attr-defined]  # OpenAPI, perhaps behind a proxy
    described["components"] = {**described["components"], "schemas": _schemas()}
    return described


def _schemas() -> dict[str, Any]:
    pairs = [*_with_mode(_REQUESTS, "validation"), *_with_mode(_ANSWERS, "serialization")]
    _, together = models_json_schema(pairs, ref_template=_REFS)
    found: dict[str, Any] = together["$defs"]
    return found


def _with_mode(kinds: Sequence[type[BaseModel]], mode: JsonSchemaMode) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    return [(kind, mode) for kind in kinds]


def _operation_id(*, name: str, path: str, method: str) -> str:
    return name


def _raise(error: ValidationError) -> NoReturn:
    raise error
