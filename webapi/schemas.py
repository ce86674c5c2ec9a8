"""What goes over the wire: the requests and answers as pydantic models, from which the OpenAPI document is made.

Times are UTC, ISO 8601 with `Z`. Requests refuse members that they do not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from reconciler.core.cases import Verdict
from reconciler.core.entities import ChangeKind, EventType, Health, HoldKind, State, WrittenBy
from reconciler.core.times import iso
from reconciler.names import USER_ID_PATTERN, USER_ID_RULE
from reconciler.spec import UpdateStrategy
from webapi.paging import DEFAULT_LIMIT, LARGEST_LIMIT

LONGEST_WAIT_S = 30
"""How long a request may wait for a verdict at most, in seconds."""


UtcTime: TypeAlias = Annotated[
    datetime,
    PlainSerializer(iso, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

_KEY_EXAMPLE = "svc-alice-20260106-123000-abcd"
_ANNOUNCEMENT_EXAMPLE = "st-0f3c6b0d8c1e4a5f9b2d7e6a1c4b8f30"
_SHA_EXAMPLE = "8c1f0a5f3b0f4a1d9d0e6a7b5c4d3e2f1a0b9c8d"


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- errors -------------------------------------------------------------------------------------------------------


class ErrorDetail(_Answer):
    """What went wrong."""

    code: str = Field(description="For machines; stable.", examples=["not_found"])
    message: str = Field(description="For people: what was wrong and what would be right.")
    details: dict[str, Any] = Field(description="What else is known, e.g. the `field` and `line` of a spec.")


class ErrorBody(_Answer):
    """The body of every answer that is an error."""

    error: ErrorDetail


# --- models -------------------------------------------------------------------------------------------------------


class Endpoint(_Answer):
    """What an OpenAI client needs to reach a model."""

    openai_base_url: str
    model: str


class ModelProgress(_Answer):
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


class ModelHeld(_Answer):
    """A change of a model that is in git and does not count for now: the model goes on as it was."""

    kind: HoldKind = Field(
        description="brake: it would remove too much at once. policy: its author may not. damaged: it cannot be read."
    )
    message: str
    since: UtcTime = Field(description="When it was first held so.")
    commit: str = Field(description="The commit that brought the change.", examples=[_SHA_EXAMPLE])
    removes: bool = Field(description="Whether the change is the removal of the model.")


class ServingModel(_Answer):
    """A model: what git wants of it, and what was done and seen. Null where no version of its file was ever valid."""

    model_key: str = Field(examples=[_KEY_EXAMPLE])
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
    commit: str = Field(description="The commit that is wanted.", examples=[_SHA_EXAMPLE])
    serving_commit: str | None = Field(description="The commit that answers requests; null while none does.")
    progress: ModelProgress | None = Field(description="Null where the model is as it is wanted, or has failed.")
    blob: str | None = Field(description="The file's content in git, as in `ETag`; null where there is no file.")
    held: ModelHeld | None = Field(description="The newest change, while it does not count; null where all counts.")


class ModelList(_Answer):
    """One page of models, oldest first."""

    items: list[ServingModel]
    openai_base_url: str
    next_cursor: str | None


class ModelWritten(_Answer):
    """A change that is in git now, or was there already."""

    model_key: str = Field(examples=[_KEY_EXAMPLE])
    state: State
    commit: str = Field(examples=[_SHA_EXAMPLE])


class ModelEvent(_Answer):
    """Something that happened to a model, with the commit that caused it."""

    event_type: EventType
    created_at: UtcTime
    commit: str
    author: str
    source: WrittenBy
    payload: dict[str, Any]


class ModelDeployment(_Answer):
    """A model's deployment in Serve as it was last seen. The numbers are replicas."""

    health: Health
    target_replicas: int
    running: int
    starting: int
    stopping: int
    message: str


class ModelServeStatus(_Answer):
    """Serve's application, and this model's deployment in it."""

    app_name: str
    app_status: str | None
    deployment: ModelDeployment | None


