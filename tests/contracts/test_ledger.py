"""What every ledger promises: one suite over memory and databases."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest

from reconciler.core.differences import Difference, Kind
from reconciler.core.entities import EventType, State
from reconciler.core.estimates import Load, LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.upkeep import Fight, Upkeep
from reconciler.errors import LedgerUnreachable, Moved
from reconciler.names import spelt
from reconciler.ports import Advance
from reconciler.testing import MemoryLedger
from tests.contracts.ledgers import NOON, SHA, World, happened, record, status


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
