"""Users and tokens: what is promised to whoever holds a token, and to whoever lost one."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from reconciler.errors import ArgusError
from reconciler.ports import Advance
from reconciler.shell.ledger import Accounts, SqlLedger, TokenInfo, UnknownUser, User, open_ledger
from tests.contracts.databases import ON_SQLITE

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def accounts(engine: Engine) -> Accounts:
    """A new ledger's accounts, with users alice and bob."""
    made = Accounts(engine)
    made.create_user("alice", NOON)
    made.create_user("bob", NOON + DAY)
    return made


class TestUsers:
    """Who there is."""

    def test_a_user_is_created_once(self, accounts: Accounts) -> None:
        assert accounts.create_user("carol", NOON)
        assert not accounts.create_user("carol", NOON + DAY)
        assert accounts.users(9)[-1] == User("carol", NOON)
        assert accounts.exists("carol")

    def test_a_user_whom_nobody_created_does_not_exist(self, accounts: Accounts) -> None:
        assert not accounts.exists("mallory")

    @pytest.mark.parametrize("user_id", ["", "..", "a/b", "A", "a\n", "-a", "a" * 41, "a\x00", "a\udcff", "ä"])
    def test_what_is_no_user_id_is_not_created_and_does_not_exist(self, accounts: Accounts, user_id: str) -> None:
        with pytest.raises(ValueError, match=r"1 to 40"):
            accounts.create_user(user_id, NOON)
        assert not accounts.exists(user_id)
        assert accounts.tokens(user_id, 9) == []

    def test_of_many_who_create_one_user_at_once_one_has_done_it(self, accounts: Accounts) -> None:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: accounts.create_user("dave", NOON), range(8))).count(True) == 1

    def test_users_are_listed_in_pages_by_id(self, accounts: Accounts) -> None:
        accounts.create_user("al", NOON)
        assert [user.user_id for user in accounts.users(2)] == ["al", "alice"]
        assert [user.user_id for user in accounts.users(2, after="alice")] == ["bob"]

    def test_a_user_found_in_the_repository_is_as_good_as_one_created(self, accounts: Accounts, engine: Engine) -> None:
        SqlLedger(engine).record(0, Advance(None, users=frozenset({"alice", "erin"})))
        assert accounts.exists("erin")
        assert not accounts.create_user("erin", NOON)
        assert accounts.users(1) == [User("alice", NOON)]
        assert accounts.authenticate(accounts.issue_token("erin", NOON, DAY).token, NOON) == "erin"


class TestTokens:
    """What opens the door, and for how long."""

    def test_a_token_says_whose_it_is(self, accounts: Accounts) -> None:
        hers, his = accounts.issue_token("alice", NOON, DAY), accounts.issue_token("bob", NOON, DAY)
        assert accounts.authenticate(hers.token, NOON) == "alice"
        assert accounts.authenticate(his.token, NOON) == "bob"

    def test_a_token_looks_like_one(self, accounts: Accounts) -> None:
        issued = accounts.issue_token("alice", NOON, DAY)
        assert re.fullmatch(rf"argus_{issued.token_id}_[A-Za-z0-9_-]{{43}}", issued.token)
        assert issued.expires_at == NOON + DAY

    def test_a_token_ends_when_it_says(self, accounts: Accounts) -> None:
        token = accounts.issue_token("alice", NOON, DAY).token
        assert accounts.authenticate(token, NOON + DAY - timedelta(microseconds=1)) == "alice"
        assert accounts.authenticate(token, NOON + DAY) is None

    def test_a_revoked_token_opens_nothing_and_the_others_still_do(self, accounts: Accounts) -> None:
        lost, kept = accounts.issue_token("alice", NOON, DAY), accounts.issue_token("alice", NOON, DAY)
        assert accounts.revoke_token("alice", lost.token_id, NOON)
        assert accounts.authenticate(lost.token, NOON) is None
        assert accounts.authenticate(kept.token, NOON) == "alice"

    def test_revoking_again_keeps_the_first_time(self, accounts: Accounts) -> None:
        lost = accounts.issue_token("alice", NOON, DAY)
        assert accounts.revoke_token("alice", lost.token_id, NOON)
        assert accounts.revoke_token("alice", lost.token_id, NOON + DAY)
        assert accounts.tokens("alice", 9) == [TokenInfo(lost.token_id, NOON, NOON + DAY, NOON)]

    def test_nobody_revokes_the_token_of_another_user(self, accounts: Accounts) -> None:
        hers = accounts.issue_token("alice", NOON, DAY)
        assert not accounts.revoke_token("bob", hers.token_id, NOON)
        assert not accounts.revoke_token("alice", "0" * 18, NOON)
        assert accounts.authenticate(hers.token, NOON) == "alice"

    def test_tokens_are_issued_to_users_only(self, accounts: Accounts) -> None:
        with pytest.raises(UnknownUser, match="mallory") as caught:
            accounts.issue_token("mallory", NOON, DAY)
        assert isinstance(caught.value, ArgusError)

    def test_a_users_tokens_are_listed_oldest_first_in_pages(self, accounts: Accounts) -> None:
        issued = [accounts.issue_token("alice", NOON + number * DAY, DAY).token_id for number in range(3)]
        accounts.issue_token("bob", NOON, DAY)
        first = accounts.tokens("alice", 2)
        assert [token.token_id for token in first] == issued[:2]
        assert [token.token_id for token in accounts.tokens("alice", 2, after=first[-1].token_id)] == issued[2:]

    def test_a_time_without_a_zone_is_refused(self, accounts: Accounts) -> None:
        with pytest.raises(ValueError, match="timezone"):
            accounts.issue_token("alice", NOON.replace(tzinfo=None), DAY)


