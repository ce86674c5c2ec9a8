"""The mass-delete brake, as arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import gates, progress
from reconciler.core.brake import Brake, braked
from reconciler.core.desired import Withheld
from reconciler.core.entities import Commit, Declared, HoldKind, Record, State, Tree
from reconciler.core.gates import Pending
from reconciler.core.history import ALLOW_REMOVAL
from reconciler.core.plan import Remove, plan
from tests.core.values import DELAYS, NOW, PLATFORM, commit, identity, record, running, seen, spec, wanted

TREE = Tree("tip", {}, frozenset(), tip=commit("tip"))
RULE = Brake()


def saying(text: str, speaks_for: frozenset[str] | None = None) -> Declared:
    return Declared(commit("allow"), {ALLOW_REMOVAL: text}, speaks_for)


def models(count: int) -> dict[str, Record]:
    made = [running(spec(f"m{number}"), identity(suffix=f"{number}x")) for number in range(count)]
    return {each.identity.model_key: each for each in made}


def removals(records: dict[str, Record], count: int) -> dict[str, Pending]:
    kept = {key: wanted(spec(), who=each.identity) for key, each in list(records.items())[count:]}
    found = gates.pending(kept, records, {}, TREE, {})
    return {key: change for key, change in found.items() if change.removes}


@pytest.mark.parametrize(
    ("removed", "running_now", "is_braked"),
    [(2, 2, False), (3, 3, True), (3, 9, True), (3, 10, False), (4, 10, True), (30, 100, False), (31, 100, True)],
)
def test_more_than_the_share_and_at_least_three_is_too_much(removed: int, running_now: int, is_braked: bool) -> None:
    records = models(running_now)
    assert bool(braked(RULE, removals(records, removed), records, [])) is is_braked


@pytest.mark.parametrize("text", ["", "all", "-6", "5", "6.0", "0x6", "٦", "1234567"])
def test_a_trailer_that_is_no_such_number_allows_nothing(text: str) -> None:
    records = models(6)
    assert len(braked(RULE, removals(records, 6), records, [saying(text)])) == 6


def test_a_trailer_with_the_number_or_more_allows_it() -> None:
    records = models(6)
    for text in ("6", "7", "006"):
        assert braked(RULE, removals(records, 6), records, [saying("1"), saying(text)]) == {}


def test_a_trailer_counts_only_from_whoever_may_write_every_file_that_would_go() -> None:
    mine = models(4)
    bobs = running(spec("b"), identity("bob"))
    both = {**mine, bobs.identity.model_key: bobs}
    owner = mine[next(iter(mine))].identity.user_id
    for records, users, passes in (
        (mine, {owner}, True),
        (mine, {owner, "bob"}, True),
        (mine, {"bob"}, False),
        (mine, set(), False),
        (both, {owner}, False),
        (both, {owner, "bob"}, True),
        (both, None, True),
    ):
        said = saying("5", None if users is None else frozenset(users))
        held = braked(RULE, removals(records, len(records)), records, [said])
        assert (held == {}) is passes, users
        # Whoever may not takes nothing from what somebody who may has said.
        assert braked(RULE, removals(records, len(records)), records, [saying("5"), said]) == {}


def test_a_hold_says_who_could_let_it_pass_where_that_matters() -> None:
    mine = models(4)
    owner = mine[next(iter(mine))].identity.user_id
    bobs = running(spec("b"), identity("bob"))
    both = {**mine, bobs.identity.model_key: bobs}
    asking = Brake(asks_who=True)
    said = {
        name: next(iter(braked(rule, removals(records, 5), records, declared).values())).message
        for name, rule, records, declared in (
            ("trusted", RULE, mine, []),
            ("owner", asking, mine, []),
            ("many", asking, both, []),
            ("refused", asking, mine, [saying("4", frozenset({"bob"})), saying("2", frozenset())]),
        )
    }
    assert "a commit with the trailer Argus-Allow-Removal: 4 lets" in said["trusted"]
    assert f"a commit by {owner} or an admin with the trailer" in said["owner"]
    assert "a commit by an admin, or by somebody who may write all of them, with the trailer" in said["many"]
    assert "bob" not in said["many"]
    assert "(commit allow by " in said["refused"]
    assert "allows it, who may not write all of these files)" in said["refused"]


def test_what_is_going_already_and_what_never_ran_do_not_count() -> None:
    records = models(6)
    gone = {key: record(spec(), each.identity, state=State.DELETING) for key, each in list(records.items())[:3]}
    idle = {key: record(spec(), each.identity, state=State.FAILED) for key, each in list(records.items())[3:]}
    known = {**gone, **idle}
    assert braked(RULE, removals(known, 6), known, []) == {}


@settings(deadline=None)
@given(data=st.data())
def test_no_pass_ever_removes_more_than_the_brake_allows_without_allowance(data: st.DataObject) -> None:
    records = models(data.draw(st.integers(1, 12)))
    keys = sorted(records)
    for step in range(data.draw(st.integers(1, 4))):
        here = data.draw(st.sets(st.sampled_from(keys)))
        frozen = data.draw(st.sets(st.sampled_from(keys)))
        allowed = data.draw(st.integers(0, 12))
        want = {key: wanted(spec(f"m{step}"), who=records[key].identity) for key in here if key in records}
        before = {key: each for key, each in records.items() if each.state is State.RUNNING}

        def freeze(changes: Mapping[str, Pending], frozen: set[str] = frozen) -> dict[str, Withheld]:
            return {key: Withheld(HoldKind.FROZEN, "frozen") for key in frozen & changes.keys()}

        def brake(
            changes: Mapping[str, Pending], known: dict[str, Record] = records, allowed: int = allowed
        ) -> dict[str, Withheld]:
            going = {key: change for key, change in changes.items() if change.removes}
            return braked(RULE, going, known, [saying(str(allowed))])

        removed: dict[str, Commit] = {}
        changes = gates.pending(want, records, removed, TREE, {})
        after, _ = gates.gated(want, changes, [freeze, brake])
        known = progress.committed(records, after, removed, NOW)
        decided = plan(wanted=after, folders={}, records=known, cluster=seen().cluster, now=NOW, platform=PLATFORM)
        stopped = sum(isinstance(decided.actions[key], Remove) for key in before if key in decided.actions)
        assert stopped <= max(allowed, 2, int(RULE.share * len(before)))
        records = dict(progress.decided(known, decided, NOW, DELAYS).records)
