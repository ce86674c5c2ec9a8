"""Who a model is: a function of history alone, and never the same twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.entities import ChangeKind, Commit, Entry
from reconciler.core.history import History, PathChange, RawCommit
from reconciler.core.identity import Fingerprint, Keys, fingerprint, moment
from reconciler.names import SpecName

AT = datetime(2026, 11, 22, 13, 5, 59, tzinfo=UTC)
PLAIN = "100644"


def always_the_same(_sha: str, _path: str, attempt: int) -> str:
    """Collide at every first attempt, and again a few times."""
    return f"{attempt // 3:04x}" + "0" * 60


def adding(number: int, paths: list[str], at: datetime = AT, parent: str | None = None) -> RawCommit:
    sha = f"{number:040x}"
    changes = tuple(PathChange(path, None, Entry(PLAIN, "b" * 40)) for path in paths)
    return RawCommit(Commit(sha=sha, author="ann", committed_at=at, source="git"), parent, changes)


def removing(number: int, paths: list[str], parent: str, at: datetime = AT) -> RawCommit:
    sha = f"{number:040x}"
    changes = tuple(PathChange(path, Entry(PLAIN, "b" * 40), None) for path in paths)
    return RawCommit(Commit(sha=sha, author="ann", committed_at=at, source="git"), parent, changes)


def folded(*commits: RawCommit, fingerprint: Fingerprint = fingerprint) -> History:
    history = History(fingerprint)
    history.extend(commits)
    return history


def keys_ever(history: History, first: str) -> list[str]:
    created = history.changes_since(first)
    assert created is not None
    return [change.identity.model_key for change in created if change.kind is ChangeKind.CREATED]


def test_key_and_name_tell_user_time_and_suffix() -> None:
    [file] = folded(adding(1, ["users/ann/qwen-0.5b.yaml"])).tree.files.values()
    assert re.fullmatch(r"svc-ann-20261122-130559-[0-9a-f]{4}", file.identity.model_key)
    assert file.identity.model_id == "ann-202611221305-qwen-0.5b"
    assert (file.identity.user_id, file.identity.suffix) == ("ann", "qwen-0.5b")
    assert file.identity.created_at == AT


def test_an_identity_that_was_given_is_known_for_good() -> None:
    """Were this to change, every running model would be another one after an upgrade."""
    [file] = folded(adding(1, ["users/ann/qwen-0.5b.yaml"])).tree.files.values()
    assert file.identity.model_key == "svc-ann-20261122-130559-cbe7"


def test_one_commit_with_two_thousand_files_of_one_user_gives_each_a_key_of_its_own() -> None:
    paths = [f"users/ann/m{number}.yaml" for number in range(2000)]
    files = folded(adding(1, paths)).tree.files
    assert len(files) == 2000
    digits = {fingerprint(f"{1:040x}", path, 0)[:4] for path in paths}
    assert len(digits) < 2000, "the premise: first choices do collide"
    assert all(re.fullmatch(r"svc-ann-20261122-130559-[0-9a-f]{4}", key) for key in files)


def test_two_commits_of_one_second_never_share_a_key() -> None:
    first = adding(1, ["users/ann/a.yaml"])
    second = adding(2, ["users/ann/b.yaml"], parent=first.commit.sha)
    assert len(folded(first, second, fingerprint=always_the_same).tree.files) == 2


def test_a_key_is_not_given_again_after_its_model_is_gone() -> None:
    path = "users/ann/a.yaml"
    first = adding(1, [path])
    gone = removing(2, [path], parent=first.commit.sha)
    again = adding(3, [path], parent=gone.commit.sha)
    history = folded(first, gone, again, fingerprint=always_the_same)
    [old] = folded(first, fingerprint=always_the_same).tree.files
    [new] = history.tree.files
    assert old != new


def test_keys_grow_by_a_digit_only_when_a_second_has_none_left() -> None:
    keys = Keys(hex_digits=2)
    issued = [keys.issue(SpecName("ann", "m"), str(number), "0" * 40, AT).model_key for number in range(256 + 20)]
    assert len(set(issued)) == len(issued)
    width = len("svc-ann-20261122-130559-00")
    assert [len(key) for key in issued] == [width] * 256 + [width + 1] * 20


users = st.sampled_from(["ann", "bob", "a-1", "x.y_z"])
suffixes = st.sampled_from(["a", "b", "c-1", "d.e", "f_g", "0"])
paths = st.builds(lambda user, suffix: f"users/{user}/{suffix}.yaml", users, suffixes)
# Few moments, so that commits share seconds.
moments = st.integers(0, 2).map(lambda seconds: AT + timedelta(seconds=seconds))


@st.composite
def histories(draw: st.DrawFn) -> list[RawCommit]:
    """Draw commits that each add or remove a few files of a small world."""
    present: set[str] = set()
    commits: list[RawCommit] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        touched = draw(st.lists(paths, min_size=1, max_size=6, unique=True))
        changes = tuple(
            PathChange(path, Entry(PLAIN, "b" * 40), None)
            if path in present
            else PathChange(path, None, Entry(PLAIN, "b" * 40))
            for path in touched
        )
        present ^= set(touched)
        commit = Commit(sha=f"{number:040x}", author="ann", committed_at=draw(moments), source="git")
        commits.append(RawCommit(commit, commits[-1].commit.sha if commits else None, changes))
    return commits


@pytest.mark.parametrize("fingerprint", [fingerprint, always_the_same])
@settings(max_examples=40, deadline=None)
@given(commits=histories())
def test_no_two_models_that_ever_were_share_a_key(fingerprint: Fingerprint, commits: list[RawCommit]) -> None:
    start = adding(999, ["users/first/x.yaml"])
    rest = [RawCommit(raw.commit, raw.parent or start.commit.sha, raw.changes) for raw in commits]
    history = folded(start, *rest, fingerprint=fingerprint)
    keys = keys_ever(history, start.commit.sha)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("fingerprint", [fingerprint, always_the_same])
@settings(max_examples=40, deadline=None)
@given(commits=histories(), cut=st.integers(0, 12), data=st.data())
def test_the_same_history_gives_the_same_identities_however_it_was_read(
    fingerprint: Fingerprint, commits: list[RawCommit], cut: int, data: st.DataObject
) -> None:
    at_once = folded(*commits, fingerprint=fingerprint)
    in_parts = History(fingerprint)
    in_parts.extend(commits[:cut])
    in_parts.extend(
        RawCommit(raw.commit, raw.parent, tuple(data.draw(st.permutations(raw.changes)))) for raw in commits[cut:]
    )
    assert in_parts.tree == at_once.tree


@settings(max_examples=40, deadline=None)
@given(commits=histories())
def test_a_living_model_keeps_its_identity_whatever_comes_after(commits: list[RawCommit]) -> None:
    history = History()
    before: dict[str, str] = {}
    for raw in commits:
        history.extend([raw])
        now = {file.identity.path: key for key, file in history.tree.files.items()}
        touched = {change.path for change in raw.changes}
        assert {path: key for path, key in before.items() if path not in touched}.items() <= now.items()
        before = now


@pytest.mark.parametrize(
    ("seconds", "year"),
    [("0", 1970), ("1795353959", 2026), ("-5", 1970), ("", 1970), ("soon", 1970), ("9" * 30, 9999), ("1e3", 1970)],
)
def test_any_time_that_a_commit_claims_is_a_moment(seconds: str, year: int) -> None:
    assert moment(seconds).year == year
