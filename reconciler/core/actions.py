"""What may happen to one model in one pass: a closed set, matched exhaustively wherever it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from reconciler.core.entities import Commit, Waiting, Workload


@dataclass(frozen=True, slots=True)
class Keep:
    """The model runs as wanted, or is on its way there. `commit` may be newer than the one it was started for."""

    workload: Workload
    commit: Commit


@dataclass(frozen=True, slots=True)
class Start:
    """A version that does not run yet: the model's first, or the replacement of another.

    `downtime` says in advance what that costs those who ask meanwhile, None where it costs nothing. `estimate_s` is how
    long such a start has taken before. `is_adopted` where Serve holds the version already and only the record is new.
    """

    workload: Workload
    commit: Commit
    downtime: str | None = None
    estimate_s: int | None = None
    is_adopted: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """The version that runs, with another number of replicas."""

    workload: Workload
    commit: Commit


@dataclass(frozen=True, slots=True)
class Settle:
    """The wanted version failed and waits for its next attempt; meanwhile `workload` runs.

    That is the last that answered, or what was loading when the wanted version could not be started at all.
    """

    workload: Workload | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The model's folder cannot be served: a failed attempt without a start. `workload` goes on."""

    workload: Workload | None
    version: str
    commit: Commit
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room yet. `workload` (what runs of this model) goes on."""

    workload: Workload | None
    reason: str
    waiting: Waiting | None = None
    estimate_s: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """What is wanted cannot be done as things are, however long one waits. `workload` (what runs) goes on.

    `waiting` has the numbers where it is the cluster that is too small, None where it is for the owner to decide.
    """

    workload: Workload | None
    commit: Commit
    reason: str
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """No version of the file was ever accepted, so there is nothing to run."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The file is gone from the repository."""


Action: TypeAlias = Keep | Start | Scale | Settle | Refuse | Wait | Hold | Idle | Remove
