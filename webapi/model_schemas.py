"""What goes over the wire for models: what they are and do, how they are written, and what is asked of their logs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.entities import EventType, Health, HoldKind, State, WrittenBy
from reconciler.spec import UpdateStrategy
from webapi.schemas import KEY_EXAMPLE, SHA_EXAMPLE, Answer, Body, PageQuery, Query, UtcTime


class Endpoint(Answer):
    """What an OpenAI client needs to reach a model."""

    openai_base_url: str
    model: str


class ModelProgress(Answer):
    """How far a model is on its way to what is wanted of it: what it waits for, or how far it has loaded."""

    phase: Literal["waiting", "scheduling", "loading", "warming_up"] | None = Field(
        description="waiting: for room. scheduling: its replicas are being placed. Null where nobody can tell."
    )
    since: UtcTime | None = Field(description="When this start or this wait began.")
    elapsed_s: int | None = Field(description="Seconds since then.")
    estimated_s: int | None = Field(
        description="How long a start of this source takes, in seconds: the median of earlier ones. Null before one."
    )
    position: int | None = Field(
        description="While it waits: its place in line, from 1. Null where no place helps: the cluster is too small."
    )
    needs_gpus: int | None = Field(description="While it waits: the GPUs that it needs beyond what it holds.")
    free_gpus: int | None = Field(description="While it waits: the GPUs that nobody holds.")


class ModelHeld(Answer):
    """A change of a model that is in git and does not count for now: the model goes on as it was."""

    kind: HoldKind = Field(
        description="brake: it would remove too much at once. policy: its author may not. damaged: it cannot be read."
    )
    message: str
    since: UtcTime = Field(description="When it was first held so.")
    commit: str = Field(description="The commit that brought the change.", examples=[SHA_EXAMPLE])
    removes: bool = Field(description="Whether the change is the removal of the model.")


class ServingModel(Answer):
    """A model: what git wants of it, and what was done and seen. Null where no version of its file was ever valid."""

    model_key: str = Field(examples=[KEY_EXAMPLE])
    user_id: str
    model_id: str = Field(description="The public model name.", examples=["alice-202601061230-qwen-0.5b"])
    model_id_suffix: str
    model_id_prefix: str
    model_source: str | None
    num_replicas: int | None
    gpus_per_replica: int | None
    total_gpus: int | None
    state: State
    endpoint: Endpoint
    error_summary: str | None
    created_at: UtcTime
    updated_at: UtcTime
    commit: str = Field(description="The commit that is wanted.", examples=[SHA_EXAMPLE])
    serving_commit: str | None = Field(description="The commit that answers requests; null while none does.")
    progress: ModelProgress | None = Field(description="Null where the model is as it is wanted, or has failed.")
    blob: str | None = Field(description="The file's content in git, as in `ETag`; null where there is no file.")
    held: ModelHeld | None = Field(description="The newest change, while it does not count; null where all counts.")


class ModelList(Answer):
    """One page of models, oldest first."""

    items: list[ServingModel]
    openai_base_url: str
    next_cursor: str | None


class ModelWritten(Answer):
    """A change that is in git now, or was there already."""

    model_key: str = Field(examples=[KEY_EXAMPLE])
    state: State
    commit: str = Field(examples=[SHA_EXAMPLE])


class ModelEvent(Answer):
    """Something that happened to a model, with the commit that caused it."""

    event_type: EventType
    created_at: UtcTime
    commit: str
    author: str
    source: WrittenBy
    payload: dict[str, Any]


class ModelDeployment(Answer):
    """A model's deployment in Serve as it was last seen. The numbers are replicas."""

    health: Health
    target_replicas: int
    running: int
    starting: int
    stopping: int
    message: str


class ModelServeStatus(Answer):
    """Serve's application, and this model's deployment in it."""

    app_name: str
    app_status: str | None
    deployment: ModelDeployment | None


class ModelDetail(Answer):
    """A model, its spec with all defaults and macros resolved, and what happened to it."""

    model: ServingModel
    resolved_spec_yaml: str | None
    events: list[ModelEvent] = Field(description="The newest 200, in order of time.")
    serve_status: ModelServeStatus


def _count_in_a_patch(schema: dict[str, Any]) -> None:
    """Say that the number is 1 at least (`spec.parse` answers 422), and that leaving it out does not mean 1."""
    schema["minimum"] = schema.pop("default")


class SpecPatch(Body):
    """What a PATCH may change: a JSON merge patch (RFC 7396). Members that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "example": {"num_replicas": 2}})

    num_replicas: int = Field(default=1, json_schema_extra=_count_in_a_patch)
    gpus_per_replica: int = Field(default=1, json_schema_extra=_count_in_a_patch)
    engine_kwargs: dict[str, Any] | None = Field(
        default=None,
        description="Null removes an argument, or all of them.",
        json_schema_extra={"example": {"seed": 7}},
    )
    update_strategy: UpdateStrategy | None = Field(
        default=None,
        description="How the next update goes. Null: as the platform has it. Changing it restarts nothing.",
    )


class RollbackRequest(Body):
    """Where a model is to go back to, and why."""

    model_config = ConfigDict(json_schema_extra={"example": {"to": SHA_EXAMPLE[:12]}})

    to: str | None = Field(
        default=None,
        description="A commit of the branch, 7 hex digits of its SHA at least; null: the last one that served.",
        json_schema_extra={"example": SHA_EXAMPLE},
    )
    reason: str | None = Field(default=None, max_length=300, description="For the commit's message; one line of it.")


class ModelPath(BaseModel):
    """One model."""

    model_key: str = Field(json_schema_extra={"example": KEY_EXAMPLE})


class ModelsQuery(PageQuery):
    """Whose models, and which page of them."""

    all: bool = Field(default=False, description="Everybody's models. Admin only.")
    user_id: str | None = Field(
        default=None, description="This user's models: anybody's for the admin, else only one's own."
    )


class OwnerQuery(Query):
    """For whom a model is written."""

    user_id: str | None = Field(
        default=None, description="The model's owner. The admin, who owns no models, has to say; others are themselves."
    )


class MatchHeader(BaseModel):
    """The condition under which a model is changed."""

    if_match: str | None = Field(
        default=None,
        alias="If-Match",
        description="`ETag` of what was read, or several, or `*`: 412 where the model's file is another by now.",
    )


class CreateHeader(MatchHeader):
    """The condition under which a model is written."""

    if_none_match: str | None = Field(
        default=None, alias="If-None-Match", description="`*`: create only; 409 where the model exists."
    )


class LogsQuery(Query):
    """Which lines of a log, and in which form."""

    follow: bool = Field(default=False, description="Go on with further lines as they come.")
    tail: int = Field(default=200, ge=0, le=2000, description="The most lines to begin with.")
    after: int | None = Field(
        default=None, ge=0, le=2**53, description="Begin after the line of this number instead of with the newest."
    )
    format: Literal["text", "ndjson"] | None = Field(
        default=None, description="Beats the Accept header. Default: text."
    )
