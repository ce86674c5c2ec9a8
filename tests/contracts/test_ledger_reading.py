"""What the API sees of a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from reconciler.core.entities import EventType, State
from reconciler.core.identity import Carried
from reconciler.core.ownership import Rulings
from reconciler.errors import LedgerUnreachable
from reconciler.ports import Advance
from reconciler.shell.ledger import LedgerReader, SqlLedger
from tests.contracts.databases import ON_SQLITE
from tests.contracts.ledgers import SHA, happened, record, status


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
