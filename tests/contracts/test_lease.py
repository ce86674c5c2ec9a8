"""What the lease promises: in memory, in a file, in PostgreSQL; and what reconcilers may make of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from reconciler.core.lease import Lease
from reconciler.core.routes import RoutingTable
from reconciler.errors import LedgerUnreachable, Moved, NotLeader
from reconciler.ports import Advance, Leases, PlatformStatus
from reconciler.shell.leadership import Leadership
from reconciler.shell.ledger import SqlBoard, SqlLeases, SqlLedger, open_ledger
from reconciler.testing import MemoryLeases, MemoryLedger
from tests.postgres import Postgres

SHA = "c" * 40
PATIENCE_S = 10.0


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def leases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Leases]:
    """Each kind of lease in turn, new."""
    if request.param == "memory":
        yield MemoryLeases()
        return
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    engine = open_ledger(server.new_ledger() if server else f"sqlite:///{tmp_path / 'ledger.sqlite'}", timeout_s=5)
    yield SqlLeases(engine)
    engine.dispose()


def taken(leases: Leases, holder: str = "a") -> Lease:
    """Take the lease, which nobody may be racing for."""
    lease = leases.take(leases.read(), holder, PATIENCE_S)
    assert lease is not None
    return lease


class TestEveryLease:
    """The port's promises."""

    def test_a_new_lease_is_nobodys(self, leases: Leases) -> None:
        assert leases.read().holder is None

    def test_whoever_takes_it_is_seen_by_all(self, leases: Leases) -> None:
        lease = taken(leases)
        assert leases.read() == lease
        assert (lease.holder, lease.patience_s) == ("a", PATIENCE_S)

    def test_tokens_grow_with_every_change_of_hands_and_with_nothing_else(self, leases: Leases) -> None:
        tokens = []
        for holder in ("a", "b", "b", "a"):
            lease = taken(leases, holder)
            assert leases.renew(lease)
            tokens.append(leases.read().token)
        assert leases.release(lease)
        assert leases.read().token == tokens[-1]
        tokens.append(taken(leases, "a").token)
        assert tokens == sorted(set(tokens))

    def test_a_renewal_is_a_sign_of_life_and_no_more(self, leases: Leases) -> None:
        lease = taken(leases)
        assert leases.renew(lease)
        assert leases.read() == replace(lease, renewals=lease.renewals + 1)

    def test_a_lease_that_was_renewed_since_it_was_seen_is_not_taken(self, leases: Leases) -> None:
        lease = taken(leases, "a")
        seen = leases.read()
        assert leases.renew(lease)
        assert leases.take(seen, "b", PATIENCE_S) is None
        assert leases.read().holder == "a"

    def test_whoever_lost_it_can_neither_renew_nor_release_it(self, leases: Leases) -> None:
        lost, kept = taken(leases, "a"), taken(leases, "b")
        assert not leases.renew(lost)
        assert not leases.release(lost)
        assert leases.read() == kept

    def test_the_same_holder_with_an_older_token_has_lost_it_too(self, leases: Leases) -> None:
        old, new = taken(leases, "a"), taken(leases, "a")
        assert not leases.renew(old)
        assert leases.renew(new)

    def test_a_lease_that_was_given_back_is_nobodys_and_cannot_be_renewed(self, leases: Leases) -> None:
        lease = taken(leases)
        assert leases.release(lease)
        assert leases.read().holder is None
        assert not leases.renew(lease)

    def test_of_many_who_take_it_at_once_one_has_it(self, leases: Leases) -> None:
        seen = leases.read()
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda number: leases.take(seen, f"h{number}", PATIENCE_S), range(8)))
        (winner,) = [lease for lease in got if lease is not None]
        assert leases.read() == winner


def test_memory_that_is_down_is_unreachable() -> None:
    leases = MemoryLeases()
    lease = taken(leases)
    leases.down = True
    for call in (leases.read, lambda: leases.renew(lease), lambda: leases.release(lease)):
        with pytest.raises(LedgerUnreachable):
            call()


