"""What the loop needs of the world, as Protocols. Their semantics stand here; `shell/` and `testing.py` keep them.

Every method that waits has a time limit of its own and raises the `Unreachable` of its port when it is passed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from reconciler.core.arrivals import Arrival
from reconciler.core.cases import Case, CaseId
from reconciler.core.entities import (
    App,
    Commit,
    Damaged,
    Declared,
    Event,
    FileChange,
    Located,
    Observation,
    Record,
    Tree,
    Unusable,
)
from reconciler.core.estimates import LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.lease import Lease
from reconciler.core.ownership import Ruling
from reconciler.core.routes import Name, RoutingTable
from reconciler.core.upkeep import Upkeep
from reconciler.spec import HubSource, LocalSource


@dataclass(frozen=True, slots=True)
class Reading:
    """The repository at its newest revision, and what happened to spec files since the revision asked about.

    `changes` are in the order of the branch (oldest first); None where `since` is not on the branch any more
    (rewritten history) or was not given: then only comparing trees tells what is new.

    `trouble` says why this is only what was last fetched: the repository does not answer. None where it is the newest.

    `held` are the changes that do not count (`core.ownership`) and are the newest of their files; `rulings` names all
    commits with paths that do not count on this branch. `rules_held` says why the newest `argus.yaml` does not count.
    `tree` is what counts.
    """

    tree: Tree
    changes: tuple[FileChange, ...] | None
    trouble: str | None = None
    held: tuple[FileChange, ...] = ()
    rulings: frozenset[Ruling] = frozenset()
    rules_held: str | None = None


class Source(Protocol):
    """The spec repository, read only."""

    def read(self, since: str | None, carried: Carried | None = None) -> Reading:
        """Fetch the branch and read it, with the identities that `carried` holds from its revision on.

        A file counts at the commit that brought it onto the branch: history is walked along first parents. Where the
        repository does not answer and `since` is on the branch as it was last fetched, that is what is given, with
        `trouble` saying so. Raises SourceUnreachable where there is no such copy.
        """
        ...

    def hurry(self) -> None:
        """Ask the repository again at the next read, however often it has not answered: somebody says it is there."""
        ...

    def history(self) -> tuple[FileChange, ...]:
        """Give everything that ever happened to spec files on the branch, oldest first, as it was last read."""
        ...

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Give the commits with trailers from the earliest of `commits` on, oldest first, as the branch was last read.

        Of a commit that is not on the branch nobody can say what came after it: only the newest one counts for it.
        Trailers that Argus does not read are no trailers.
        """
        ...

    def removals(self, model_keys: Collection[str]) -> Mapping[str, Commit]:
        """Give the commits that took these models' files away, by model key, as far as the branch as last read has any.

        A model whose file is there may have one, too: from before its identity was carried over.
        """
        ...

    def precedes(self, sha: str, other: str) -> bool:
        """Say whether `sha` is `other` or came before it, both being on the branch as last read."""
        ...

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Read blobs by id, each cut to `max_bytes` + 1 bytes so that a caller can see that one is too large.

        One that is missing or damaged is told as such, keeps no other from being read, and is read anew each time.
        Where there is another copy of the repository to be had, that is tried first. Raises SourceUnreachable, also on
        what is no object id.
        """
        ...


class ModelFolders(Protocol):
    """The disk with the models."""

    def locate(self, source: LocalSource | HubSource, owner: str) -> Located | Unusable:
        """Find and inspect the folder that a spec of `owner` names. Never raises; never leaves the owner's roots."""
        ...


class Runtime(Protocol):
    """The one Serve application. Applying starts and does not wait; observing tells how it went."""

    def observe(self) -> Observation:
        """Say what runs. Raises RuntimeUnreachable."""
        ...

    def apply(self, app: App) -> None:
        """Make the application hold exactly `app`. Raises RuntimeUnreachable.

        Idempotent. A deployment whose version and replica count stay is not touched, nor is the ingress's process
        ever replaced.
        """
        ...


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger's content as the loop needs it. `base` guards the next `record` (compare-and-swap)."""

    base: int
    revision: str | None
    records: Mapping[str, Record]
    load_times: LoadTimes = field(default_factory=LoadTimes)
    carried: Carried | None = None
    cases: tuple[Case, ...] = ()
    """The open ones, oldest first."""
    rulings: frozenset[Ruling] = frozenset()
    """What of the branch up to `revision` does not count."""
    upkeep: Upkeep = field(default_factory=Upkeep)


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """What the reconciler last saw of itself and of Serve, for status pages. `error` is None after a good pass.

    `notes_error` says why verdicts cannot be published as git notes; None while they can. `rules_error` says why the
    newest `argus.yaml` does not count; None where it does. `drift` says what is left as
    it is found in Serve, a line each, and until when; None where nothing is.
    """

    seen_at: datetime
    revision: str | None
    app_status: str | None
    app_message: str
    total_gpus: float
    free_gpus: float
    error: str | None
    notes_error: str | None = None
    rules_error: str | None = None
    drift: str | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """What one pass learnt: the records that changed, the events in order, and where the branch was.

    `load_times` takes the place of what was kept of loads, `upkeep` of what was remembered of the application; None
    leaves that as it is.
    `carried` takes the place of what the ledger has of it; None leaves that.
    `cases` are those that were opened, changed or closed, in the branch's order; one that has a verdict got it in this
    pass. `restored` are closed ones that git notes told of.
    `rulings` take the place of what the ledger has of them; None leaves that.
    """

    revision: str | None
    records: Sequence[Record] = ()
    events: Sequence[Event] = ()
    users: frozenset[str] = frozenset()
    status: PlatformStatus | None = field(default=None)
    load_times: LoadTimes | None = None
    carried: Carried | None = None
    cases: Sequence[Case] = ()
    restored: Sequence[Case] = ()
    rulings: frozenset[Ruling] | None = None
    upkeep: Upkeep | None = None

    def moves(self, revision: str | None) -> bool:
        """Say whether this changes what `Ledger.load` gives, for a ledger at `revision`."""
        anew = (self.records, self.events, self.load_times, self.carried, self.cases, self.upkeep)
        return any(anew) or self.rulings is not None or self.revision != revision


