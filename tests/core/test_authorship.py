"""Who wrote a change that is not on the branch yet, and what a policy would hold back of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.core.authorship import authorship, deciding
from reconciler.core.entities import Commit, Entry
from reconciler.core.history import ACCEPT, ALLOW_REMOVAL, PathChange, RawCommit
from reconciler.core.ownership import ADMINS, Policy, Standing, left_held, ruled
from reconciler.names import RULES_FILE

MINE, BOBS, README = "users/alice/x.yaml", "users/bob/x.yaml", "README.md"
SOME = Entry("100644", "0" * 40)
STANDINGS = {
    "alice": Standing("alice", frozenset({"alice"})),
    "bob": Standing("bob", frozenset({"bob"})),
    "root": Standing("root", frozenset({ADMINS})),
}


def raw(number: int, who: str, *paths: str, accepts: str = "") -> RawCommit:
    commit = Commit(f"{who}-{number}", who, datetime(2026, 1, 1, tzinfo=UTC), "git", email=f"{who}@example.org")
    changes = tuple(PathChange(path, SOME, SOME) for path in paths)
    return RawCommit(commit, None, changes, {ACCEPT: accepts} if accepts else {})


def standings(commits: list[RawCommit]) -> dict[str, Standing]:
    return {each.commit.sha: STANDINGS[each.commit.author] for each in commits}


PATHS = (MINE, BOBS, RULES_FILE, README)
BRANCHES = st.lists(
    st.tuples(st.sampled_from(sorted(STANDINGS)), st.sets(st.sampled_from(PATHS)), st.sampled_from(("", "", *PATHS))),
    max_size=12,
)


@given(BRANCHES, st.sets(st.sampled_from(PATHS)))
def test_what_decides_of_a_branch_holds_what_all_of_it_holds(
    branch: list[tuple[str, set[str], str]], asked: set[str]
) -> None:
    commits = [raw(number, who, *sorted(paths), accepts=also) for number, (who, paths, also) in enumerate(branch)]
    whole = left_held(ruled(commits, standings(commits)))
    event(f"held: {len(whole)}")
    few = deciding(commits)
    assert left_held(ruled(few, standings(few))) == whole
    some = deciding(commits, asked)
    assert left_held(ruled(some, standings(some))) == {path: why for path, why in whole.items() if path in asked}
    assert sum(len(each.changes) for each in few) <= len(PATHS)


def test_each_path_is_its_last_writers_and_only_what_answers_for_it_is_kept() -> None:
    commits = [
        raw(1, "alice", MINE, README),
        raw(2, "bob", MINE, accepts=BOBS),
        raw(3, "root", README, accepts=MINE),
    ]
    kept = deciding(commits)
    assert [(each.commit.sha, each.trailers) for each in kept] == [("bob-2", {}), ("root-3", {ACCEPT: MINE})]
    found = authorship("author_map", kept, standings(kept))
    assert {path: commit.sha for path, commit in found.writers.items()} == {MINE: "bob-2"}
    assert found.held == {}
    found = authorship("author_map", kept[:1], standings(kept))
    assert found.held[MINE].startswith("bob, changed users/alice/x.yaml, which belongs to alice")
    assert found.held[MINE].endswith("(a merge would be its maker's instead)")


def test_what_only_a_signature_could_tell_is_not_known_until_somebody_else_answers_for_it() -> None:
    commits = [raw(1, "alice", MINE, RULES_FILE), raw(2, "bob", BOBS)]
    found = authorship("signed", commits, {}, {each.commit.sha for each in commits})
    assert found.held == {}
    assert found.unproven == {MINE, BOBS, RULES_FILE}
    assert "whether argus.yaml and 2 more would be held is not known here" in found.notes()[0]
    more = [*commits, raw(3, "root", RULES_FILE, accepts=MINE), raw(4, "alice", accepts=BOBS)]
    found = authorship("author_map", more, standings(more), {"alice-1", "bob-2"})
    assert found.held == {}
    assert found.unproven == {BOBS}
    assert found.notes() == [
        "the policy author_map asks for signatures, which are not sent with a plan: whether users/bob/x.yaml would be "
        "held is not known here"
    ]


@pytest.mark.parametrize(("who", "counts"), [("alice", False), ("root", True)])
def test_rules_that_would_not_count_are_left_out_and_told(who: str, counts: bool) -> None:
    commits = [raw(1, who, RULES_FILE, MINE)]
    found = authorship("author_map", commits, standings(commits))
    changes = [PathChange(path, SOME, SOME) for path in (RULES_FILE, MINE)]
    assert [change.path for change in found.counting(changes)] == ([RULES_FILE] if counts else []) + [MINE]
    assert [note[:25] for note in found.notes()] == ([] if counts else ["argus.yaml would be held:"])


@pytest.mark.parametrize("policy", ["trust_branch", "author_map"])
def test_only_a_policy_holds_anything(policy: Policy) -> None:
    commits = [raw(1, "bob", MINE)]
    found = authorship(policy, commits, standings(commits))
    assert bool(found.held) is (policy != "trust_branch")
    assert found.writers.keys() == {MINE}


def test_a_word_on_removals_is_none_on_whose_files_these_are() -> None:
    said = RawCommit(raw(1, "bob").commit, None, (), {ALLOW_REMOVAL: "3"})
    assert deciding([said]) == []
