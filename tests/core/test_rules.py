"""`argus.yaml`, read: what it says, or the place of what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import holds
from reconciler.core.desired import Withheld
from reconciler.core.entities import Commit, Declared, HoldKind
from reconciler.core.gates import Pending
from reconciler.core.history import OVERRIDE_FREEZE
from reconciler.core.holds import NO_RULES, HoldRules
from reconciler.rules import RulesRefused, parse
from tests.core.values import commit, identity

FRIDAY = datetime(2026, 11, 27, 19, 0, tzinfo=UTC)
WHOLE = """\
# what holds changes back for now
suspend:
  users: {bob: "on leave", carol: }
  models:
    alice/qwen: benchmark
    users/alice/mistral.yaml:
freeze:
  - cron: "0 18 * * fri"
    duration: 60h
    timezone: Europe/Berlin
    reason: weekend
    users: [alice, dan]
"""


def rules(text: str) -> HoldRules:
    found = parse(text.encode())
    assert isinstance(found, HoldRules), found
    return found


def refused(text: str) -> RulesRefused:
    found = parse(text.encode())
    assert isinstance(found, RulesRefused), found
    return found


def pending(user: str, suffix: str = "qwen") -> dict[str, Pending]:
    who = identity(user, suffix)
    return {who.model_key: Pending(who, commit("c2"), None)}


def suspended(said: HoldRules, user: str, suffix: str = "qwen") -> str | None:
    found = holds.suspended(said, pending(user, suffix))
    return next((why.message for why in found.values()), None)


def frozen(said: HoldRules, user: str, now: datetime, *declared: Declared) -> list[Withheld]:
    held, _ = holds.frozen(said, pending(user), now, lambda _sha: declared)
    return list(held.values())


@pytest.mark.parametrize(
    "text", ["", "# nothing\n\n  # at all\n", "suspend:\n", "freeze: []\n", "suspend: {users: {}}\n"]
)
def test_a_file_that_says_nothing_holds_nothing(text: str) -> None:
    assert rules(text) == NO_RULES


def test_the_nearest_reason_counts() -> None:
    said = rules(WHOLE)
    assert suspended(said, "alice") == "this model is suspended: benchmark"
    assert suspended(said, "alice", "mistral") == "this model is suspended"
    assert suspended(said, "alice", "other") is None
    assert suspended(said, "bob") == "the models of bob are suspended: on leave"
    assert suspended(said, "carol") == "the models of carol are suspended"
    everything = rules("suspend: {all: moving, users: [bob]}\n")
    assert suspended(everything, "bob") == "the models of bob are suspended"
    assert suspended(everything, "dan") == "all models are suspended: moving"
    assert suspended(rules("suspend: {all: true}\n"), "dan") == "all models are suspended"
    assert suspended(rules("suspend: {all: false}\n"), "dan") is None


def test_a_model_goes_by_its_key_too() -> None:
    key = identity("alice").model_key
    assert suspended(rules(f"suspend: {{models: [{key}]}}\n"), "alice") == "this model is suspended"


def test_a_freeze_is_for_its_users_and_for_its_time() -> None:
    said = rules(WHOLE)
    assert frozen(said, "alice", FRIDAY) == [Withheld(HoldKind.FROZEN, "frozen until 2026-11-30T05:00:00Z: weekend")]
    assert frozen(said, "bob", FRIDAY) == []
    assert frozen(said, "alice", FRIDAY - timedelta(hours=3)) == []
    assert frozen(said, "alice", datetime(2026, 11, 30, 5, tzinfo=UTC)) == []


def test_windows_that_follow_one_another_are_one_freeze() -> None:
    said = rules('freeze:\n- {cron: "0 8 * * *", duration: 2h}\n- {cron: "0 10 * * *", duration: 3h, reason: later}\n')
    found = holds.freeze(said, "alice", datetime(2026, 11, 27, 9, tzinfo=UTC))
    assert found == (datetime(2026, 11, 27, 13, tzinfo=UTC), None)


def test_an_override_lets_pass_and_is_named() -> None:
    by = Declared(Commit("o1", "admin", FRIDAY, "api"), {OVERRIDE_FREEZE: "outage"})
    held, let = holds.frozen(rules(WHOLE), pending("alice"), FRIDAY, lambda _sha: (by,))
    assert (held, list(let.values())) == ({}, [by])
    other = Declared(commit("o2"), {"Argus-Allow-Removal": "3"})
    assert frozen(rules(WHOLE), "alice", FRIDAY, other) != []


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [x\nb\n", (3, 1), "not valid YAML"),
        ("suspend: {}\nsuspnd: {}\n", (2, 1), "suspnd: unknown; right would be one of freeze, suspend"),
        ("suspend:\n  users: {Bob: x}\n", (2, 11), "no user id"),
        ("suspend:\n  models:\n    alice: x\n", (3, 5), "<user_id>/<suffix>"),
        ("suspend: {all: 3}\n", (1, 11), "true, false or a reason"),
        ('suspend: {users: {bob: "a\\nb"}}\n', (1, 19), "a reason, or null"),
        ("freeze:\n  - {cron: '0 18 * * fri'}\n", (2, 5), "duration is needed"),
        ("freeze:\n  - {cron: '0 18 * fri', duration: 1h}\n", (2, 6), "five fields"),
        ("freeze:\n  - {cron: '0 25 * * *', duration: 1h}\n", (2, 6), "hour"),
        ("freeze:\n- cron: '0 1 * * *'\n  duration: 32d\n", (3, 3), "31d at most"),
        ("freeze:\n- cron: '0 1 * * *'\n  duration: soon\n", (3, 3), "60h"),
        ("freeze:\n- {cron: '0 1 * * *', duration: 1h, timezone: Berlin}\n", (2, 37), "time zone"),
        ("freeze:\n- {cron: '0 1 * * *', duration: 1h, timezone: ../../etc/passwd}\n", (2, 37), "time zone"),
        ("freeze:\n- {cron: '0 1 * * *', duration: 1h, users: alice}\n", (2, 37), "list of user ids"),
        ("freeze: {cron: x}\n", (1, 1), "a list of windows"),
        ("suspend: [alice]\n", (1, 1), "not a list"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: tuple[int, int], words: str) -> None:
    found = refused(text)
    assert (found.line, found.column) == place, found
    assert words in found.message


def test_a_file_that_is_too_long_is_refused() -> None:
    assert isinstance(parse(b"# " + b"x" * 70_000), RulesRefused)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="suspend:frz{}[]-\n ,'0*", max_size=80).map(str.encode))
def test_any_bytes_give_rules_or_one_reason(data: bytes) -> None:
    assert isinstance(parse(data), HoldRules | RulesRefused)
