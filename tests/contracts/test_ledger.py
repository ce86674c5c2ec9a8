"""What every ledger promises: one suite over memory and database, and what only a file can show."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text

from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.differences import Difference, Kind
from reconciler.core.entities import (
    Commit,
    Deployment,
    Event,
    EventType,
    Failure,
    Health,
    Identity,
    Record,
    State,
    Waiting,
    Workload,
)
from reconciler.core.estimates import Load, LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.ownership import Rulings
from reconciler.core.upkeep import Fight, Upkeep
from reconciler.engine_args import EngineKwargs
from reconciler.errors import LedgerUnreachable, Moved, SettingsError
from reconciler.names import spelt
from reconciler.ports import Advance, Ledger, PlatformStatus
from reconciler.shell.ledger import (
    Accounts,
    LedgerReader,
    SqlLeases,
    SqlLedger,
    VerdictReader,
    open_ledger,
    rows,
    schema,
)
from reconciler.spec import Problem, ServingSpec, SpecRejected
from reconciler.testing import MemoryLedger
from tests.contracts.databases import ON_SQLITE
from tests.postgres import Postgres

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


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each kind of ledger in turn, new."""
    if request.param == "memory":
        memory = MemoryLedger()
        yield World(lambda: memory, InMemory(memory))
        return
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    engine = open_ledger(server.new_ledger() if server else url_of(tmp_path), timeout_s=5)
    yield World(lambda: SqlLedger(engine), InDatabase(engine))
    engine.dispose()