class TestForgery:
    """What opens nothing."""

    def test_a_token_with_any_other_ending_is_refused(self, accounts: Accounts) -> None:
        token = accounts.issue_token("alice", NOON, DAY).token
        other = "A" if token[-10] != "A" else "B"
        assert accounts.authenticate(token[:-10] + other + token[-9:], NOON) is None

    def test_the_secret_of_one_token_does_not_fit_the_id_of_another(self, accounts: Accounts) -> None:
        hers, his = accounts.issue_token("alice", NOON, DAY), accounts.issue_token("bob", NOON, DAY)
        assert accounts.authenticate(f"argus_{his.token_id}_{hers.token[-43:]}", NOON) is None

    @settings(max_examples=100, deadline=None)
    @given(token=st.text() | st.from_regex(r"argus_[0-9a-f]{18}_[A-Za-z0-9_-]{42,44}"))
    def test_nothing_that_was_not_issued_opens_anything(self, token: str) -> None:
        assert Accounts(_SHARED).authenticate(token, NOON) is None

    @pytest.mark.parametrize("wrap", ["{} ", " {}", "{}\n", "Bearer {}", "{}\x00", "{}A", "argus_{}"])
    def test_a_token_with_anything_around_it_is_refused(self, accounts: Accounts, wrap: str) -> None:
        assert accounts.authenticate(wrap.format(accounts.issue_token("alice", NOON, DAY).token), NOON) is None

    def test_what_cannot_be_a_token_costs_no_query_however_long(self, accounts: Accounts, engine: Engine) -> None:
        seen = _statements(engine)
        for token in ("", "argus_", "argus_" + "a" * 10_000_000, "ä" * 66, "\udcff" * 66):
            assert accounts.authenticate(token, NOON) is None
        assert seen == []


class TestSecrecy:
    """Where a token must not turn up."""

    @ON_SQLITE
    def test_only_a_digest_is_stored(self, accounts: Accounts, engine: Engine, tmp_path: Path) -> None:
        token = accounts.issue_token("alice", NOON, DAY).token
        with engine.connect() as connection:
            assert (
                connection.execute(text("SELECT digest FROM tokens")).scalar()
                == hashlib.sha256(token.encode()).digest()
            )
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert token[-43:].encode() not in stored

    def test_a_token_is_in_no_repr_and_no_log(self, accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            issued = accounts.issue_token("alice", NOON, DAY)
            accounts.authenticate(issued.token, NOON)
        secret = issued.token[-43:]
        assert secret not in repr(issued) + str(issued)
        assert secret not in repr(accounts.tokens("alice", 9))
        assert secret not in caplog.text

    @ON_SQLITE
    def test_authenticating_is_one_query_by_an_index_and_writes_nothing(
        self, accounts: Accounts, engine: Engine
    ) -> None:
        token = accounts.issue_token("alice", NOON, DAY).token
        seen = _statements(engine)
        assert accounts.authenticate(token, NOON) == "alice"
        asked = [each for each in seen if not each.startswith("BEGIN")]
        assert len(asked) == 1
        with engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}", ("x",)).all()
        assert "USING INDEX" in str(plan)


def _statements(engine: Engine) -> list[str]:
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    return seen


@pytest.fixture(scope="module", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One ledger with a token in it for all examples of a property."""
    global _SHARED  # noqa: PLW0603  hypothesis and function-scoped fixtures do not mix
    _SHARED = open_ledger(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'ledger.sqlite'}", 5)
    accounts = Accounts(_SHARED)
    accounts.create_user("alice", NOON)
    accounts.issue_token("alice", NOON, DAY)
    yield
    _SHARED.dispose()


_SHARED: Engine
