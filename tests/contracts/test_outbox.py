"""What the outbox promises, in SQLite and in PostgreSQL: nothing announced is lost, doubled or out of order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from reconciler.core.announcements import STATUSES, Announcement, Audience, StatusRules, Subscription
from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.delivery import BoxState, Dead, Delivered, Later, Letter
from reconciler.core.entities import Commit, Event, EventType
from reconciler.errors import Moved, NotLeader
from reconciler.ports import Advance, PlatformStatus
from reconciler.shell.ledger import Entry, Outbox, SqlLeases, SqlLedger, open_ledger
from reconciler.shell.ledger import outbox as outbox_module
from reconciler.shell.ledger.engine import writing

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SHA = "5" * 40
HOOK = "hook:chat"
AUDIENCE = Audience(StatusRules(), (Subscription("chat"),))
APPLIED = Verdict.APPLIED


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def case(verdict: Verdict | None = None, sha: str = SHA, name: str = "qwen") -> Case:
    made = Commit(sha, "Alice", NOW, "git", "Change it")
    path = f"users/alice/{name}.yaml"
    return Case(made, path, f"svc-alice-{name}", "alice", False, Stages(NOW, seen=NOW), verdict)


def happened(kind: EventType = EventType.DEPLOY_FAILED) -> Event:
    return Event(kind, "svc-alice-qwen", "alice", NOW, SHA, "Alice", "git", {"message": "no room"})


def a_pass(*cases: Case, events: Sequence[Event] = (), second: float = 0, **known: Any) -> Advance:
    status = PlatformStatus(later(second), SHA, "RUNNING", "", 4, 4, None)
    return Advance(SHA, cases=cases, events=events, status=status, **known)


class Box:
    """A ledger that announces, and its outbox."""

    def __init__(self, engine: Engine, audience: Audience = AUDIENCE) -> None:
        self.engine = engine
        self.ledger = SqlLedger(engine, audience=audience)
        self.outbox = Outbox(engine)

    def record(self, *cases: Case, events: Sequence[Event] = (), second: float = 0, **known: Any) -> None:
        self.ledger.record(self.ledger.load().base, a_pass(*cases, events=events, second=second, **known))

    def put(self, *announcements: Announcement, second: float = 0) -> None:
        with writing(self.engine) as connection:
            outbox_module.write(connection, announcements, later(second))

    def claim(self, second: float = 0, for_s: float = 20, **room: int) -> list[Letter]:
        wanted = {STATUSES: room.get("statuses", 9), HOOK: room.get("hooks", 9)}
        return self.outbox.claim(wanted, later(second), later(second + for_s))

    def entries(self, state: BoxState | None = None) -> list[Entry]:
        return self.outbox.page(state, 1000)


@pytest.fixture
def box(engine: Engine) -> Box:
    return Box(engine)


def status(number: int, description: str = "on its way") -> Announcement:
    return Announcement(f"st-{number}", STATUSES, {"sha": f"{number:040x}", "description": description})


class TestWhatAPassAnnounces:
    """Written with the pass, or not at all."""

    def test_a_pass_writes_what_it_tells_in_its_own_transaction(self, box: Box) -> None:
        box.record(case(), events=[happened()])
        told = [(each.destination, each.body.get("state"), each.body.get("type")) for each in box.claim()]
        assert told == [(STATUSES, "pending", None), (HOOK, None, "io.argus.deploy_failed")]

    def test_a_pass_that_is_dropped_tells_nothing(self, box: Box) -> None:
        base = box.ledger.load().base
        box.record(case(sha="6" * 40))
        before = box.entries()
        with pytest.raises(Moved):
            box.ledger.record(base, a_pass(case(APPLIED), events=[happened()]))
        assert box.entries() == before

    def test_a_pass_whose_lease_is_lost_tells_nothing(self, engine: Engine) -> None:
        leases = SqlLeases(engine)
        held = leases.take(leases.read(), "a", 10)
        assert held is not None
        ledger, outbox = SqlLedger(engine, lambda: held, AUDIENCE), Outbox(engine, lambda: held)
        ledger.record(0, a_pass(case()))
        assert leases.take(leases.read(), "b", 10)
        with pytest.raises(NotLeader):
            ledger.record(ledger.load().base, a_pass(case(APPLIED)))
        with pytest.raises(NotLeader):
            outbox.claim({STATUSES: 1}, NOW, later(20))
        assert [(each.body["state"], each.attempts) for each in outbox.page(None, 9)] == [("pending", 0)]

    def test_what_git_notes_told_is_never_announced(self, box: Box) -> None:
        box.record(restored=(case(APPLIED), case(Verdict.FAILED, "6" * 40)))
        assert box.entries() == []

    def test_a_commit_is_what_all_its_files_are_whichever_pass_judged_them(self, box: Box) -> None:
        box.record(case(), case(name="llama"))
        box.record(case(Verdict.REJECTED), second=1)
        assert [each.body["state"] for each in box.claim(1, hooks=0)] == ["pending"]
        box.record(case(APPLIED, name="llama"), second=2)
        (letter,) = box.claim(30, hooks=0)
        assert letter.body["state"] == "failure"

    def test_a_pass_in_which_a_case_only_advances_tells_nothing(self, box: Box) -> None:
        box.record(case())
        (letter,) = box.claim()
        box.outbox.settle(letter, Delivered(), NOW)
        box.record(replace(case(), stages=Stages(NOW, seen=NOW, planned=NOW, applied=NOW)), second=1)
        assert box.entries() == []

    def test_without_an_audience_nothing_is_written(self, engine: Engine) -> None:
        box = Box(engine, Audience())
        box.record(case(APPLIED), events=[happened()])
        assert box.entries() == []

    def test_a_commit_of_a_thousand_files_is_no_burden(self, box: Box) -> None:
        box.record(*(case(name=f"m{number}") for number in range(1000)))
        box.record(*(case(APPLIED, name=f"m{number}") for number in range(1000)), second=1)
        assert box.outbox.counts()[BoxState.PENDING] == 1001  # one status, and a notification of each verdict


class TestDelivering:
    """Claimed, sent, settled."""

    def test_what_arrived_is_gone(self, box: Box) -> None:
        box.put(status(1), status(2))
        for letter in box.claim():
            box.outbox.settle(letter, Delivered(), NOW)
        assert box.entries() == []

    def test_what_is_claimed_is_nobody_elses_until_the_claim_runs_out(self, box: Box) -> None:
        box.put(status(1))
        (first,) = box.claim(0, for_s=20)
        assert box.claim(19) == []
        (again,) = box.claim(20)
        assert (again.id, again.attempts) == (first.id, 2)

    def test_the_oldest_go_first_and_no_more_than_there_is_room_for(self, box: Box) -> None:
        box.put(*(status(number) for number in range(5)))
        box.put(Announcement("ev-1-chat", HOOK, {}))
        assert [each.id for each in box.claim(statuses=2, hooks=1)] == ["st-0", "st-1", "ev-1-chat"]
        assert [each.id for each in box.claim(statuses=9)] == ["st-2", "st-3", "st-4"]

    def test_what_is_to_be_tried_later_waits_until_then(self, box: Box) -> None:
        box.put(status(1))
        (letter,) = box.claim()
        box.outbox.settle(letter, Later(later(60), "answer 503"), NOW)
        assert box.claim(59) == []
        (entry,) = box.entries(BoxState.PENDING)
        assert (entry.next_at, entry.attempts, entry.trouble) == (later(60), 1, "answer 503")
        assert len(box.claim(60)) == 1

    def test_a_newer_status_takes_the_place_of_one_that_was_not_sent(self, box: Box) -> None:
        box.put(status(1), status(2))
        box.put(status(1, "done"), second=1)
        assert [each.body["description"] for each in box.claim(1)] == ["on its way", "done"]

    def test_a_newer_status_waits_for_the_older_one_that_is_on_its_way(self, box: Box) -> None:
        box.put(status(1))
        (older,) = box.claim()
        box.put(status(1, "done"), second=1)
        assert box.claim(2) == []
        box.outbox.settle(older, Delivered(), later(3))
        (newer,) = box.claim(3)
        assert (newer.body["description"], newer.attempts) == ("done", 1)

    @pytest.mark.parametrize("fate", [Later(later(900), "answer 503"), Dead("answer 422")])
    def test_what_became_of_an_older_status_is_nothing_to_the_newer_one(self, box: Box, fate: Later | Dead) -> None:
        box.put(status(1))
        (older,) = box.claim()
        box.put(status(1, "done"), second=1)
        box.outbox.settle(older, fate, later(2))
        (newer,) = box.claim(2)
        assert newer.body["description"] == "done"

    def test_whoever_is_too_late_does_not_take_a_letter_from_the_next(self, box: Box) -> None:
        box.put(status(1))
        (slow,) = box.claim(0, for_s=5)
        (fast,) = box.claim(10)
        box.outbox.settle(slow, Later(later(3600), "no answer"), later(11))
        assert box.claim(12) == [], "it is still the faster one's"
        box.outbox.settle(fast, Delivered(), later(12))
        assert box.entries() == []

    def test_nothing_is_written_where_nothing_is_due(self, box: Box) -> None:
        leases_asked = []
        outbox = Outbox(box.engine, lambda: leases_asked.append(1))  # type: ignore[arg-type, return-value]
        assert outbox.claim({STATUSES: 1}, NOW, later(20)) == []
        assert leases_asked == []


class TestTheDead:
    """What was given up is kept for people to look at, and can be sent again."""

    def test_what_is_given_up_is_not_sent_until_somebody_asks(self, box: Box) -> None:
        box.put(status(1))
        (letter,) = box.claim()
        box.outbox.settle(letter, Dead("answer 422: no"), later(1))
        assert box.claim(9999) == []
        (entry,) = box.entries(BoxState.DEAD)
        assert (entry.id, entry.trouble, entry.next_at) == ("st-1", "answer 422: no", later(1))
        assert box.outbox.counts() == {BoxState.PENDING: 0, BoxState.DEAD: 1}
        retried = box.outbox.retry("st-1", later(5000))
        assert retried is not None
        assert (retried.state, retried.attempts) == (BoxState.PENDING, 0)
        (again,) = box.claim(5000)
        assert (again.attempts, again.since) == (1, later(5000))

    def test_nobody_can_send_again_what_is_not_there(self, box: Box) -> None:
        assert box.outbox.retry("st-99", NOW) is None

    def test_a_newer_status_brings_a_dead_one_back_as_itself(self, box: Box) -> None:
        box.put(status(1))
        (letter,) = box.claim()
        box.outbox.settle(letter, Dead("answer 422"), NOW)
        box.put(status(1, "done"), second=1)
        assert [each.body["description"] for each in box.claim(1)] == ["done"]

    def test_pages_go_from_the_newest_to_the_oldest(self, box: Box) -> None:
        box.put(*(status(number) for number in range(5)))
        first = box.outbox.page(None, 2)
        rest = box.outbox.page(None, 9, before=first[-1].number)
        assert [each.id for each in (*first, *rest)] == ["st-4", "st-3", "st-2", "st-1", "st-0"]

    def test_any_text_can_be_a_reason(self, box: Box) -> None:
        box.put(status(1))
        (letter,) = box.claim()
        box.outbox.settle(letter, Dead("\0 \ud800 é" + "x" * 9999), NOW)
        (entry,) = box.entries(BoxState.DEAD)
        assert entry.trouble is not None
        assert len(entry.trouble) == outbox_module.LONGEST_TROUBLE


class TestBounds:
    """The table does not grow for ever."""

    def test_what_is_for_nobody_any_more_is_given_up(self, box: Box) -> None:
        box.put(status(1), Announcement("ev-1-old", "hook:old", {}))
        box.outbox.tidy([STATUSES, HOOK], later(1))
        assert [each.id for each in box.entries(BoxState.DEAD)] == ["ev-1-old"]
        assert [each.id for each in box.entries(BoxState.PENDING)] == ["st-1"]

    def test_the_dead_are_forgotten_after_a_while(self, box: Box) -> None:
        box.put(status(1))
        box.outbox.tidy([], NOW)
        kept = outbox_module.DEAD_KEPT
        box.outbox.tidy([], NOW + kept)
        assert len(box.entries(BoxState.DEAD)) == 1
        box.outbox.tidy([], NOW + kept + timedelta(seconds=1))
        assert box.entries() == []

    def test_too_many_that_wait_and_too_many_dead_lose_their_oldest(self, engine: Engine) -> None:
        box = Box(engine)
        most, dead = outbox_module.MOST_WAITING, outbox_module.MOST_DEAD
        box.put(*(status(number) for number in range(most + 3)))
        box.outbox.tidy([STATUSES], NOW)
        assert box.outbox.counts() == {BoxState.PENDING: most, BoxState.DEAD: 3}
        assert {each.id for each in box.entries(BoxState.DEAD)} == {"st-0", "st-1", "st-2"}
        box.outbox.tidy([], NOW)
        assert box.outbox.counts() == {BoxState.PENDING: 0, BoxState.DEAD: dead}
        assert box.entries(BoxState.DEAD)[0].id == f"st-{most + 2}"


def test_an_outbox_outlives_its_process(url: str) -> None:
    first = open_ledger(url, 5)
    Box(first).record(case(APPLIED), events=[happened()])
    Outbox(first).claim({STATUSES: 9, HOOK: 9}, NOW, later(20))
    first.dispose()
    second = open_ledger(url, 5)
    assert len(Box(second).claim(20)) == 3
    second.dispose()