class ModelDetail(_Answer):
    """A model, its spec with all defaults and macros resolved, and what happened to it."""

    model: ServingModel
    resolved_spec_yaml: str | None
    events: list[ModelEvent] = Field(description="The newest 200, in order of time.")
    serve_status: ModelServeStatus


def _count_in_a_patch(schema: dict[str, Any]) -> None:
    """Say that the number is 1 at least (`spec.parse` answers 422), and that leaving it out does not mean 1."""
    schema["minimum"] = schema.pop("default")


class SpecPatch(_Request):
    """What a PATCH may change: a JSON merge patch (RFC 7396). Members that are left out stay as they are."""

    model_config = ConfigDict(strict=True, json_schema_extra={"minProperties": 1, "example": {"num_replicas": 2}})

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


class RollbackRequest(_Request):
    """Where a model is to go back to, and why."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"to": _SHA_EXAMPLE[:12]}})

    to: str | None = Field(
        default=None,
        description="A commit of the branch, 7 hex digits of its SHA at least; null: the last one that served.",
        json_schema_extra={"example": _SHA_EXAMPLE},
    )
    reason: str | None = Field(default=None, max_length=300, description="For the commit's message; one line of it.")


class HistoryItem(_Answer):
    """One commit that touched a model's file."""

    sha: str = Field(examples=[_SHA_EXAMPLE])
    author: str
    committed_at: UtcTime
    subject: str
    source: WrittenBy
    kind: ChangeKind
    blob: str | None = Field(description="The file's content after it; null where it removed the file.")
    diff: str | None = Field(description="Unified; null where the file is too large or no text.")
    diff_is_cut: bool = Field(description="Whether `diff` is not all of it.")
    verdict: Verdict | None = Field(description="What came of it; null while it is open, or where nothing is known.")


class ModelHistory(_Answer):
    """One page of a model's history, newest first."""

    items: list[HistoryItem]
    next_cursor: str | None


# --- commits ------------------------------------------------------------------------------------------------------


class CommitStages(_Answer):
    """When a change reached what it goes through. Null: not reached yet, or never to be reached with its verdict."""

    committed: UtcTime = Field(description="The commit's own time.")
    seen: UtcTime | None = Field(description="A pass of the reconciler read it.")
    planned: UtcTime | None = Field(description="A pass decided for it.")
    applied: UtcTime | None = Field(description="Serve was asked for it.")
    ready: UtcTime | None = Field(description="It answered; for a removal: the model was gone.")


class CommitFile(_Answer):
    """One spec file that a commit touched, and what became of that change."""

    path: str = Field(examples=["users/alice/qwen-0.5b.yaml"])
    model_key: str = Field(examples=[_KEY_EXAMPLE])
    verdict: Verdict | None = Field(description="Null while the change is open. Once given it never changes.")
    message: str | None = Field(description="Why, where the verdict alone does not say it.")
    line: int | None = Field(description="Where in the file that is refused, from 1.")
    column: int | None
    superseded_by: str | None = Field(description="The commit that took this one's place.")
    stages: CommitStages


class CommitView(_Answer):
    """A commit on the branch with what became of it. To a user it is what it did to files of theirs."""

    sha: str = Field(examples=[_SHA_EXAMPLE])
    author: str
    subject: str
    committed_at: UtcTime
    state: Literal["open", "closed"] = Field(description="Closed: `verdict` is given, and never changes.")
    verdict: Verdict | None = Field(description="The worst verdict of its files; null while one of them is open.")
    files: list[CommitFile]
    stages: CommitStages = Field(description="Each at the time of the last file to reach it.")


class CommitList(_Answer):
    """One page of the commits that touched spec files, newest first."""

    items: list[CommitView]
    next_cursor: str | None


# --- the outbox ---------------------------------------------------------------------------------------------------


