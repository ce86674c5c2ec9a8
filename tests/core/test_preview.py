"""What each action means to people, and what a tree is after a merge that nobody has made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.actions import Action, Hold, Idle, Keep, Refuse, Remove, Scale, Settle, Start, Wait
from reconciler.core.effects import Effect
from reconciler.core.entities import Cluster, Entry, Record, SpecFile, State, Tree
from reconciler.core.history import UNBORN, PathChange
from reconciler.core.outcomes import NOTHING, Outcome, outcome
from reconciler.core.plandata import MOST_NAMED, data
from reconciler.core.preview import (
    Collision,
    Preview,
    as_if_running,
    assume_folders,
    foresee,
    merged,
)
from reconciler.names import spec_path
from reconciler.spec import ServingSpec
from tests.core.values import NOW, PLATFORM, REFUSED, commit, identity, later, record, running, spec, work

UP = work(spec())
OTHER = work(spec(engine_kwargs={"seed": 7}))
WAITING = record(spec(), error_summary="waiting for room")


@pytest.mark.parametrize(
    ("action", "before", "touched", "expected"),
    [
        (Keep(UP, commit()), running(spec()), False, NOTHING),
        (Keep(UP, commit()), running(spec()), True, Outcome(Effect.UPDATE)),
        (Start(UP, commit()), None, True, Outcome(Effect.CREATE)),
        (Start(UP, commit()), WAITING, False, Outcome(Effect.START)),
        (Start(OTHER, commit()), running(spec()), True, Outcome(Effect.ROLL, downtime=False)),
        (
            Start(replace(OTHER, surge=False), commit(), downtime="down for about 9 s: no free GPU", estimate_s=9),
            running(spec()),
            True,
            Outcome(Effect.ROLL, "down for about 9 s: no free GPU", downtime=True),
        ),
        (Start(OTHER, commit(), estimate_s=9), WAITING, True, Outcome(Effect.START, "loads in about 9 s")),
        (Start(UP, commit(), is_adopted=True), None, True, NOTHING),
        (Hold(UP, commit(), "never fits"), running(spec()), True, Outcome(Effect.BLOCK, "never fits")),
        (Hold(UP, commit(), "never fits"), running(spec()), False, NOTHING),
        (Scale(UP, commit()), running(spec()), True, Outcome(Effect.SCALE)),
        (Settle(UP), running(spec()), False, NOTHING),
        (Settle(UP), running(spec(), error_summary="no weights"), True, Outcome(Effect.HOLD, "no weights")),
        (Settle(None), running(spec(), error_summary="no weights"), False, Outcome(Effect.FALL_BACK, "no weights")),
        (Refuse(UP, "v", commit(), "no folder"), running(spec()), True, Outcome(Effect.FAIL, "no folder")),
        (Refuse(UP, "v", commit(), "no folder"), running(spec()), False, NOTHING),
        (Wait(None, "needs 2"), None, True, Outcome(Effect.WAIT, "needs 2")),
        (Wait(None, "needs 2"), WAITING, False, NOTHING),
        (Idle(), None, True, NOTHING),
        (Remove(), running(spec()), True, Outcome(Effect.REMOVE)),
        (Remove(), record(spec(), state=State.DELETING), True, NOTHING),
    ],
)
def test_each_action_has_its_word(action: Action, before: Record | None, touched: bool, expected: Outcome) -> None:
    assert outcome(action, before, touched=touched) == expected


def file(suffix: str, blob: str = "b1", mode: str = "100644", user: str = "alice") -> SpecFile:
    return SpecFile(identity(user, suffix), blob, mode, commit())


def tree(*files: SpecFile) -> Tree:
    users = frozenset(each.identity.user_id for each in files)
    return Tree("r1", {each.identity.model_key: each for each in files}, users)


def entry(blob: str, mode: str = "100644") -> Entry:
    return Entry(mode, blob)


def change(suffix: str, before: Entry | None, after: Entry | None, user: str = "alice") -> PathChange:
    return PathChange(spec_path(user, suffix), before, after)


def test_a_merge_keeps_names_brings_new_ones_and_takes_away() -> None:
    base = tree(file("kept"), file("changed"), file("gone"))
    after = merged(
        base,
        [
            change("changed", entry("b1"), entry("b2")),
            change("gone", entry("b1"), None),
            change("new", None, entry("b3"), user="bob"),
        ],
        later(60),
    )
    found = {each.identity.path: each for each in after.files.values()}
    assert found.keys() == {"users/alice/kept.yaml", "users/alice/changed.yaml", "users/bob/new.yaml"}
    assert found["users/alice/kept.yaml"] is base.files[identity("alice", "kept").model_key]
    changed, new = found["users/alice/changed.yaml"], found["users/bob/new.yaml"]
    assert (changed.identity, changed.blob, changed.commit.sha) == (identity("alice", "changed"), "b2", UNBORN)
    assert "merge" in new.identity.model_id
    assert after.users == {"alice", "bob"}


def test_a_change_that_is_there_already_is_none_and_another_one_collides() -> None:
    base = tree(file("one", "b2"), file("two", "b9"), file("three", "b9"))
    there = change("one", entry("b1"), entry("b2"))
    assert merged(base, [there], NOW).files == base.files
    with pytest.raises(Collision) as told:
        merged(base, [there, change("two", entry("b1"), entry("b2")), change("three", entry("b1"), None)], NOW)
    assert told.value.paths == ("users/alice/three.yaml", "users/alice/two.yaml")


def test_a_file_whose_mode_alone_changes_is_changed() -> None:
    base = tree(file("one"))
    after = merged(base, [change("one", entry("b1"), entry("b1", "100755"))], NOW)
    assert [each.mode for each in after.files.values()] == ["100755"]


def preview_of(after: Tree, records: dict[str, Record], says: ServingSpec, gpus: float | None = 8) -> Preview:
    return foresee(
        tree=after,
        parsed=dict.fromkeys(after.files, says),
        records=records,
        locate=assume_folders,
        cluster=None if gpus is None else Cluster(gpus, gpus),
        now=later(60),
        platform=PLATFORM,
    )


def test_everything_that_can_be_used_runs_in_a_base_and_then_nothing_changes() -> None:
    base = tree(file("a"), file("b"), file("bad"))
    parsed = {key: REFUSED if "bad" in key else spec() for key in base.files}
    records = as_if_running(base, parsed, NOW, PLATFORM)
    assert {each.identity.suffix: each.state for each in records.values()} == {
        "a": State.RUNNING, "b": State.RUNNING, "bad": State.FAILED
    }  # fmt: skip
    again = foresee(
        tree=base, parsed=parsed, records=records, locate=assume_folders, cluster=None, now=NOW, platform=PLATFORM
    )
    assert again.changes == ()
    assert len(again.untouched) == 3
    assert (again.gpus.before, again.gpus.after) == (2, 2)


def test_a_roll_in_a_cluster_that_nobody_knows_leaves_downtime_open() -> None:
    base = tree(file("a"))
    records = as_if_running(base, dict.fromkeys(base.files, spec()), NOW, PLATFORM)
    after = merged(base, [change("a", entry("b1"), entry("b2"))], later(60))
    says = spec(engine_kwargs={"seed": 7})
    assert [each.downtime for each in preview_of(after, records, says, gpus=None).changes] == [None]
    assert [each.downtime for each in preview_of(after, records, says, gpus=2).changes] == [False]
    assert [each.downtime for each in preview_of(after, records, says, gpus=1).changes] == [True]


def test_a_user_sees_their_own_and_numbers_of_the_rest() -> None:
    base = tree(file("a"), *(file(f"b{number:03}", user="bob") for number in range(MOST_NAMED + 5)))
    unique = {f"{key}-{each.identity.suffix}": each for key, each in base.files.items()}
    files = {key: replace(each, identity=replace(each.identity, model_key=key)) for key, each in unique.items()}
    base = Tree("r1", files, base.users)
    records = as_if_running(base, dict.fromkeys(base.files, spec()), NOW, PLATFORM)
    after = merged(base, [change("a", entry("b1"), entry("b2"))], later(60))
    found = preview_of(after, records, spec(num_replicas=2), gpus=None)
    mine = data(found, base="r1", against="platform", viewer="alice")
    everything = data(found, base="r1", against="platform")
    assert "bob" not in str(mine)
    assert mine["others"]["changed"] + mine["others"]["untouched"] == len(base.files) - 1
    assert everything["others"] == {"changed": 0, "untouched": 0}
    assert len(everything["untouched"]["paths"]) <= MOST_NAMED