class TestEveryLedger:
    """The port's promises."""

    def test_a_new_ledger_is_empty(self, world: World) -> None:
        state = world.open().load()
        assert state.revision is None
        assert dict(state.records) == {}

    def test_what_was_recorded_is_loaded_by_whoever_opens_it_next(self, world: World) -> None:
        first = world.open()
        base = first.record(first.load().base, Advance(SHA, [record("a"), record("b")]))
        for ledger in (first, world.open()):
            state = ledger.load()
            assert state.base == base
            assert state.revision == SHA
            assert dict(state.records) == {"svc-alice-a": record("a"), "svc-alice-b": record("b")}

    def test_a_record_replaces_the_one_of_its_key_and_leaves_the_others(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, [record("a"), record("b")]))
        running = record("a", State.RUNNING, number=7)
        ledger.record(base, Advance(SHA, [running]))
        for each in (ledger, world.open()):
            assert dict(each.load().records) == {"svc-alice-a": running, "svc-alice-b": record("b")}

    def test_a_deleted_model_leaves_the_loop_and_stays_to_be_looked_up(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, [record("a"), record("b")]))
        gone = record("a", State.DELETED)
        ledger.record(base, Advance(SHA, [gone]))
        for each in (ledger, world.open()):
            assert set(each.load().records) == {"svc-alice-b"}
        assert world.written.model("svc-alice-a") == gone

    def test_writing_on_a_base_that_is_past_is_refused_and_writes_nothing(self, world: World) -> None:
        slow, fast = world.open(), world.open()
        base = slow.load().base
        fast.record(base, Advance(SHA, [record("a")]))
        with pytest.raises(Moved):
            slow.record(base, Advance("d" * 40, [record("b")], [happened()], frozenset({"bob"}), status()))
        state = slow.load()
        assert set(state.records) == {"svc-alice-a"}
        assert state.revision == SHA
        assert world.written.events() == []
        assert world.written.users() == set()
        assert world.written.status() is None

    def test_a_mere_status_is_refused_on_a_base_that_is_past_too(self, world: World) -> None:
        slow, fast = world.open(), world.open()
        base = slow.load().base
        fast.record(base, Advance(SHA, [record("a")]))
        with pytest.raises(Moved):
            slow.record(base, Advance(None, status=status()))

    def test_whoever_lost_reads_again_and_may_then_write(self, world: World) -> None:
        slow, fast = world.open(), world.open()
        base = slow.load().base
        fast.record(base, Advance(SHA, [record("a")]))
        slow.record(slow.load().base, Advance(SHA, [record("b")]))
        assert set(fast.load().records) == {"svc-alice-a", "svc-alice-b"}

    @pytest.mark.parametrize(
        "advance",
        [
            Advance(SHA, records=[record()]),
            Advance(SHA, events=[happened()]),
            Advance("d" * 40),
            Advance(None),
        ],
        ids=["a record", "an event", "a revision", "no revision any more"],
    )
    def test_the_base_grows_with_what_others_would_have_to_know(self, world: World, advance: Advance) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA))
        assert ledger.record(base, advance) > base

    def test_the_base_stays_when_only_the_status_is_newer(self, world: World) -> None:
        ledger, other = world.open(), world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, [record()]))
        seen = other.load()
        assert ledger.record(base, Advance(SHA, users=frozenset({"alice"}), status=status(1))) == base
        assert ledger.record(base, Advance(SHA, status=status(2))) == base
        assert world.written.status() == status(2)
        assert other.load() == seen

    def test_a_pass_without_a_status_keeps_the_last_one(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, status=status()))
        ledger.record(base, Advance("d" * 40))
        assert world.written.status() == status()

    def test_how_long_loads_took_is_kept_until_something_newer_is_known(self, world: World) -> None:
        ledger, other = world.open(), world.open()
        loads = LoadTimes().after([Load("/private/hf/été", 2, 61.5)])
        base = ledger.record(ledger.load().base, Advance(SHA, load_times=loads))
        base = ledger.record(base, Advance(SHA, [record()]))
        assert other.load().load_times == ledger.load().load_times == world.open().load().load_times == loads
        later = loads.after([Load("/private/hf/demo", 1, 40.0)])
        ledger.record(base, Advance(SHA, load_times=later))
        assert list(world.open().load().load_times.by_kind.items()) == list(later.by_kind.items())

    def test_what_is_remembered_of_the_application_is_kept_until_it_is_otherwise(self, world: World) -> None:
        ledger, other = world.open(), world.open()
        assert ledger.load().upkeep == Upkeep()
        fights = {"svc-été": Fight("c" * 40, (NOON, NOON + timedelta(seconds=1.5)), 2, NOON), "": Fight("", (NOON,))}
        kept = Upkeep("a session", "a root", NOON, fights, (Difference("svc-été", Kind.REPLICAS, 2, 5),))
        base = ledger.record(ledger.load().base, Advance(SHA, upkeep=kept))
        base = ledger.record(base, Advance(SHA, [record()]))
        assert other.load().upkeep == ledger.load().upkeep == world.open().load().upkeep == kept
        ledger.record(base, Advance(SHA, upkeep=Upkeep("a session")))
        assert ledger.load().upkeep == world.open().load().upkeep == Upkeep("a session")

    def test_events_are_kept_in_their_order(self, world: World) -> None:
        ledger = world.open()
        first = [happened(kind=kind) for kind in (EventType.DEPLOY_REQUESTED, EventType.DEPLOY_STARTED)]
        base = ledger.record(ledger.load().base, Advance(SHA, events=first))
        ledger.record(base, Advance(SHA, events=[happened(kind=EventType.DEPLOY_SUCCEEDED, payload={"after_s": 1.5})]))
        assert world.written.events() == [*first, happened(kind=EventType.DEPLOY_SUCCEEDED, payload={"after_s": 1.5})]

    def test_identities_that_were_carried_over_are_known_to_whoever_opens_it_next(self, world: World) -> None:
        ledger = world.open()
        first = Carried("c" * 40, {"users/alice/a.yaml": "svc-alice-20260106-123000-abcd"})
        base = ledger.record(0, Advance(revision="c" * 40, carried=first))
        assert base > 0
        assert ledger.load().carried == world.open().load().carried == first
        ledger.record(base, Advance(revision="d" * 40))
        assert world.open().load().carried == first, "a pass that has none leaves them"
        second = Carried("e" * 40, {})
        ledger.record(ledger.load().base, Advance(revision="e" * 40, carried=second))
        assert ledger.load().carried == world.open().load().carried == second

    def test_rulings_are_known_to_whoever_opens_it_next_and_give_way_to_the_next_ones(self, world: World) -> None:
        ledger = world.open()
        noise = "".join(sha256(bytes([number])).hexdigest() for number in range(100))  # nothing to compress
        paths = ("users/alice/a.yaml", "users/alice/\\udcff", spelt(f"users/alice/{noise}"))
        first = frozenset(("c" * 40, path) for path in paths)
        base = ledger.record(0, Advance(revision="c" * 40, rulings=first))
        assert base > 0
        assert ledger.load().rulings == world.open().load().rulings == first
        ledger.record(base, Advance(revision="d" * 40))
        assert world.open().load().rulings == first, "a pass without news of them leaves them"
        second = frozenset({("c" * 40, "users/alice/a.yaml"), ("e" * 40, "users/bob/b.yaml")})
        ledger.record(ledger.load().base, Advance(revision="e" * 40, rulings=second))
        assert ledger.load().rulings == world.open().load().rulings == second
        ledger.record(ledger.load().base, Advance(revision="e" * 40, rulings=frozenset()))
        assert ledger.load().rulings == world.open().load().rulings == frozenset()

    def test_users_are_added_and_never_removed(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, users=frozenset({"alice", "bob"})))
        base = ledger.record(base, Advance(SHA, users=frozenset({"bob", "carol"})))
        ledger.record(base, Advance(SHA, users=frozenset()))
        world.open().record(base, Advance(SHA, users=frozenset({"alice"})))
        assert world.written.users() == {"alice", "bob", "carol"}

    def test_a_nudge_is_seen_by_everybody_and_does_not_move_the_base(self, world: World) -> None:
        ledger, other = world.open(), world.open()
        before, base = ledger.nudges(), ledger.load().base
        other.nudge()
        other.nudge()
        assert ledger.nudges() == before + 2
        assert ledger.load().base == base

    def test_a_state_that_was_loaded_does_not_change_afterwards(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, [record("a")]))
        state = ledger.load()
        ledger.record(base, Advance(SHA, [record("a", State.DELETED), record("b")]))
        assert dict(state.records) == {"svc-alice-a": record("a")}