class OutboxItem(_Answer):
    """A commit status or a notification that has not arrived."""

    id: str = Field(examples=[_ANNOUNCEMENT_EXAMPLE])
    destination: str = Field(
        description="`statuses`, or `hook:` and the name of one of the `notifications`.", examples=["statuses"]
    )
    state: Literal["pending", "dead"] = Field(description="dead: given up, until somebody asks for it again.")
    since: UtcTime = Field(description="When it was written, or last asked for again.")
    attempts: int
    next_attempt_at: UtcTime | None = Field(description="Not before this; null where it was given up.")
    given_up_at: UtcTime | None
    error: str | None = Field(description="What the last attempt came to; null before one that failed.")
    body: dict[str, Any] = Field(description="What is told: a status, or a CloudEvent.")


class OutboxList(_Answer):
    """One page of the outbox, newest first."""

    items: list[OutboxItem]
    next_cursor: str | None


class HookTaken(_Answer):
    """What was made of a webhook."""

    status: Literal["taken", "ignored", "pong"] = Field(
        description="taken: the reconciler looks at the branch now. ignored: another branch. pong: a trial (ping)."
    )


# --- the platform -------------------------------------------------------------------------------------------------


class AppSummary(_Answer):
    """Serve's application. `status` is Serve's own word, null where the application was not seen."""

    name: str
    status: str | None
    message: str


class GpuSummary(_Answer):
    """The cluster's GPUs as they were last seen."""

    total: float
    free: float


class RevisionSummary(_Answer):
    """Where the spec repository stands, and how far the reconciler has seen it.

    `fetched_at` is when the copy of a remote was last brought up to date, null for a repository on this disk. `error`
    says why the repository could not be read the last time: then `head` is what it was, or null.
    """

    head: str | None
    last_seen: str | None
    fetched_at: UtcTime | None = None
    error: str | None = None


class ReconcilerSummary(_Answer):
    """How the loop is doing. `error` is null after a good pass."""

    last_pass_at: UtcTime | None
    error: str | None
    notes_error: str | None = Field(description="Why verdicts are not published as git notes; null while they are.")
    drift: str | None = Field(
        default=None,
        description="What somebody else changed in Serve and is left as it is found, a line each, and until when.",
    )


class FreezeNow(_Answer):
    """A freeze that is on."""

    until: UtcTime
    reason: str | None
    users: list[str] | None = Field(description="Whom it is about; null: everybody.")


class HoldsSummary(_Answer):
    """What keeps changes that are on the branch from counting now."""

    held: dict[HoldKind, int] = Field(description="How many models have a change that is held, by kind.")
    removals: int = Field(description="How many running models the mass-delete brake keeps.")
    suspended_all: str | None = Field(description='Why all is suspended ("": no reason given); null where it is not.')
    suspended_users: int
    suspended_models: int
    freezes: list[FreezeNow]
    rules_error: str | None = Field(description="Why the newest argus.yaml does not count; null where it does.")


class OutboxSummary(_Answer):
    """How many commit statuses and notifications have not arrived."""

    pending: int
    dead: int = Field(description="Given up: `GET /api/v2/serve/outbox?state=dead` has them.")


class PlatformSummary(_Answer):
    """The platform in a few numbers."""

    app: AppSummary
    gpus: GpuSummary | None = Field(description="Null before the reconciler's first pass.")
    revision: RevisionSummary
    models: dict[State, int] = Field(description="How many models there are in each state.")
    reconciler: ReconcilerSummary
    holds: HoldsSummary | None = Field(description="Null where the repository cannot be read.")
    outbox: OutboxSummary
    events: list[ModelEvent] = Field(
        default=[],
        description="The newest 20 that are about no single model (HISTORY_REWRITTEN, DRIFT_…), in order of time.",
    )


class HealthView(_Answer):
    """A sign of life."""

    status: str = Field(examples=["ok"])


class ReadyView(_Answer):
    """Whether a process can do its work, and if not, why."""

    status: str = Field(examples=["ready", "not_ready"])
    checks: dict[str, bool] = Field(examples=[{"ledger": True, "spec_repository": True}])
    reasons: list[str] = Field(examples=[["the ledger does not answer within 1 s"]])


