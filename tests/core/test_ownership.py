"""Whose commits count: tables for standings, properties over generated histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.core import ownership
from reconciler.core.entities import ChangeKind, Commit, Declared, Entry, HoldKind, Record, State, WrittenBy
from reconciler.core.history import ACCEPT, ALLOW_REMOVAL, OVERRIDE_FREEZE, History, PathChange, RawCommit
from reconciler.core.ownership import (
    ADMINS,
    FORGE,
    PLATFORM,
    UNSIGNED,
    Policy,
    Rights,
    Rulings,
    Signature,
    Standing,
    recalled,
    ruled,
    standing,
)
from reconciler.names import RULES_FILE, user_of_path

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORS = {"ann@example.org": frozenset({"alice"}), "root@example.org": frozenset({ADMINS})}
KEYS = {
    "alice-key": frozenset({"alice"}),
    "admin-key": frozenset({ADMINS}),
    "forge-key": frozenset({FORGE}),
    "api-key": frozenset({PLATFORM}),
}
PATH = "users/alice/qwen.yaml"


def commit(email: str = "ann@example.org", source: WrittenBy = "git", sha: str = "c1") -> Commit:
    return Commit(sha, email.partition("@")[0], EPOCH, source, email=email)


def good(key: str) -> Signature:
    return Signature("G", key)


@pytest.mark.parametrize(
    ("policy", "by", "signature", "users"),
    [
        ("author_map", commit(), UNSIGNED, {"alice"}),
        ("author_map", commit("ANN@Example.ORG"), UNSIGNED, {"alice"}),
        ("author_map", commit("root@example.org"), UNSIGNED, {ADMINS}),
        ("author_map", commit("eve@example.org"), UNSIGNED, set()),
        ("author_map", commit("eve@example.org"), good("alice-key"), set()),
        ("signed", commit(), UNSIGNED, set()),
        ("signed", commit("eve@example.org"), good("alice-key"), {"alice"}),
        ("signed", commit(), good("admin-key"), {ADMINS}),
        ("signed", commit(), Signature("U", "alice-key"), set()),
        ("signed", commit(), Signature("B", "alice-key"), set()),
        ("signed", commit(), Signature("X", "alice-key"), set()),
        ("signed", commit(), Signature("Y", "alice-key"), set()),
        ("signed", commit(), Signature("R", "alice-key"), set()),
        ("signed", commit(), Signature("E", "alice-key"), set()),
        ("signed", commit(), good("strangers-key"), set()),
        # A code host's signature says that the author is who he says; alone it lets nobody write.
        ("signed", commit(), good("forge-key"), {"alice"}),
        ("signed", commit("eve@example.org"), good("forge-key"), set()),
        # The API's commits are known by its signature, and never by the committer's line.
        ("signed", commit("alice@users.argus", "api"), good("api-key"), {"alice"}),
        ("author_map", commit("alice@users.argus", "api"), good("api-key"), {"alice"}),
        ("signed", commit("admin@users.argus", "api"), good("api-key"), {ADMINS}),
        ("signed", commit("argus@localhost", "api"), good("api-key"), {ADMINS}),
        ("signed", commit("argus@localhost", "api"), UNSIGNED, set()),
        ("author_map", commit("root@example.org", "api"), UNSIGNED, set()),
        ("signed", commit("admin@users.argus", "api"), good("alice-key"), set()),
        ("signed", commit("alice@users.argus"), good("api-key"), set()),
    ],
)
def test_who_answers_for_a_commit(policy: Policy, by: Commit, signature: Signature, users: set[str]) -> None:
    assert standing(by, Rights(policy, AUTHORS, KEYS), signature).users == users


def test_what_may_be_written() -> None:
    alice, admin = Standing("a", frozenset({"alice"})), Standing("r", frozenset({ADMINS}))
    by_api = standing(commit("alice@users.argus", "api"), Rights("signed", {}, KEYS), good("api-key"))
    assert by_api.may_write(RULES_FILE)
    assert not by_api.may_write("users/bob/qwen.yaml")
    assert alice.may_write(PATH)
    assert alice.may_write("users/alice/.gitkeep")
    assert alice.may_write("README.md")
    assert not alice.may_write("users/bob/qwen.yaml")
    assert not alice.may_write("users/alice2/qwen.yaml")
    assert not alice.may_write(RULES_FILE)
    assert admin.may_write(RULES_FILE)
    assert admin.may_write("users/bob/qwen.yaml")


def test_a_hold_says_who_wrote_which_path_and_what_would_be_right() -> None:
    raw = RawCommit(commit("eve@example.org"), None, (PathChange(PATH, None, Entry("100644", "b1")),))
    [found] = ruled([raw], {"c1": standing(raw.commit, Rights("signed", {}, KEYS), UNSIGNED)})
    why = found.held[PATH]
    for part in ("eve <eve@example.org>", "not signed", PATH, "belongs to alice", "right would be", "git commit -S"):
        assert part in why


@pytest.mark.parametrize("users", [frozenset(), frozenset({"alice"}), frozenset({"alice", "bob"})])
def test_only_an_admin_overrides_a_freeze_and_allows_the_removal_of_what_is_not_theirs(users: frozenset[str]) -> None:
    trailers = {OVERRIDE_FREEZE: "yes", ALLOW_REMOVAL: "3"}
    raw = RawCommit(commit(), None, (PathChange("users/carol/x.yaml", None, Entry("100644", "b1")),), trailers)
    [found] = ruled([raw], {"c1": Standing("a", users)})
    assert found.trailers == {ALLOW_REMOVAL: "3"}
    assert found.speaks_for == users
    history = History()
    history.extend([found])
    [said] = history.declared(["c1"])
    assert said == Declared(raw.commit, {ALLOW_REMOVAL: "3"}, users)
    [again] = recalled([raw], Rulings("c1", history.rulings))
    assert replace(again, held=found.held) == found
    assert again.held.keys() == found.held.keys()
    [found] = ruled([raw], {"c1": Standing("r", frozenset({ADMINS}))})
    assert (found.trailers, found.speaks_for, found.held) == (trailers, None, {})


def test_a_removal_that_was_allowed_before_anybody_ruled_upon_it_stays_allowed() -> None:
    raw = RawCommit(commit(), None, (), {ALLOW_REMOVAL: "3"})
    assert recalled([raw], Rulings("c1")) == [raw]


def test_the_api_speaks_for_everybody_where_an_admin_asked_it() -> None:
    raw = RawCommit(commit("admin@users.argus", "api"), None, (), {ALLOW_REMOVAL: "3"})
    rights = Rights("signed", AUTHORS, KEYS)
    for signature, users in ((good("api-key"), None), (UNSIGNED, frozenset())):
        [found] = ruled([raw], {"c1": standing(raw.commit, rights, signature)})
        assert found.speaks_for == users


class Branch:
    """A branch that is made commit by commit, each change against what git has."""

    def __init__(self) -> None:
        self.commits: list[RawCommit] = []
        self.standings: dict[str, Standing] = {}
        self.files: dict[str, Entry] = {}

    def commit(self, users: Sequence[str], files: Mapping[str, str | None], accept: str = "") -> None:
        changes = []
        for path, blob in files.items():
            before, after = self.files.get(path), Entry("100644", blob) if blob else None
            if before != after:
                changes.append(PathChange(path, before, after))
            if after:
                self.files[path] = after
            else:
                self.files.pop(path, None)
        number = len(self.commits)
        made = Commit(f"{number:040x}", "x", EPOCH + timedelta(seconds=number), "git")
        parent = self.commits[-1].commit.sha if self.commits else None
        self.commits.append(RawCommit(made, parent, tuple(changes), {ACCEPT: accept} if accept else {}))
        self.standings[made.sha] = Standing("x", frozenset(users))

    def history(self, upto: int | None = None) -> History:
        found = History()
        found.extend(ruled(self.commits[:upto], self.standings))
        return found


def blobs(history: History) -> dict[str, str]:
    return {file.identity.path: file.blob for file in history.tree.files.values()}


def test_a_stranger_changes_adds_and_removes_nothing() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1", "users/alice/b.yaml": "b1"})
    branch.commit(["bob"], {PATH: "evil", "users/alice/b.yaml": None, "users/alice/new.yaml": "evil"})
    history = branch.history()
    assert blobs(history) == {PATH: "a1", "users/alice/b.yaml": "b1"}
    held = [change for change in history.changes if change.held is not None]
    assert [(change.identity.path, change.kind) for change in held] == [
        ("users/alice/b.yaml", ChangeKind.DELETED),
        ("users/alice/new.yaml", ChangeKind.CREATED),
        (PATH, ChangeKind.MODIFIED),
    ]
    assert history.standing == tuple(held)


def test_a_rename_between_users_counts_on_the_writers_side_only() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1"})
    branch.commit(["alice"], {PATH: None, "users/bob/qwen.yaml": "a1"})
    assert blobs(branch.history()) == {}
    branch.commit(["bob"], {"users/bob/qwen.yaml": "a2"})
    assert blobs(branch.history()) == {"users/bob/qwen.yaml": "a2"}


def test_the_owner_who_writes_on_top_takes_it_all() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1"})
    key = branch.history().tree.files.keys()
    branch.commit(["bob"], {PATH: "evil"})
    branch.commit(["alice"], {"users/alice/other.yaml": "o1"})
    assert blobs(branch.history())[PATH] == "a1"
    branch.commit(["alice"], {PATH: "evil, improved"})
    history = branch.history()
    assert blobs(history)[PATH] == "evil, improved"
    assert history.standing == ()
    assert key <= history.tree.files.keys()


def test_what_is_held_counts_once_its_owner_accepts_it_as_it_stands() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1", "users/alice/b.yaml": "b1"})
    branch.commit(["bob"], {PATH: None, "users/alice/b.yaml": "b2"})
    branch.commit(["bob"], {}, accept=f"{PATH} users/alice/b.yaml")
    assert blobs(branch.history()) == {PATH: "a1", "users/alice/b.yaml": "b1"}
    branch.commit(["alice"], {}, accept=f"{PATH} users/alice/b.yaml")
    assert blobs(branch.history()) == {"users/alice/b.yaml": "b2"}


def test_a_file_that_a_stranger_brought_keeps_its_name_when_its_owner_takes_it() -> None:
    branch = Branch()
    branch.commit(["bob"], {PATH: "a1"})
    [held] = branch.history().changes
    branch.commit(["alice"], {PATH: "a2"})
    [file] = branch.history().tree.files.values()
    assert file.identity == held.identity
    assert file.commit.sha == branch.commits[1].commit.sha


def test_who_takes_a_strangers_file_away_is_told_so() -> None:
    branch = Branch()
    branch.commit(["bob"], {PATH: "a1"})
    branch.commit(["alice"], {PATH: None})
    history = branch.history()
    assert [(change.kind, change.held is None) for change in history.changes] == [
        (ChangeKind.CREATED, False),
        (ChangeKind.DELETED, True),
    ]
    assert (history.standing, history.tree.users) == ((), frozenset())


def test_a_stranger_makes_nobody_a_user_and_unmakes_none() -> None:
    branch = Branch()
    branch.commit([ADMINS], {"users/alice/.gitkeep": "k", "users/alice/more": "k"})
    branch.commit(["bob"], {"users/alice/.gitkeep": None, "users/alice/more": None, "users/carol/.gitkeep": "k"})
    assert branch.history().tree.users == {"alice"}
    branch.commit(["alice"], {"users/alice/.gitkeep": "k"})
    branch.commit(["alice"], {"users/alice/.gitkeep": None})
    assert branch.history().tree.users == {"alice"}  # `more` was never taken away by anybody who may


def test_a_path_of_any_length_is_ruled_upon_and_its_ruling_is_short() -> None:
    """A ledger keeps rulings as keys, and one that it cannot keep would end every pass."""
    paths = [f"users/alice/{'é' * 5000}{end}" for end in "ab"]
    branch = Branch()
    branch.commit(["bob"], dict.fromkeys(paths, "evil"))
    seen = branch.history()
    assert len(seen.rulings) == 2
    assert max(len(name) for _, name in seen.rulings) <= 2200
    [again] = recalled(branch.commits, Rulings(seen.head, seen.rulings))
    assert again.held.keys() == set(paths)


def test_only_an_admin_changes_the_rules() -> None:
    branch = Branch()
    branch.commit([ADMINS], {RULES_FILE: "r1"})
    branch.commit(["alice"], {RULES_FILE: "r2"})
    assert branch.history().tree.rules[0].entry == Entry("100644", "r1")
    branch.commit([ADMINS], {}, accept=RULES_FILE)
    assert branch.history().tree.rules[0].entry == Entry("100644", "r2")


def test_rulings_stand_whoever_loses_his_rights_later() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1"})
    branch.commit(["bob"], {PATH: "evil"})
    seen = branch.history()
    rulings = Rulings(seen.head, seen.rulings)
    branch.standings = dict.fromkeys(branch.standings, Standing("nobody"))
    again = History()
    again.extend(recalled(branch.commits, rulings))
    assert blobs(again) == {PATH: "a1"}


USERS = ("alice", "bob", "carol")
PATHS = tuple(f"users/{user}/{name}.yaml" for user in USERS for name in ("x", "y"))
COMMITS = st.lists(
    st.tuples(
        st.sets(st.sampled_from((*USERS, ADMINS)), max_size=2),
        st.dictionaries(st.sampled_from((*PATHS, RULES_FILE)), st.sampled_from((None, "1", "2")), max_size=4),
        st.sampled_from(("", "", "", *PATHS)),
    ),
    max_size=25,
)


@given(COMMITS, st.data())
def test_no_content_ever_counts_that_nobody_allowed_has_committed(
    commits: list[tuple[set[str], dict[str, str | None], str]], data: st.DataObject
) -> None:
    branch = Branch()
    expected: dict[str, str] = {}  # what the last of those who may made of each path
    for number, (users, files, accept) in enumerate(commits):
        # Each content is of one commit alone, so that it tells whose it is.
        new = {path: f"{number}-{blob}" if blob else None for path, blob in files.items()}
        branch.commit(sorted(users), new, accept)
        may = Standing("x", frozenset(users)).may_write
        touched = [change.path for change in branch.commits[-1].changes if may(change.path)]
        if accept and may(accept):
            touched.append(accept)
        for path in touched:
            entry = branch.files.get(path)
            if entry is None:
                expected.pop(path, None)
            else:
                expected[path] = entry.blob
        history = branch.history()
        counts = blobs(history)
        assert counts == {path: blob for path, blob in expected.items() if user_of_path(path)}
        rules = history.tree.rules[0].entry if history.tree.rules else None
        assert (rules.blob if rules else None) == expected.get(RULES_FILE)

    history = branch.history()
    event(f"held: {min(len(history.rulings), 5)}")
    # A restart at any point, with nobody's rights any more, gives the same up to there, and goes on the same.
    cut = data.draw(st.integers(0, len(branch.commits)))
    seen = branch.history(cut)
    again = History()
    rulings = Rulings(seen.head, seen.rulings)
    again.extend([*recalled(branch.commits[:cut], rulings), *ruled(branch.commits[cut:], branch.standings)])
    assert again.tree == history.tree
    assert again.rulings == history.rulings
    assert [change.identity for change in again.changes] == [change.identity for change in history.changes]


def test_a_hold_is_told_on_the_record_and_keeps_its_time() -> None:
    branch = Branch()
    branch.commit(["alice"], {PATH: "a1"})
    branch.commit(["bob"], {PATH: "evil"})
    history = branch.history()
    [file] = history.tree.files.values()
    key = file.identity.model_key
    plain = {key: Record(file.identity, file.blob, file.commit, State.RUNNING, EPOCH)}
    told = ownership.marked(plain, history.standing, {}, EPOCH)
    held = told[key].held
    assert held is not None
    assert (held.kind, held.commit, held.removes) == (HoldKind.POLICY, branch.commits[1].commit, False)
    assert ownership.unmarked(told) == plain
    later = EPOCH + timedelta(days=1)
    assert ownership.marked(plain, history.standing, told, later) == told
    frozen = {key: replace(plain[key], held=replace(held, kind=HoldKind.FROZEN))}
    assert ownership.unmarked(frozen) == ownership.marked(frozen, history.standing, {}, later) == frozen
