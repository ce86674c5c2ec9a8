"""Ledgers for the tests of what they promise: one of each kind, and what is written into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.entities import Commit, Event, EventType, Identity, Record, State
from reconciler.ports import Ledger, PlatformStatus
from reconciler.shell.ledger import Accounts, LedgerReader
from reconciler.spec import ServingSpec
from reconciler.testing import MemoryLedger

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
SHA = "c" * 40
APPLIED = Verdict.APPLIED


def commit(number: int = 0) -> Commit:
    """Give a commit; different numbers give different ones."""
    return Commit(f"{number:040x}", "alice", NOON + timedelta(seconds=number), "api", "Deploy hello")


def record(name: str = "a", state: State = State.QUEUED, user_id: str = "alice", number: int = 0) -> Record:
    """Give a record of the model with key `svc-<user>-<name>`."""
    identity = Identity(
        model_key=f"svc-{user_id}-{name}",
        model_id=f"{user_id}-202611221200-{name}",
        user_id=user_id,
        suffix=name,
        path=f"users/{user_id}/{name}.yaml",
        created_at=NOON,
    )
    spec = ServingSpec(model_id=name, model_source="/private/hf/demo")
    return Record(identity=identity, blob="b" * 40, commit=commit(number), state=state, updated_at=NOON, spec=spec)


def happened(
    name: str = "a", kind: EventType = EventType.DEPLOY_REQUESTED, payload: Mapping[str, Any] | None = None
) -> Event:
    """Give an event of the model with key `svc-alice-<name>`."""
    return Event(kind, f"svc-alice-{name}", "alice", NOON, SHA, "alice", "api", payload or {})


def status(second: int = 0) -> PlatformStatus:
    """Give a status as seen `second` seconds past noon."""
    return PlatformStatus(NOON + timedelta(seconds=second), SHA, "RUNNING", "", 4.0, 1.5, None)


def case(number: int = 0, path: str = "users/alice/a.yaml", verdict: Verdict | None = None, **known: Any) -> Case:
    """Give the case of commit number `number` and `path`, whose owner is its folder's."""
    user = path.split("/")[1]
    stages = Stages(NOON, seen=NOON + timedelta(seconds=1))
    return replace(Case(commit(number), path, f"svc-{user}-a", user, False, stages, verdict), **known)


class Written(Protocol):
    """What the tests look at afterwards."""

    def events(self) -> list[Event]: ...
    def users(self) -> set[str]: ...
    def status(self) -> PlatformStatus | None: ...
    def model(self, model_key: str) -> Record | None: ...


@dataclass
class InMemory:
    """What a ledger in memory holds."""

    ledger: MemoryLedger

    def events(self) -> list[Event]:
        return self.ledger.events

    def users(self) -> set[str]:
        return self.ledger.users

    def status(self) -> PlatformStatus | None:
        return self.ledger.status

    def model(self, model_key: str) -> Record | None:
        return self.ledger.records.get(model_key)


@dataclass
class InDatabase:
    """What a ledger in a database holds, as its readers see it."""

    engine: Engine

    def events(self) -> list[Event]:
        return [each for _, each in LedgerReader(self.engine).events("svc-alice-a", 1000)]

    def users(self) -> set[str]:
        return {user.user_id for user in Accounts(self.engine).users(1000)}

    def status(self) -> PlatformStatus | None:
        return LedgerReader(self.engine).status()

    def model(self, model_key: str) -> Record | None:
        return LedgerReader(self.engine).model(model_key)


@dataclass
class World:
    """One ledger, as any number of processes open it."""

    open: Callable[[], Ledger]
    written: Written


def url_of(folder: Path) -> str:
    """Give the URL of a ledger in a file in `folder`."""
    return f"sqlite:///{folder / 'ledger.sqlite'}"
