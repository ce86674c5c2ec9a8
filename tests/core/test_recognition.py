"""Who runs, and as which revision of their file, told from Serve's digests and git alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from reconciler.core.desired import Said
from reconciler.core.entities import ChangeKind, Deployment, FileChange, Identity, SpecFile, Tree
from reconciler.core.identity import identity_of
from reconciler.core.recognition import MOST_REVISIONS, Accepted, carried, recognised, retold, revisions
from tests.core.values import NOW, PLATFORM, REFUSED, commit, deployment, identity, spec, work

OURS, THEIRS = identity(), identity("bob")
ONE, TWO, THREE = spec(), spec(num_replicas=2), spec(model_source="/private/hf/other")


@dataclass
class Past:
    """A branch on which each revision says something of its own."""

    changes: list[FileChange] = field(default_factory=list)
    said: dict[SpecFile, Said] = field(default_factory=dict)
    files: dict[str, SpecFile] = field(default_factory=dict)

    def write(self, who: Identity, says: Said | None, held: str | None = None) -> SpecFile | None:
        number = len(self.changes)
        by = commit(f"c{number}", at=NOW + timedelta(seconds=number))
        before = self.files.get(who.model_key)
        after = SpecFile(who, f"b{number}", "100644", by) if says is not None else None
        kind = ChangeKind.MODIFIED if after else ChangeKind.DELETED
        self.changes.append(FileChange(kind, who, by, before, after, held))
        if after is not None and says is not None:
            self.said[after] = says
        if held is None:
            self.files.pop(who.model_key, None)
            self.files |= {who.model_key: after} if after is not None else {}
        return after

    @property
    def tree(self) -> Tree:
        return Tree("tip", self.files, frozenset())

    def found(self, *running: Deployment, platform: str = PLATFORM) -> dict[str, Accepted]:
        seen = {each.model_key: each for each in running}
        parsed = {key: self.said[file] for key, file in self.files.items()}
        candidates = revisions(seen, self.tree, parsed, self.changes, platform)
        return recognised(seen, candidates, self.said, self.tree, platform)

    def carried(self, *running: Deployment) -> dict[str, Accepted]:
        return carried({each.model_key: each for each in running}, self.found(*running), self.tree)


def runs(says: object, who: Identity = OURS) -> Deployment:
    return deployment(work(says, who))  # type: ignore[arg-type]  # what is refused never runs


def test_the_revision_that_runs_is_told_by_its_digest_and_its_number() -> None:
    past = Past()
    one, two, three = (past.write(OURS, says) for says in (ONE, TWO, THREE))
    for file, says in ((one, ONE), (two, TWO), (three, THREE)):
        assert past.found(runs(says)) == {OURS.model_key: Accepted(file, says, is_proven=True)}  # type: ignore[arg-type]


def test_of_revisions_that_are_the_same_to_serve_the_newest_counts() -> None:
    past = Past()
    past.write(OURS, ONE)
    commented = past.write(OURS, ONE)
    past.write(OURS, THREE)
    assert past.found(runs(ONE))[OURS.model_key].file == commented


def test_where_no_revision_has_the_number_the_newest_with_the_digest_counts() -> None:
    past = Past()
    past.write(OURS, ONE)
    two = past.write(OURS, TWO)
    past.write(OURS, THREE)
    scaled_by_hand = replace(runs(ONE), target_replicas=5)
    assert past.found(scaled_by_hand)[OURS.model_key].file == two


def test_a_file_that_is_refused_holds_at_what_runs_and_one_that_is_gone_is_known_by_it() -> None:
    for last in (REFUSED, None):
        past = Past()
        one = past.write(OURS, ONE)
        past.write(OURS, THREE)
        past.write(OURS, last)
        assert past.found(runs(ONE))[OURS.model_key].file == one


def test_with_digests_that_the_platform_changed_what_could_be_accepted_last_counts() -> None:
    for last, expected in ((REFUSED, True), (None, True), (ONE, False)):
        past = Past()
        past.write(OURS, ONE)
        three = past.write(OURS, THREE)
        past.write(OURS, last)
        found = past.found(runs(ONE), platform="another")
        assert found == ({OURS.model_key: Accepted(three, THREE, is_proven=False)} if expected else {})  # type: ignore[arg-type]


def test_what_never_counted_is_not_accepted_because_it_runs() -> None:
    past = Past()
    past.write(OURS, ONE)
    past.write(OURS, THREE, held="bob may not write there")
    past.write(OURS, TWO)
    assert past.found(runs(THREE)) == {}


def test_a_model_whose_history_was_rewritten_is_known_by_its_path_and_keeps_its_key() -> None:
    before = identity_of("svc-alice-20250101-000000-abcd", OURS.path)
    past = Past()
    past.write(identity(suffix="other"), ONE)
    one = past.write(OURS, ONE)
    past.write(OURS, THREE)
    past.write(THEIRS, ONE)
    assert one is not None
    found = past.carried(runs(ONE, before))
    assert found == {before.model_key: Accepted(replace(one, identity=before), ONE, is_proven=True, is_renamed=True)}


def test_a_path_whose_own_model_runs_is_that_models() -> None:
    before = identity_of("svc-alice-20250101-000000-abcd", OURS.path)
    past = Past()
    past.write(OURS, ONE)
    assert past.carried(runs(ONE, before), runs(ONE)) == {}
    assert past.found(runs(ONE, before)).keys() == {before.model_key}, "it counts as removed"


def test_of_two_that_ran_at_one_path_the_younger_keeps_it() -> None:
    old, young = (identity_of(f"svc-alice-20250101-00000{second}-abcd", OURS.path) for second in (1, 2))
    past = Past()
    past.write(OURS, ONE)
    for order in ((old, young), (young, old)):
        assert past.carried(*(runs(ONE, who) for who in order)).keys() == {young.model_key}


@pytest.mark.parametrize(
    "key", ["svc-alice-20250101-000000-abcd", "svc-carl-20250101-000000-abcd", "svc-alice-x-y-z", "svc-", "scratch", ""]
)
def test_what_git_does_not_confirm_is_nobody(key: str) -> None:
    past = Past()
    past.write(OURS, ONE)
    assert past.found(replace(runs(THREE), model_key=key)) == {}


def test_a_model_with_very_many_revisions_is_looked_for_among_the_newest() -> None:
    past = Past()
    past.write(OURS, THREE)
    for _ in range(MOST_REVISIONS):
        past.write(OURS, ONE)
    past.write(OURS, TWO)
    assert past.found(runs(ONE)).keys() == {OURS.model_key}
    assert past.found(runs(THREE)) == {}


def test_history_is_told_under_the_names_that_hold() -> None:
    past = Past()
    past.write(OURS, ONE)
    past.write(THEIRS, ONE)
    before = past.tree
    kept = identity_of("svc-alice-20250101-000000-abcd", OURS.path)
    files = {
        kept.model_key: replace(past.files[OURS.model_key], identity=kept),
        THEIRS.model_key: past.files[THEIRS.model_key],
    }
    told = retold(past.changes, before, replace(before, files=files))
    assert [change.identity for change in told] == [kept, THEIRS]