class Ledger(Protocol):
    """What was done and seen."""

    def load(self) -> LedgerState:
        """Read what the loop needs; records of DELETED models are left out. Raises LedgerUnreachable."""
        ...

    def record(self, base: int, advance: Advance) -> int:
        """Write one pass in one transaction and give the new base.

        A case that is closed stays as it is, whatever is written over it; a restored one counts as published. Raises
        Moved where somebody else wrote since `base` was read, and NotLeader where it is written under a lease that
        somebody else has taken (nothing is written in both cases), LedgerUnreachable.
        """
        ...

    def on_record(self, commits: Collection[str]) -> frozenset[CaseId]:
        """Give the cases, open and closed, that are on record for these commits. Raises LedgerUnreachable."""
        ...

    def unpublished(self, commits: int) -> tuple[Case, ...]:
        """Give every closed case of commits of which one was closed and is not marked as published.

        The oldest such commits, at most `commits` of them, in their order. Raises LedgerUnreachable.
        """
        ...

    def published(self, cases: Sequence[Case]) -> None:
        """Mark cases as published. Raises LedgerUnreachable."""
        ...

    def nudges(self) -> int:
        """Give a counter that grows with each `nudge`. Raises LedgerUnreachable."""
        ...

    def nudge(self) -> None:
        """Ask for a pass at once. Raises LedgerUnreachable."""
        ...


class Front(Protocol):
    """What stands between users and models. Which replicas take requests it learns by itself; names, from the loop."""

    def show(self, names: Sequence[Name]) -> None:
        """Know these names from now on, and no others. Raises Unreachable where that cannot be passed on."""
        ...


class Road(Protocol):
    """The way that users' requests take to a model."""

    def reached(self, arrivals: Sequence[Arrival]) -> Collection[str]:
        """Give the keys of those that have answered by it. Waits about a second at most, and never raises.

        Who never answers by it is given all the same after a while: the road may be out of the reconciler's reach.
        """
        ...


class Notes(Protocol):
    """Where verdicts go for people to find: notes on commits, beside the branch, which they never touch."""

    def read(self, commits: Sequence[str]) -> Mapping[str, str]:
        """Give the notes of these commits (full SHAs, the most wanted first), as far as they are bounded in size.

        What cannot be read as notes is passed over. Raises SourceUnreachable where a remote does not answer.
        """
        ...

    def publish(self, notes: Mapping[str, str]) -> None:
        """Make these the notes of their commits (by full SHA), at once or not at all; every other note stays.

        Raises SourceUnreachable where that cannot be done, also where a remote refuses.
        """
        ...


class Board(Protocol):
    """Where the newest routing table hangs, for the fronts to read wherever they run."""

    def publish(self, table: RoutingTable) -> None:
        """Put up a table in place of the last one. Raises LedgerUnreachable, NotLeader (see `Ledger.record`)."""
        ...

    def read(self, known: int) -> tuple[int, RoutingTable] | None:
        """Give the table and its number, None where that is `known` or where there is none. Raises LedgerUnreachable.

        A table that was put up later has a higher number, also after `clear`.
        """
        ...

    def clear(self) -> None:
        """Take the table down: what it says is not true any more. Raises LedgerUnreachable."""
        ...


class Leases(Protocol):
    """The one lease under which a reconciler works. Every change is a compare-and-swap; safe for threads."""

    def read(self) -> Lease:
        """Read the lease. Raises LedgerUnreachable."""
        ...

    def take(self, seen: Lease, holder: str, patience_s: float) -> Lease | None:
        """Take the lease over as it was `seen`, with a higher token. None where it is another by now, if only renewed.

        Raises LedgerUnreachable.
        """
        ...

    def renew(self, held: Lease) -> bool:
        """Give a sign of life. False where the lease has changed hands since it was `held`.

        Raises LedgerUnreachable.
        """
        ...

    def release(self, held: Lease) -> bool:
        """Give the lease back, for anybody to take at once. False as in `renew`. Raises LedgerUnreachable."""
        ...