def test_a_memory_ledger_that_is_down_is_unreachable() -> None:
    ledger = MemoryLedger()
    ledger.down = True
    for call in (ledger.load, ledger.nudges, ledger.nudge, lambda: ledger.record(0, Advance(None))):
        with pytest.raises(LedgerUnreachable):
            call()


def statements(engine: Engine) -> list[str]:
    """Collect the statements that the engine executes from now on."""
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    return seen


class TestInADatabase:
    """What a database promises beyond the port."""

    def test_loading_again_reads_one_row_where_nothing_changed(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.record(ledger.load().base, Advance(SHA, [record("a")]))
        first = ledger.load()
        seen = statements(engine)
        ledger.record(base, Advance(SHA, status=status()))
        seen.clear()
        assert ledger.load() is first
        assert [each for each in seen if each.startswith("SELECT")] == [seen[-1]]
        assert "models" not in seen[-1]

    def test_what_one_wrote_itself_is_not_read_back(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        seen = statements(engine)
        ledger.record(base, Advance(SHA, [record("a")]))
        assert dict(ledger.load().records) == {"svc-alice-a": record("a")}
        assert not [each for each in seen if each.startswith("SELECT") and "models" in each]

    def test_users_that_are_known_are_not_written_again(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.record(ledger.load().base, Advance(SHA, users=frozenset({"alice"})))
        seen = statements(engine)
        ledger.record(base, Advance(SHA, users=frozenset({"alice"})))
        assert not [each for each in seen if "users" in each]

    def test_ten_thousand_models_are_no_burden(self, engine: Engine) -> None:
        many = [record(f"m{number}", number=number) for number in range(10_000)]
        began = time.monotonic()
        ledger = SqlLedger(engine)
        ledger.record(ledger.load().base, Advance(SHA, many, [happened(each.identity.suffix) for each in many]))
        assert len(SqlLedger(engine).load().records) == len(many)
        assert time.monotonic() - began < 30  # 3 s on two idle cores

    def test_a_failure_in_the_middle_of_a_pass_writes_nothing(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        with pytest.raises(TypeError, match="a set cannot be kept"):
            ledger.record(base, Advance(SHA, [record("a")], [happened(payload={"no JSON": {1}})]))
        assert ledger.load().base == base
        assert dict(SqlLedger(engine).load().records) == {}

    @ON_SQLITE
    def test_the_file_and_its_companions_are_their_owners_alone(self, engine: Engine, tmp_path: Path) -> None:
        SqlLedger(engine).nudge()
        files = list(tmp_path.glob("ledger.sqlite*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_a_file_that_others_may_read_is_taken_from_them(self, tmp_path: Path) -> None:
        file = tmp_path / "ledger.sqlite"
        file.touch(mode=0o644)
        file.chmod(0o644)
        open_ledger(url_of(tmp_path), 5).dispose()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    @ON_SQLITE
    def test_what_was_acknowledged_is_synced(self, engine: Engine) -> None:
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1

    @ON_SQLITE
    def test_a_reader_is_not_held_up_by_a_writer(self, engine: Engine, tmp_path: Path) -> None:
        SqlLedger(engine).nudge()
        with engine.connect() as busy:
            busy.exec_driver_sql("UPDATE nudges SET count = 99")
            assert SqlLedger(open_ledger_without_waiting(tmp_path)).nudges() == 1

    @ON_SQLITE
    def test_a_writer_waits_for_another_and_then_gives_up(self, engine: Engine, tmp_path: Path) -> None:
        impatient = SqlLedger(open_ledger(url_of(tmp_path), timeout_s=0.2))
        with engine.connect() as busy:
            busy.exec_driver_sql("UPDATE nudges SET count = 99")
            began = time.monotonic()
            with pytest.raises(LedgerUnreachable, match="locked"):
                impatient.nudge()
            assert 0.1 < time.monotonic() - began < 3
            busy.rollback()
        impatient.nudge()
        assert impatient.nudges() == 1

    def test_of_two_loops_on_one_base_one_writes(self, url: str) -> None:
        ledgers = [SqlLedger(open_ledger(url, 5)) for _ in range(4)]
        base = ledgers[0].load().base
        together = threading.Barrier(len(ledgers))

        def write(number: int) -> bool:
            together.wait()
            try:
                ledgers[number].record(base, Advance(f"{number:040x}", [record(f"m{number}")]))
            except Moved:
                return False
            return True

        with ThreadPoolExecutor(len(ledgers)) as pool:
            written = list(pool.map(write, range(len(ledgers))))
        assert written.count(True) == 1
        assert set(ledgers[0].load().records) == {f"svc-alice-m{written.index(True)}"}

    def test_nudges_from_many_sides_are_all_counted(self, engine: Engine) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: SqlLedger(engine).nudge(), range(40)))
        assert SqlLedger(engine).nudges() == 40

    def test_what_a_killed_process_had_recorded_is_there(self, url: str) -> None:
        program = (
            "import os, signal, sys\n"
            "from reconciler.ports import Advance\n"
            "from reconciler.shell.ledger import SqlLedger, open_ledger\n"
            "ledger = SqlLedger(open_ledger(sys.argv[1], 5))\n"
            "ledger.record(ledger.load().base, Advance('f' * 40))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program, url], check=False, timeout=60)
        assert ended.returncode == -9
        assert SqlLedger(open_ledger(url, 5)).load().revision == "f" * 40

    def test_a_forked_worker_does_not_use_its_parents_connections(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        ledger.nudge()
        connections: list[object] = []
        event.listen(engine, "connect", lambda dbapi, _record: connections.append(dbapi))
        child = os.fork()
        if child == 0:
            try:
                ledger.nudge()
                os._exit(0 if connections else 3)
            except BaseException:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ledger.nudges() == 2
        assert not connections


FIRST_VERSION = Path(__file__).parent / "ledger_v1"
"""A ledger as version 1 made it, with a little in it. Never to be changed."""


def tables(of: Engine) -> dict[str, Any]:
    """Give all that a database says of its tables."""
    looked = inspect(of)
    return {
        table: (
            [(each["name"], repr(each["type"]), each["nullable"]) for each in looked.get_columns(table)],
            looked.get_pk_constraint(table)["constrained_columns"],
            sorted((each["name"], each["column_names"], each["unique"]) for each in looked.get_indexes(table)),
            [(each["constrained_columns"], each["referred_table"]) for each in looked.get_foreign_keys(table)],
        )
        for table in looked.get_table_names()
    }


def open_ledger_without_waiting(folder: Path) -> Engine:
    """Give an engine onto an existing ledger whose write lock somebody else holds: migrations cannot run."""
    from reconciler.shell.ledger import engine as opening

    return opening._open_sqlite(opening._parse(url_of(folder)), 0.2)


def case(number: int = 0, path: str = "users/alice/a.yaml", verdict: Verdict | None = None, **known: Any) -> Case:
    """Give the case of commit number `number` and `path`, whose owner is its folder's."""
    user = path.split("/")[1]
    stages = Stages(NOON, seen=NOON + timedelta(seconds=1))
    return replace(Case(commit(number), path, f"svc-{user}-a", user, False, stages, verdict), **known)


class TestVerdictsInEveryLedger:
    """The port's promises on cases."""

    def test_open_cases_are_loaded_and_closed_ones_are_not(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, cases=[case(2), case(1), case(3, verdict=APPLIED)]))
        for each in (ledger, world.open()):
            assert each.load().base == base
            assert each.load().cases == (case(2), case(1))

    def test_a_case_is_advanced_and_then_closed(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, cases=[case()]))
        further = case(stages=Stages(NOON, NOON, NOON))
        base = ledger.record(base, Advance(SHA, cases=[further]))
        assert world.open().load().cases == (further,)
        ledger.record(base, Advance(SHA, cases=[case(verdict=APPLIED)]))
        for each in (ledger, world.open()):
            assert each.load().cases == ()

    def test_a_verdict_is_never_written_over(self, world: World) -> None:
        ledger = world.open()
        failed = case(verdict=Verdict.FAILED, message="no weights")
        base = ledger.record(ledger.load().base, Advance(SHA, cases=[failed]))
        for other in (case(verdict=APPLIED), case()):
            base = ledger.record(base, Advance(SHA, cases=[other]))
        base = ledger.record(base, Advance(SHA, restored=[case(verdict=APPLIED)]))
        assert ledger.unpublished(10) == (failed,)
        for each in (ledger, world.open()):
            assert each.load().cases == ()

    def test_cases_on_record_are_found_by_their_commits(self, world: World) -> None:
        ledger = world.open()
        other = case(1, "users/alice/b.yaml")
        ledger.record(ledger.load().base, Advance(SHA, cases=[case(1), other, case(2, verdict=APPLIED), case(3)]))
        wanted = {commit(number).sha for number in (1, 2, 9)}
        assert ledger.on_record(wanted) == {case(1).id, other.id, case(2).id}
        assert ledger.on_record(set()) == frozenset()

    def test_what_is_closed_is_due_until_it_is_marked_with_all_closed_files_of_its_commit(self, world: World) -> None:
        ledger = world.open()
        a, b = case(1, verdict=APPLIED), case(1, "users/bob/b.yaml")
        base = ledger.record(ledger.load().base, Advance(SHA, cases=[a, b, case(2, verdict=APPLIED)]))
        assert ledger.unpublished(1) == (a,)
        ledger.published([a])
        assert world.open().unpublished(10) == (case(2, verdict=APPLIED),)
        ledger.published(ledger.unpublished(10))
        closed = replace(b, verdict=APPLIED)
        ledger.record(base, Advance(SHA, cases=[closed]))
        assert ledger.unpublished(10) == (a, closed)

    def test_marking_disturbs_nobody_who_read_before(self, world: World) -> None:
        ledger = world.open()
        base = ledger.record(ledger.load().base, Advance(SHA, cases=[case(verdict=APPLIED)]))
        ledger.published(ledger.unpublished(10))
        assert ledger.record(base, Advance(SHA)) == base

    def test_what_notes_told_is_on_record_and_not_due(self, world: World) -> None:
        ledger = world.open()
        ledger.record(ledger.load().base, Advance(SHA, restored=[case(1, verdict=APPLIED)], cases=[case(2)]))
        assert ledger.unpublished(10) == ()
        assert ledger.on_record({commit(1).sha}) == {case(1).id}

    def test_cases_are_refused_with_the_rest_on_a_base_that_is_past(self, world: World) -> None:
        slow, fast = world.open(), world.open()
        base = slow.load().base
        fast.record(base, Advance(SHA, [record("a")]))
        with pytest.raises(Moved):
            slow.record(base, Advance(SHA, cases=[case(verdict=APPLIED)]))
        assert slow.unpublished(10) == ()


class TestReadingVerdicts:
    """What the API sees of them."""

    @pytest.fixture
    def reader(self, engine: Engine) -> VerdictReader:
        ledger = SqlLedger(engine)
        cases = [
            case(1, verdict=APPLIED),
            case(2, "users/bob/b.yaml", Verdict.REJECTED),
            case(3),
            case(3, "users/bob/b.yaml", APPLIED),
        ]
        ledger.record(ledger.load().base, Advance(SHA, cases=cases))
        return VerdictReader(engine)

    def test_a_page_is_newest_first_and_goes_on_below_its_last_number(self, reader: VerdictReader) -> None:
        first = reader.page(None, 2)
        assert [(number, len(cases)) for number, cases in first] == [(3, 2), (2, 1)]
        assert reader.page(None, 2, before=2) == [(1, (case(1, verdict=APPLIED),))]
        assert reader.page(None, 2, before=1) == []

    def test_a_user_gets_only_commits_and_files_of_theirs(self, reader: VerdictReader) -> None:
        assert reader.page("alice", 9) == [(3, (case(3),)), (1, (case(1, verdict=APPLIED),))]
        assert reader.page("nobody", 9) == []

    def test_a_commit_is_found_by_its_beginning(self, reader: VerdictReader) -> None:
        assert reader.commits(commit(2).sha) == [commit(2).sha]
        assert reader.commits("0000000") == [commit(number).sha for number in (1, 2, 3)]
        assert reader.commits("f" * 7) == []
        assert [each.path for each in reader.of_commit(commit(3).sha)] == ["users/alice/a.yaml", "users/bob/b.yaml"]

    def test_the_stand_grows_with_what_is_learnt(self, reader: VerdictReader, engine: Engine) -> None:
        base, revision = reader.stand()
        assert revision == SHA
        SqlLedger(engine).record(base, Advance(SHA, cases=[case(3, verdict=APPLIED)]))
        assert reader.stand() == (base + 1, SHA)

    def test_ten_thousand_cases_go_in_and_come_out_in_their_order(self, engine: Engine) -> None:
        """More than any database takes in one statement."""
        ledger = SqlLedger(engine)
        many = [case(number, verdict=APPLIED) for number in range(10_000)]
        ledger.record(ledger.load().base, Advance(SHA, cases=many))
        due = ledger.unpublished(2000)
        assert due == tuple(many[:2000])
        ledger.published(due)
        assert ledger.unpublished(1) == (many[2000],)
        assert len(ledger.on_record({each.commit.sha for each in many})) == 10_000

    @ON_SQLITE
    @pytest.mark.parametrize("order", [("phase", "open cases"), ("number", "newest"), ("user", "a user's newest")])
    def test_no_question_reads_the_whole_table(self, engine: Engine, order: tuple[str, str]) -> None:
        index, _ = order
        asked = {
            "phase": "SELECT number FROM verdicts WHERE phase = 'CLOSED' ORDER BY number LIMIT 5",
            "number": "SELECT DISTINCT number FROM verdicts WHERE number < 9 ORDER BY number DESC LIMIT 5",
            "user": "SELECT DISTINCT number FROM verdicts WHERE user_id = 'a' AND number < 9 ORDER BY number DESC",
        }[index]
        with engine.connect() as connection:
            steps = [row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {asked}"))]
        assert len(steps) == 1
        assert f"verdicts_by_{index}" in steps[0]


class TestOpening:
    """Versions of the tables, and URLs."""

    def test_opening_again_changes_nothing(self, engine: Engine, url: str) -> None:
        ledger = SqlLedger(engine)
        ledger.record(ledger.load().base, Advance(SHA, [record()]))
        assert SqlLedger(open_ledger(url, 5)).load() == ledger.load()

    def test_processes_that_open_a_new_ledger_together_make_one(self, url: str) -> None:
        together = threading.Barrier(8)

        def begin(_: int) -> int:
            together.wait()
            ledger = SqlLedger(open_ledger(url, 10))
            ledger.nudge()
            return ledger.load().base

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(begin, range(8))) == [0] * 8
        assert SqlLedger(open_ledger(url, 5)).nudges() == 8

    def test_migrations_run_once_in_order_from_where_the_ledger_stands(self, engine: Engine) -> None:
        ran: list[int] = []
        later = (lambda _: ran.append(1), lambda _: ran.append(2), lambda _: ran.append(3))
        for known in (2, 3, 3):
            with engine.begin() as connection:
                schema.migrate(connection, schema.MIGRATIONS + later[:known])
        assert ran == [1, 2, 3]

    def test_a_ledger_of_the_first_version_ends_at_the_same_tables_as_a_new_one(
        self, engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        if engine.dialect.name == "sqlite":
            old_url = f"sqlite:///{tmp_path / 'old.sqlite'}"
        else:
            server: Postgres = request.getfixturevalue("postgres")
            old_url = server.new_ledger()
        old = create_engine(old_url)
        with old.begin() as connection:
            for statement in (FIRST_VERSION / f"{old.dialect.name}.sql").read_text().split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
        old.dispose()
        opened = open_ledger(old_url, timeout_s=5)
        assert tables(opened) == tables(engine)
        state = SqlLedger(opened).load()
        assert (state.base, state.revision) == (41, SHA)
        assert SqlLedger(opened).nudges() == 7
        assert Accounts(opened).exists("alice")
        assert SqlLeases(opened).read() == SqlLeases(engine).read()
        opened.dispose()

    def test_a_migration_that_fails_leaves_the_ledger_as_it_was(self, engine: Engine) -> None:
        def fail(connection: Connection) -> None:
            connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError), engine.begin() as connection:
            schema.migrate(connection, (*schema.MIGRATIONS, fail))
        assert not inspect(engine).has_table("half")
        with engine.begin() as connection:
            schema.migrate(connection)

    def test_a_ledger_of_a_newer_argus_is_refused(self, engine: Engine, url: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE schema_version SET version = 99"))
        with pytest.raises(SettingsError, match=r"schema version 99 .* up to \d+"):
            open_ledger(url, 5)

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "ledger",
            "mysql://u:hunter2@h/d",
            "nosuch://u:hunter2@h/d",
            "sqlite://",
            "sqlite:///:memory:",
            "://u:hunter2@",
        ],
    )
    def test_an_url_that_cannot_be_used_names_the_key_and_no_password(self, wrong: str) -> None:
        with pytest.raises(SettingsError, match=r"ledger\.url") as caught:
            open_ledger(wrong, 1)
        assert "hunter2" not in str(caught.value)

    def test_a_folder_that_is_not_there_is_said_plainly(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerUnreachable, match="No such file"):
            open_ledger(url_of(tmp_path / "absent"), 1)

    def test_a_file_that_is_no_database_is_set_aside_with_all_that_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 100)
        assert SqlLedger(open_ledger(url_of(tmp_path), 1)).nudges() == 0
        (aside,) = tmp_path.glob("ledger.sqlite.broken-*")
        assert aside.read_bytes() == b"no database at all" * 100

    def test_no_error_carries_a_statement_or_its_values(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE models"))
        with pytest.raises(LedgerUnreachable) as caught:
            ledger.record(base, Advance(SHA, [record("a")]))
        assert "svc-alice-a" not in str(caught.value)
        assert "INSERT" not in str(caught.value)
        assert caught.value.__suppress_context__


class TestReading:
    """What the API sees."""

    @pytest.fixture
    def reader(self, engine: Engine) -> LedgerReader:
        ledger = SqlLedger(engine)
        records = [record("b"), record("a"), record("z", State.DELETED), record("c", user_id="bob")]
        kinds = list(EventType)[:5]
        ledger.record(ledger.load().base, Advance(SHA, records, [happened(kind=kind) for kind in kinds]))
        return LedgerReader(engine)

    def test_a_user_sees_only_their_models_and_none_that_is_deleted(self, reader: LedgerReader) -> None:
        assert list(reader.models("alice")) == ["svc-alice-a", "svc-alice-b"]
        assert reader.models("alice")["svc-alice-a"] == record("a")
        assert list(reader.models("bob")) == ["svc-bob-c"]
        assert reader.models("nobody") == {}

    def test_without_a_user_all_models_are_given_in_pages(self, reader: LedgerReader) -> None:
        assert list(reader.models(None)) == ["svc-alice-a", "svc-alice-b", "svc-bob-c"]
        assert list(reader.models(None, limit=2)) == ["svc-alice-a", "svc-alice-b"]
        assert list(reader.models(None, limit=2, after="svc-alice-b")) == ["svc-bob-c"]

    def test_a_deleted_model_can_still_be_looked_up(self, reader: LedgerReader) -> None:
        assert reader.model("svc-alice-z") == record("z", State.DELETED)
        assert reader.model("svc-alice-nothing") is None

    def test_events_continue_where_the_last_page_ended(self, reader: LedgerReader) -> None:
        first = reader.events("svc-alice-a", limit=3)
        rest = reader.events("svc-alice-a", limit=3, after_id=first[-1][0])
        assert [each.event_type for _, each in first + rest] == list(EventType)[:5]
        assert reader.events("svc-alice-b", limit=3) == []

    def test_the_newest_events_come_oldest_first(self, reader: LedgerReader) -> None:
        assert [each.event_type for _, each in reader.recent_events("svc-alice-a", 2)] == list(EventType)[3:5]

    def test_there_is_no_status_before_the_first_pass(self, reader: LedgerReader, engine: Engine) -> None:
        assert reader.status() is None
        SqlLedger(engine).record(1, Advance(SHA, status=status()))
        assert reader.status() == status()

    def test_where_the_loop_stands_and_since_when_identities_are_carried_over(
        self, reader: LedgerReader, engine: Engine
    ) -> None:
        ledger = SqlLedger(engine)
        revision = ledger.load().revision
        assert (reader.standing(), reader.carried()) == ((revision, None), None)
        carried = Carried("c" * 40, {"users/alice/a.yaml": "svc-alice-20260106-123000-abcd"})
        ledger.record(ledger.load().base, Advance(revision="d" * 40, carried=carried))
        assert (reader.standing(), reader.carried()) == (("d" * 40, "c" * 40), carried)

    def test_rulings_are_told_with_the_revision_that_they_reach_to(self, reader: LedgerReader, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        assert reader.rulings() == Rulings(ledger.load().revision)
        held = frozenset({("c" * 40, "users/alice/a.yaml")})
        ledger.record(ledger.load().base, Advance(revision="d" * 40, rulings=held))
        assert reader.rulings() == Rulings("d" * 40, held)

    @ON_SQLITE
    def test_a_ping_answers_and_says_when_it_cannot(self, reader: LedgerReader, engine: Engine, tmp_path: Path) -> None:
        reader.ping()
        engine.dispose()
        for file in tmp_path.iterdir():
            file.unlink()
        tmp_path.rmdir()
        with pytest.raises(LedgerUnreachable):
            reader.ping()


# Any text that Python's git and JSON readers may produce: control characters, NUL, and the lone surrogates with which
# bytes that are no UTF-8 are carried.
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\ud800\udcff\n'\"")).filter(
    # A high surrogate right before a low one is a character already, spelt in a way that nothing here produces.
    lambda drawn: "\ud800\udcff" not in drawn
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-3, minutes=-30))])
times = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=zones)  # noqa: DTZ001  hypothesis adds zones
shas = st.text("0123456789abcdef", min_size=40, max_size=40)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
counts = st.integers(0, 10_000)
numbers = st.integers() | st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, json_values, max_size=3)
commits = st.builds(Commit, shas, texts, times, st.sampled_from(["api", "git"]), texts)
identities = st.builds(Identity, names, names, names, names, names, times)
workloads = st.builds(Workload, names, names, names, times, texts, texts, counts, counts, objects)
specs = st.builds(
    ServingSpec,
    model_id=names,
    model_source=st.just("/private/hf/demo") | st.just("org/name@main"),
    num_replicas=st.integers(1, 64),
    gpus_per_replica=st.integers(1, 8),
    engine_kwargs=st.sampled_from(
        [
            {},
            {"max_model_len": 4096, "dtype": "float16", "gpu_memory_utilization": 0.9, "enforce_eager": True},
            {"limit_mm_per_prompt": {"image": 2}, "override_generation_config": {"temperature": 0.5}},
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}},
        ]
    ).map(EngineKwargs.model_validate),
)
optional_count = st.none() | counts
rejections = st.builds(
    SpecRejected,
    problem=st.sampled_from(Problem),
    message=texts,
    field=st.none() | texts,
    line=optional_count,
    column=optional_count,
)
phases = st.sampled_from(["scheduling", "loading", "warming_up"])
deployments = st.builds(
    Deployment,
    *(names, st.none() | texts, st.sampled_from(Health), counts, counts, counts, counts, texts, st.none() | phases),
)
records = st.builds(
    Record,
    identity=identities,
    blob=shas,
    commit=commits,
    state=st.sampled_from(State),
    updated_at=times,
    spec=st.none() | specs,
    rejection=st.none() | rejections,
    applied=st.none() | workloads,
    applied_commit=st.none() | commits,
    serving=st.none() | workloads,
    serving_commit=st.none() | commits,
    failure=st.none() | st.builds(Failure, texts, counts, times, texts, st.none() | shas),
    error_summary=st.none() | texts,
    deployment=st.none() | deployments,
    asked_at=st.none() | times,
    since=st.none() | times,
    load_estimate_s=st.none() | counts,
    waiting=st.none() | st.builds(Waiting, counts, counts, st.none() | counts),
)


