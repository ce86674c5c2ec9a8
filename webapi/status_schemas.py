"""What goes over the wire for the platform as a whole: its status, its health, its readiness."""

from __future__ import annotations

from pydantic import Field

from reconciler.core.entities import HoldKind, State
from webapi.model_schemas import ModelEvent
from webapi.schemas import Answer, UtcTime


class AppSummary(Answer):
    """Serve's application. `status` is Serve's own word, null where the application was not seen."""

    name: str
    status: str | None
    message: str


class GpuSummary(Answer):
    """The cluster's GPUs as they were last seen."""

    total: float
    free: float


class RevisionSummary(Answer):
    """Where the spec repository stands, and how far the reconciler has seen it.

    `fetched_at` is when the copy of a remote was last brought up to date, null for a repository on this disk. `error`
    says why the repository could not be read the last time: then `head` is what it was, or null.
    """

    head: str | None
    last_seen: str | None
    fetched_at: UtcTime | None = None
    error: str | None = None


class ReconcilerSummary(Answer):
    """How the loop is doing. `error` is null after a good pass."""

    last_pass_at: UtcTime | None
    error: str | None
    notes_error: str | None = Field(description="Why verdicts are not published as git notes; null while they are.")
    drift: str | None = Field(
        default=None,
        description="What somebody else changed in Serve and is left as it is found, a line each, and until when.",
    )


class FreezeNow(Answer):
    """A freeze that is on."""

    until: UtcTime
    reason: str | None
    users: list[str] | None = Field(description="Whom it is about; null: everybody.")


class HoldsSummary(Answer):
    """What keeps changes that are on the branch from counting now."""

    held: dict[HoldKind, int] = Field(description="How many models have a change that is held, by kind.")
    removals: int = Field(description="How many running models the mass-delete brake keeps.")
    suspended_all: str | None = Field(description='Why all is suspended ("": no reason given); null where it is not.')
    suspended_users: int
    suspended_models: int
    freezes: list[FreezeNow]
    rules_error: str | None = Field(description="Why the newest argus.yaml does not count; null where it does.")


class OutboxSummary(Answer):
    """How many commit statuses and notifications have not arrived."""

    pending: int
    dead: int = Field(description="Given up: `GET /api/v2/serve/outbox?state=dead` has them.")


class PlatformSummary(Answer):
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


class HealthView(Answer):
    """A sign of life."""

    status: str = Field(examples=["ok"])


class ReadyView(Answer):
    """Whether a process can do its work, and if not, why."""

    status: str = Field(examples=["ready", "not_ready"])
    checks: dict[str, bool] = Field(examples=[{"ledger": True, "spec_repository": True}])
    reasons: list[str] = Field(examples=[["the ledger does not answer within 1 s"]])
