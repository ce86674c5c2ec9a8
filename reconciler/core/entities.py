"""The nouns of the reconciler as plain frozen values. No behaviour beyond what a value knows of itself.

Times are timezone-aware UTC datetimes. Paths of model folders are in the `/private/...` terms that users see;
only the shell knows where `/private` lies on a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from reconciler.spec import ServingSpec, SpecRejected

WrittenBy: TypeAlias = Literal["api", "git"]
Phase: TypeAlias = Literal["scheduling", "loading", "warming_up"]


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit on the branch, as events and records carry it.

    `author` is the author's name as git has it (a user id for commits made by the API); `source` tells the
    API's commits (committer `Argus`) from everybody else's. `email` is the author's; what was written down of a commit
    before Argus looked at e-mails has none, and is the same commit.
    """

    sha: str
    author: str
    committed_at: datetime
    source: WrittenBy
    subject: str = ""
    email: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Declared:
    """A commit of the branch that says something to Argus beside its files: its trailers, those that Argus reads.

    `speaks_for` are the users whose models it may let go; None: everybody's.
    """

    commit: Commit
    trailers: Mapping[str, str] = field(hash=False)
    speaks_for: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a revision holds at a path: git's mode, six octal digits, and the id of the object."""

    mode: str
    blob: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """The content of a file that the spec repository should have and that cannot be read there. `why`, in a few words.

    Damage is no absence, and no fault of what the file says: nobody knows what it says.
    """

    blob: str
    why: str

    def of(self, path: str) -> str:
        """Say it of the file at `path`, with what puts it right."""
        return (
            f"object {self.blob} of {path} cannot be read in the spec repository: {self.why}. Another version of the "
            "file puts it right (by the API, or with `git push --no-thin`), and so do the objects of any complete "
            "clone, copied over the repository's own (cp -rf); `git fsck` names what is broken"
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a model is, as a function of the repository's history alone (`core.identity`)."""

    model_key: str
    model_id: str
    user_id: str
    suffix: str
    path: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One model's file at a revision: its identity, its content's address, and the commit that last changed it."""

    identity: Identity
    blob: str
    mode: str
    commit: Commit


class ChangeKind(StrEnum):
    """What one commit did to one spec file."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One commit's effect on one spec file. `before` and `after` are None where the file is absent.

    `held` says why it has no effect: whoever wrote it may not. Then `after` is what the file was to be.
    """

    kind: ChangeKind
    identity: Identity
    commit: Commit
    before: SpecFile | None
    after: SpecFile | None
    held: str | None = None


@dataclass(frozen=True, slots=True)
class RulesVersion:
    """What a commit made of `names.RULES_FILE`; `entry` is None where it took the file away."""

    commit: Commit
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Tree:
    """The spec repository at one revision. `files` is keyed by model key; `revision` is None for a branch unborn.

    `tip` is the commit at `revision`, and `rules` the versions of `names.RULES_FILE` up to there, newest first.
    """

    revision: str | None
    files: Mapping[str, SpecFile]
    users: frozenset[str]
    tip: Commit | None = None
    rules: tuple[RulesVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """A model folder that may be served, in `/private/...` terms and pinned (a hub name's snapshot is resolved)."""

    path: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """A model folder that may not be served, and why, in words for the model's owner."""

    reason: str


@dataclass(frozen=True, slots=True)
class Workload:
    """One model as the runtime is asked to run it.

    `version` is the digest of all that the engine is built from (`core.workload`): two workloads of one version
    differ at most in `num_replicas`, and the runtime keeps the replicas of a version that stays.
    """

    model_key: str
    model_id: str
    user_id: str
    created_at: datetime
    version: str
    source_path: str
    num_replicas: int
    gpus_per_replica: int
    engine_kwargs: Mapping[str, Any] = field(hash=False)
    surge: bool = field(default=True, compare=False)
    """Whether a new version starts beside the old one, or (for want of room) after it has gone."""

    @property
    def total_gpus(self) -> int:
        """GPUs that all replicas take together."""
        return self.num_replicas * self.gpus_per_replica


@dataclass(frozen=True, slots=True)
class App:
    """Everything the Serve application is to hold: the models that run, by model key."""

    workloads: Mapping[str, Workload]


class Health(StrEnum):
    """What Serve says of one deployment, reduced to what a plan needs."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model's deployment as Serve reports it. `version` and `target_replicas` are what was last applied."""

    model_key: str
    version: str | None
    health: Health
    target_replicas: int
    running: int
    starting: int
    stopping: int
    message: str
    phase: Phase | None = None
    """How far the furthest of the replicas is that start. None where nothing starts or nobody can tell."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster's GPUs: how many there are and how many nobody holds."""

    total_gpus: float
    free_gpus: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What runs. `app_status` is Serve's own word, None where the application does not exist.

    `root_is_current` is False where the application was last applied for another front, or with other settings of it;
    `root` says what it is to be. `session` names the life of Ray's head: one that was started anew is another.
    """

    app_status: str | None
    app_message: str
    deployments: Mapping[str, Deployment]
    cluster: Cluster
    root_is_current: bool = True
    root: str = ""
    session: str = ""


class State(StrEnum):
    """The states of a model that users see."""

    QUEUED = "QUEUED"
    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETED = "DELETED"


PLATFORM = ""
"""The model key of events that are about no single model."""


class EventType(StrEnum):
    """What can happen to a model. Past tense, but for the requests, which say what a commit asked for."""

    DEPLOY_REQUESTED = "DEPLOY_REQUESTED"
    UPDATE_REQUESTED = "UPDATE_REQUESTED"
    SCALE_REQUESTED = "SCALE_REQUESTED"
    DELETE_REQUESTED = "DELETE_REQUESTED"
    SPEC_REJECTED = "SPEC_REJECTED"
    DEPLOY_STARTED = "DEPLOY_STARTED"
    DEPLOY_SUCCEEDED = "DEPLOY_SUCCEEDED"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    SCALE_STARTED = "SCALE_STARTED"
    SCALE_SUCCEEDED = "SCALE_SUCCEEDED"
    ROLLED_BACK = "ROLLED_BACK"
    REPLICAS_LOST = "REPLICAS_LOST"
    RECOVERED = "RECOVERED"
    DELETED = "DELETED"
    DRIFT_CORRECTED = "DRIFT_CORRECTED"
    DRIFT_LEFT = "DRIFT_LEFT"
    HISTORY_REWRITTEN = "HISTORY_REWRITTEN"
    CHANGE_HELD = "CHANGE_HELD"
    CHANGE_RELEASED = "CHANGE_RELEASED"
    FREEZE_OVERRIDDEN = "FREEZE_OVERRIDDEN"
    RULES_REJECTED = "RULES_REJECTED"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a model, with the commit that caused it and who wrote that commit.

    What happened to the platform as a whole has `PLATFORM` for its model key and no user.
    """

    event_type: EventType
    model_key: str
    user_id: str
    created_at: datetime
    commit: str
    author: str
    source: WrittenBy
    payload: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version does not run, how often it was tried, and when it is tried again.

    `recreated_for` is the commit for which an attempt took down what answered, None where none did: such an attempt
    is not made again for the same commit (`core.plan.Hold`).
    """

    version: str
    attempts: int
    retry_at: datetime
    message: str
    recreated_for: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A model that wants more GPUs than it may take now, in numbers.

    `position` is its place in line, from 1; None where no place helps because the cluster itself is too small.
    `needs_gpus` is what is missing to it beyond what it holds, `free_gpus` what nobody holds.
    """

    needs_gpus: int
    free_gpus: int
    position: int | None


class HoldKind(StrEnum):
    """Why a change on the branch does not count now."""

    BRAKE = "brake"
    """It would remove too much at once."""
    SUSPENDED = "suspended"
    FROZEN = "frozen"
    POLICY = "policy"
    """Whoever wrote it may not."""
    DAMAGED = "damaged"
    """Its content cannot be read in the spec repository."""


@dataclass(frozen=True, slots=True)
class Held:
    """A change that is on the branch and does not count: why, since when, and the commit that brought it.

    Shown, never believed: every pass finds out anew what is held. `removes` says that the file is gone.
    """

    kind: HoldKind
    message: str
    since: datetime
    commit: Commit
    removes: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What the ledger knows of one model.

    `commit` is the revision that is wanted; `spec` what it says, None while no version of the file was ever
    acceptable, and the last acceptable one while `rejection` is set. `applied` is what the runtime was last asked
    to run, `serving` what last answered, each with its commit.

    While `held` is set, the branch says something newer that does not count: all else is about what does.

    `asked_at` is when what is wanted was first seen: its place in line goes by that. `since` is when the start or the
    wait that is under way began, and `load_estimate_s` how long such a start has taken before, in seconds; both None
    where there is nothing to tell.
    """

    identity: Identity
    blob: str
    commit: Commit
    state: State
    updated_at: datetime
    spec: ServingSpec | None = None
    rejection: SpecRejected | None = None
    applied: Workload | None = None
    applied_commit: Commit | None = None
    serving: Workload | None = None
    serving_commit: Commit | None = None
    failure: Failure | None = None
    error_summary: str | None = None
    deployment: Deployment | None = None
    asked_at: datetime | None = None
    since: datetime | None = None
    load_estimate_s: int | None = None
    waiting: Waiting | None = None
    held: Held | None = None
