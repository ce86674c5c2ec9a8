"""What every ledger promises of cases and their verdicts, and what the API reads of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from reconciler.core.cases import Stages, Verdict
from reconciler.errors import Moved
from reconciler.ports import Advance
from reconciler.shell.ledger import SqlLedger, VerdictReader
from tests.contracts.databases import ON_SQLITE
from tests.contracts.ledgers import APPLIED, NOON, SHA, World, case, commit, record


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