class TestWritingUnderIt:
    """Fencing: what is written by whoever lost the lease is refused, to the last moment."""

    def test_whoever_lost_the_lease_records_nothing(self, engine: Engine) -> None:
        leases = SqlLeases(engine)
        old = taken(leases, "a")
        deposed = SqlLedger(engine, lambda: old)
        base = deposed.load().base
        new = taken(leases, "b")
        with pytest.raises(NotLeader, match=f"from token {old.token} to {new.token}"):
            deposed.record(base, Advance(SHA, users=frozenset({"alice"})))
        assert deposed.load().revision is None
        SqlLedger(engine, lambda: new).record(base, Advance(SHA))

    def test_the_lease_is_looked_at_when_all_else_is_written(self, engine: Engine) -> None:
        """Lost in the middle of the write, it is still lost; taken in memory, that is: a writer holds others off."""
        leases = SqlLeases(engine)
        held = [taken(leases, "a")]
        ledger = SqlLedger(engine, lambda: held[0])

        @event.listens_for(engine, "before_cursor_execute")
        def lose(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO platform_status"):
                held[0] = replace(held[0], token=held[0].token - 1)

        status = PlatformStatus(datetime(2026, 11, 24, tzinfo=UTC), SHA, "RUNNING", "", 1, 1, None)
        with pytest.raises(NotLeader):
            ledger.record(0, Advance(SHA, status=status))
        assert ledger.load().revision is None

    def test_whoever_lost_the_lease_cannot_change_the_routing_table(self, engine: Engine) -> None:
        leases = SqlLeases(engine)
        old = taken(leases, "a")
        new = taken(leases, "b")
        SqlBoard(engine, lambda: new).publish(RoutingTable("new", ()))
        with pytest.raises(NotLeader):
            SqlBoard(engine, lambda: old).publish(RoutingTable("old", ()))
        read = SqlBoard(engine).read(0)
        assert read is not None
        assert read[1].secret == "new"

    def test_memory_refuses_as_databases_do(self) -> None:
        ledger = MemoryLedger()
        old = taken(ledger.leases, "a")
        ledger.fence = lambda: old
        ledger.record(0, Advance(None))
        taken(ledger.leases, "b")
        with pytest.raises(NotLeader):
            ledger.record(0, Advance(SHA))
        assert ledger.revision is None


@dataclass
class Process:
    """A reconciler as far as the lease goes, and what it has planned: on which base, under which lease."""

    leadership: Leadership
    plan: tuple[int, Lease] | None = None


class Stage:
    """Reconcilers on one ledger in memory, each with a clock that shows another time. Time passes as a test says."""

    def __init__(self, names: list[str], shifts: list[float]) -> None:
        self.now = 0.0
        self.ledger = MemoryLedger()
        self.processes = [self.process(name, shift) for name, shift in zip(names, shifts, strict=True)]

    def process(self, name: str, shift: float) -> Process:
        return Process(Leadership(self.ledger.leases, name, PATIENCE_S, lambda: self.now + shift))

    def record(self, base: int, lease: Lease, number: int) -> bool:
        self.ledger.fence = lambda: lease
        try:
            self.ledger.record(base, Advance(f"{number:040x}"))
        except (NotLeader, Moved):
            return False
        return True

    def leading(self) -> list[str]:
        return [each.leadership.holder for each in self.processes if each.leadership.is_leading()]


# Mostly what leads somewhere: a lease that is taken, planned under, and kept silent about for too long or not.
actions = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["tend", "tend", "tend", "plan", "plan", "record", "record", "release", "restart"]),
        st.sampled_from([0.0, 0.0, 1.0, 4.0, 6.0, 11.0]),
    ),
    min_size=25,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(st.sampled_from(["a", "b", "c"]), min_size=3, max_size=3),
    shifts=st.lists(st.floats(-1e7, 1e7), min_size=3, max_size=3),
    script=actions,
)
def test_in_any_order_of_events_one_acts_at_a_time_and_tokens_only_grow(
    names: list[str], shifts: list[float], script: list[tuple[int, str, float]]
) -> None:
    """Names may be the same, whoever is not chosen is paused, and any time may pass between a plan and its record."""
    stage = Stage(names, shifts)
    recorded: list[int] = []
    owner: dict[int, Process] = {}
    for number, (who, action, seconds) in enumerate(script):
        stage.now += seconds
        process = stage.processes[who]
        match action:
            case "tend":
                process.leadership.tend()
            case "plan" if process.leadership.is_leading():
                process.plan = (stage.ledger.load().base, process.leadership.fence())
            case "record" if process.plan is not None:
                (base, lease), process.plan = process.plan, None
                if stage.record(base, lease, number):
                    assert lease.token == stage.ledger.leases.lease.token
                    recorded.append(lease.token)
                    assert owner.setdefault(lease.token, process) is process
            case "release":
                process.leadership.release()
            case "restart":
                stage.processes[who] = stage.process(names[who], shifts[who])
        # Of two living processes of one name, which `claim` keeps from coming about, only the token tells: one of them
        # may release what the other believes to hold.
        assert len(stage.leading()) <= 1 or len(set(names)) < len(names)
    assert recorded == sorted(recorded)