# --- users and tokens ---------------------------------------------------------------------------------------------


class NewUser(_Request):
    """A user to be created."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"user_id": "alice"}})

    # The rule is more than its pattern; `users` checks it whole, and says it in words.
    user_id: str = Field(
        description=USER_ID_RULE, json_schema_extra={"pattern": USER_ID_PATTERN, "examples": ["alice"]}
    )


class UserView(_Answer):
    """A user. `created_at` is null for one whom only the repository knows so far."""

    user_id: str
    created_at: UtcTime | None


class UserList(_Answer):
    """One page of users, by id."""

    items: list[UserView]
    next_cursor: str | None


class IssuedTokenView(_Answer):
    """A new token. It is shown this once."""

    token: str
    token_id: str
    expires_at: UtcTime


class TokenView(_Answer):
    """What can still be known of a token."""

    token_id: str
    created_at: UtcTime
    expires_at: UtcTime
    revoked_at: UtcTime | None


class TokenList(_Answer):
    """One page of a user's tokens, oldest first, expired and revoked ones among them."""

    items: list[TokenView]
    next_cursor: str | None


# --- parameters ---------------------------------------------------------------------------------------------------


class PageQuery(_Request):
    """Which page of a list."""

    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=LARGEST_LIMIT, description="The most items in one answer.")
    cursor: str | None = Field(default=None, max_length=512, description="`next_cursor` of the page before.")


class OutboxQuery(PageQuery):
    """Which part of the outbox, and which page of it."""

    state: Literal["pending", "dead"] | None = Field(default=None, description="Only these. Default: both.")


class HistoryQuery(_Request):
    """Which page of a model's history."""

    limit: int = Field(default=20, ge=1, le=50, description="The most commits in one answer.")
    cursor: str | None = Field(default=None, max_length=512, description="`next_cursor` of the page before.")


class ModelsQuery(PageQuery):
    """Whose models, and which page of them."""

    all: bool = Field(default=False, description="Everybody's models. Admin only.")
    user_id: str | None = Field(
        default=None, description="This user's models: anybody's for the admin, else only one's own."
    )


class LogsQuery(_Request):
    """Which lines of a log, and in which form."""

    follow: bool = Field(default=False, description="Go on with further lines as they come.")
    tail: int = Field(default=200, ge=0, le=2000, description="The most lines to begin with.")
    after: int | None = Field(
        default=None, ge=0, le=2**53, description="Begin after the line of this number instead of with the newest."
    )
    format: Literal["text", "ndjson"] | None = Field(
        default=None, description="Beats the Accept header. Default: text."
    )


class OwnerQuery(_Request):
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


class UserPath(BaseModel):
    """One user."""

    user_id: str


class TokenPath(UserPath):
    """One of a user's tokens."""

    token_id: str


class CommitPath(BaseModel):
    """One commit."""

    sha: str = Field(
        pattern=r"^[0-9a-f]{7,40}$",
        description="A commit's SHA, or its beginning: 7 hexadecimal digits or more.",
        json_schema_extra={"example": _SHA_EXAMPLE},
    )


class AnnouncementPath(BaseModel):
    """One announcement in the outbox."""

    announcement_id: str = Field(pattern=r"^[A-Za-z0-9-]{1,120}$", json_schema_extra={"example": _ANNOUNCEMENT_EXAMPLE})


class WaitQuery(_Request):
    """How long to wait for a verdict."""

    wait: int = Field(
        default=0,
        ge=0,
        le=LONGEST_WAIT_S,
        description="Seconds to wait for the verdict: the answer comes with it, or in the end without it. Where too "
        "many wait already, it comes at once.",
    )


class ModelPath(BaseModel):
    """One model."""

    model_key: str = Field(json_schema_extra={"example": _KEY_EXAMPLE})
