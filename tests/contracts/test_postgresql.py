"""What only a database server can do to a ledger: be slow, be away, and come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from reconciler.errors import LedgerUnreachable
from reconciler.ports import Advance
from reconciler.shell.leadership import Leadership
from reconciler.shell.ledger import SqlLeases, SqlLedger, open_ledger
from reconciler.shell.ledger.engine import reading, writing
from tests.contracts.databases import ON_POSTGRESQL
from tests.postgres import Postgres

pytestmark = ON_POSTGRESQL


@pytest.fixture
def impatient(url: str, engine: Engine) -> Iterator[Engine]:
    """The same ledger, for one that waits 0.3 s."""
    opened = open_ledger(url, timeout_s=0.3)
    yield opened
    opened.dispose()


def test_a_writer_waits_for_another_and_then_gives_up(engine: Engine, impatient: Engine) -> None:
    with writing(engine) as busy:
        busy.execute(text("UPDATE nudges SET count = 99"))
        with pytest.raises(LedgerUnreachable, match="timeout"):
            SqlLedger(impatient).nudge()
    SqlLedger(impatient).nudge()
    assert SqlLedger(engine).nudges() == 100


def test_a_statement_that_takes_too_long_is_ended_by_the_server(impatient: Engine) -> None:
    with pytest.raises(LedgerUnreachable, match="statement timeout"), reading(impatient) as connection:
        connection.execute(text("SELECT pg_sleep(60)"))


def test_whoever_forgets_a_transaction_does_not_hold_others_up_for_ever(engine: Engine, impatient: Engine) -> None:
    forgotten = impatient.connect()
    forgotten.execute(text("UPDATE nudges SET count = 99"))
    SqlLedger(engine).nudge()  # waits until the server has ended the other
    forgotten.invalidate()
    assert SqlLedger(engine).nudges() == 1


def test_a_server_that_goes_away_is_unreachable_and_used_again_when_it_is_back(
    postgres: Postgres, engine: Engine
) -> None:
    ledger = SqlLedger(engine)
    base = ledger.record(ledger.load().base, Advance("a" * 40))
    postgres.stop()
    try:
        for call in (ledger.load, ledger.nudge, lambda: ledger.record(base, Advance("b" * 40))):
            with pytest.raises(LedgerUnreachable):
                call()
    finally:
        postgres.start()
    assert ledger.load().revision == "a" * 40
    ledger.record(base, Advance("b" * 40))
    assert SqlLedger(engine).load().revision == "b" * 40


def test_a_leader_whose_ledger_was_away_goes_on_with_its_token(postgres: Postgres, engine: Engine) -> None:
    now = [0.0]
    leadership = Leadership(SqlLeases(engine), "a", 10, lambda: now[0])
    leadership.tend()
    assert leadership.is_leading()
    token = leadership.token
    postgres.stop()
    try:
        now[0] = 8.0
        with pytest.raises(LedgerUnreachable):
            leadership.tend()
        with pytest.raises(LedgerUnreachable):
            leadership.confirm()
        assert not leadership.is_leading()
    finally:
        postgres.start()
    leadership.tend()
    assert leadership.is_leading()
    assert leadership.token == token


def test_a_renewal_does_not_wait_for_a_pass_that_is_being_written(engine: Engine) -> None:
    """The lease is locked at the end of a record only: its own process renews it on another connection meanwhile."""
    leases = SqlLeases(engine)
    lease = leases.take(leases.read(), "a", 10)
    assert lease is not None
    renewed = []
    with writing(engine) as busy:
        busy.execute(text("UPDATE loop SET base = 1"))
        thread = threading.Thread(target=lambda: renewed.append(leases.renew(lease)))
        thread.start()
        thread.join(5)
        assert renewed == [True]