class TestRows:
    """Values survive being rows."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn=records)
    def test_any_record_comes_back_equal(self, drawn: Record) -> None:
        row = rows.record_row(drawn)
        assert rows.record_of(row["record"]) == drawn
        assert row["record"].isascii()

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            Event,
            st.sampled_from(EventType),
            names,
            names,
            times,
            shas,
            texts,
            st.sampled_from(["api", "git"]),
            objects,
        )
    )
    def test_any_event_comes_back_equal(self, drawn: Event) -> None:
        assert rows.event_of(rows.event_row(drawn)["event"]) == drawn

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            Case,
            commits,
            texts,
            names,
            names,
            st.booleans(),
            st.builds(Stages, times, st.none() | times, st.none() | times, st.none() | times, st.none() | times),
            st.none() | st.sampled_from(Verdict),
            st.none() | texts,
            optional_count,
            optional_count,
            st.none() | shas,
        )
    )
    def test_any_case_comes_back_equal(self, drawn: Case) -> None:
        row = rows.case_row(drawn)
        assert rows.case_of(row["document"]) == drawn
        assert row["document"].isascii()

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            PlatformStatus,
            times,
            st.none() | shas,
            st.none() | texts,
            texts,
            st.floats(0, 1e6),
            st.floats(0, 1e6),
            st.none() | texts,
            st.none() | texts,
        )
    )
    def test_any_status_comes_back_equal(self, drawn: PlatformStatus) -> None:
        assert rows.status_of(rows.status_row(drawn)["status"]) == drawn

    def test_a_database_gives_back_what_a_stranger_wrote(self, engine: Engine) -> None:
        nasty = "nul \x00, not UTF-8 \udcff, a smile 😀, and '; DROP TABLE models; --"
        written = replace(record(), error_summary=nasty, commit=replace(commit(), author=nasty, subject=nasty))
        ledger = SqlLedger(engine)
        said = replace(happened(), author=nasty, payload={nasty: nasty})
        ledger.record(ledger.load().base, Advance(SHA, [written], [said], status=replace(status(), app_message=nasty)))
        reader = LedgerReader(engine)
        assert reader.model("svc-alice-a") == written
        assert reader.events("svc-alice-a", 1)[0][1] == said
        assert reader.status() == replace(status(), app_message=nasty)

    def test_a_field_that_came_later_gets_its_default_and_one_that_is_gone_is_dropped(self) -> None:
        old = rows.record_row(record())["record"].replace('"error_summary":null', '"once_there":1')
        assert rows.record_of(old) == record()

    def test_a_spec_that_newer_rules_refuse_is_still_read(self) -> None:
        old = rows.record_row(record())["record"].replace('"num_replicas":1', '"num_replicas":0')
        spec = rows.record_of(old).spec
        assert spec is not None
        assert spec.num_replicas == 0
        assert spec.engine_kwargs == EngineKwargs()

    def test_times_are_utc(self) -> None:
        tokyo = timezone(timedelta(hours=9))
        back = rows.record_of(rows.record_row(replace(record(), updated_at=NOON.astimezone(tokyo)))["record"])
        assert back.updated_at == NOON
        assert back.updated_at.utcoffset() == timedelta(0)

    def test_a_time_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="timezone"):
            rows.record_row(replace(record(), updated_at=NOON.replace(tzinfo=None)))
