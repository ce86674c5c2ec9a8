"""The brakes, through whole passes: a real git repository, a real SQLite ledger, a runtime in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.brake import Brake
from reconciler.core.cases import Case, Verdict
from reconciler.core.entities import Event, HoldKind, Record, State
from reconciler.names import spec_path
from reconciler.shell.ledger import LedgerReader, VerdictReader
from tests.loop.git_world import GitWorld
from tests.loop.world import GOOD, OTHER, RULES, spec

NAMES = ("a", "b", "c", "d", "e", "f")


class Platform(GitWorld):
    """Models of alice's, by the names of their files; the brake is on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 64)
        self.now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
        self.rules = replace(RULES, brake=Brake())
        self.restart()

    def deploy(self, *names: str) -> dict[str, str]:
        """Bring models up, and give their keys by name."""
        self.push({spec_path("alice", name): spec(name) for name in names})
        self.settle()
        return self.keys()

    def delete(self, *names: str, trailers: str = "") -> str:
        return self.push({spec_path("alice", name): None for name in names}, trailers)

    def keys(self) -> dict[str, str]:
        return {record.identity.suffix: key for key, record in LedgerReader(self.engine).models(None).items()}

    def model(self, key: str) -> Record:
        found = LedgerReader(self.engine).model(key)
        assert found is not None
        return found

    def pids(self, *keys: str) -> frozenset[int]:
        return frozenset().union(*(self.runtime.pids(key) for key in keys))

    def events(self, key: str) -> list[Event]:
        return [event for event in self.all_events() if event.model_key == key]

    def cases(self, sha: str) -> list[Case]:
        return list(VerdictReader(self.engine).of_commit(sha))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path)
    yield made
    made.close()


def kinds(platform: Platform, keys: dict[str, str]) -> set[HoldKind | None]:
    return {None if (held := platform.model(key).held) is None else held.kind for key in keys.values()}


def test_a_push_that_removes_everything_removes_nothing_and_says_so(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    sha = platform.delete(*NAMES)
    platform.settle()
    assert platform.pids(*keys.values()) == pids
    assert kinds(platform, keys) == {HoldKind.BRAKE}
    held = platform.model(keys["a"]).held
    assert held is not None
    assert held.message.startswith("removes 6 of 6 running models at once")
    assert "Argus-Allow-Removal: 6" in held.message
    assert (held.removes, held.commit.sha) == (True, sha)
    assert platform.types(keys["a"]).count("CHANGE_HELD") == 1
    assert {(case.verdict, case.message) for case in platform.cases(sha)} == {(None, held.message)}


def test_the_trailer_releases_it(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    sha = platform.delete(*NAMES)
    platform.settle()
    platform.push({"README.md": "x"}, "Argus-Allow-Removal: 5")
    platform.settle()
    assert kinds(platform, keys) == {HoldKind.BRAKE}, "five are not enough"
    platform.push({"README.md": "y"}, "argus-allow-removal: 6")
    platform.settle()
    assert {platform.model(key).state for key in keys.values()} == {State.DELETED}
    assert platform.runtime.app is not None
    assert not platform.runtime.app.workloads
    assert {case.verdict for case in platform.cases(sha)} == {Verdict.REMOVED}
    assert platform.types(keys["a"])[-2:] == ["CHANGE_RELEASED", "DELETED"]
    assert {event.commit for event in platform.events(keys["a"])[-2:]} == {sha}


def test_a_trailer_on_the_very_commit_says_that_it_is_meant(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    platform.delete(*NAMES, trailers="Argus-Allow-Removal: 6")
    platform.settle()
    assert {platform.model(key).state for key in keys.values()} == {State.DELETED}


def test_a_trailer_from_before_the_removal_allows_nothing(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    platform.push({"README.md": "x"}, "Argus-Allow-Removal: 1000")
    platform.delete(*NAMES)
    platform.settle()
    assert kinds(platform, keys) == {HoldKind.BRAKE}


def test_a_restart_and_a_later_commit_keep_the_brake_on(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    platform.delete(*NAMES)
    platform.restart()
    platform.settle()
    platform.restart()
    platform.push({spec_path("bob", "new"): spec("new")})
    platform.settle()
    assert platform.pids(*keys.values()) == pids
    assert kinds(platform, keys) == {HoldKind.BRAKE}
    assert platform.model(platform.keys()["new"]).state is State.RUNNING
    assert platform.types(keys["a"]).count("CHANGE_HELD") == 1


def test_a_ledger_that_is_lost_while_the_brake_is_on_loses_no_model(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    platform.delete(*NAMES)
    platform.settle()
    platform.lose_the_ledger()
    platform.settle()
    assert platform.keys() == keys
    assert platform.pids(*keys.values()) == pids
    assert kinds(platform, keys) == {HoldKind.BRAKE}
    assert {platform.model(key).state for key in keys.values()} == {State.RUNNING}
    platform.push({"README.md": "x"}, "Argus-Allow-Removal: 6")
    platform.settle()
    assert {platform.model(key).state for key in keys.values()} == {State.DELETED}


def test_a_few_may_go_at_any_time(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    platform.delete("a", "b")
    platform.settle()
    assert {platform.model(keys[name]).state for name in ("a", "b")} == {State.DELETED}


def test_a_removal_that_is_taken_back_by_a_revert_leaves_every_process_and_every_name(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    removal = platform.delete(*NAMES)
    platform.settle()
    revert = platform.push({spec_path("alice", name): spec(name) for name in NAMES})
    platform.settle()
    platform.restart()
    platform.settle()
    assert platform.keys() == keys
    assert platform.pids(*keys.values()) == pids
    assert kinds(platform, keys) == {None}
    assert {(case.verdict, case.superseded_by) for case in platform.cases(removal)} == {(Verdict.SUPERSEDED, revert)}
    assert {case.verdict for case in platform.cases(revert)} == {Verdict.APPLIED}


def test_a_forced_push_that_loses_everything_is_braked_until_its_tip_or_a_later_commit_allows_it(
    platform: Platform,
) -> None:
    platform.push({"README.md": "x"})
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    platform.repository.rewind(1)
    platform.push({"README.md": "y"})
    platform.settle()
    assert platform.pids(*keys.values()) == pids
    assert kinds(platform, keys) == {HoldKind.BRAKE}
    platform.push({"README.md": "z"}, "Argus-Allow-Removal: 6")
    platform.push({"README.md": "and another one before the next pass"})
    platform.settle()
    assert {platform.model(key).state for key in keys.values()} == {State.DELETED}


def test_a_rename_is_a_removal_and_a_new_model_and_many_are_braked(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    pids = platform.pids(*keys.values())
    moved: dict[str, str | None] = {spec_path("bob", name): spec(name) for name in NAMES}
    platform.push(moved | {spec_path("alice", name): None for name in NAMES})
    platform.settle()
    assert pids <= platform.pids(*platform.runtime.observe().deployments)
    assert kinds(platform, keys) == {HoldKind.BRAKE}


def rules_file(text: str | None) -> dict[str, str | None]:
    return {"argus.yaml": text}


FREEZE = 'freeze:\n  - {cron: "0 11 * * fri", duration: 6h, reason: release day}\n'
"""From an hour before the tests' noon on."""


def test_a_change_in_a_freeze_waits_and_counts_when_it_is_over(platform: Platform) -> None:
    keys = platform.deploy("a", "b")
    pids = platform.pids(*keys.values())
    platform.push(rules_file(FREEZE))
    change = platform.push({spec_path("alice", "a"): spec("a", OTHER), spec_path("alice", "b"): None})
    new = platform.push({spec_path("alice", "c"): spec("c")})
    platform.settle()
    assert platform.pids(*keys.values()) == pids
    held = platform.model(keys["a"]).held
    assert held is not None
    assert (held.kind, held.message) == (HoldKind.FROZEN, "frozen until 2026-11-27T17:00:00Z: release day")
    fresh = platform.model(platform.keys()["c"])
    assert (fresh.state, fresh.applied) == (State.QUEUED, None)
    assert {case.verdict for sha in (change, new) for case in platform.cases(sha)} == {None}
    platform.restart()
    platform.settle()
    assert platform.pids(*keys.values()) == pids

    platform.now = datetime(2026, 11, 27, 17, 0, tzinfo=UTC)
    platform.settle(8)
    assert {case.path: case.verdict for case in platform.cases(change)} == {
        spec_path("alice", "a"): Verdict.APPLIED,
        spec_path("alice", "b"): Verdict.REMOVED,
    }
    assert [case.verdict for case in platform.cases(new)] == [Verdict.APPLIED]
    assert platform.types(keys["a"]).count("CHANGE_HELD") == platform.types(keys["a"]).count("CHANGE_RELEASED") == 1


def test_an_override_lets_pass_what_is_there_and_nothing_that_comes_after(platform: Platform) -> None:
    keys = platform.deploy("a", "b")
    platform.push(rules_file(FREEZE))
    platform.push({spec_path("alice", "a"): spec("a", OTHER)})
    platform.settle()
    override = platform.push({"README.md": "x"}, "Argus-Override-Freeze: customers cannot log in")
    platform.push({spec_path("alice", "b"): spec("b", OTHER)})
    platform.settle()
    assert platform.model(keys["a"]).held is None
    assert platform.model(keys["b"]).held is not None
    told = [event for event in platform.events("") if event.event_type.value == "FREEZE_OVERRIDDEN"]
    assert [(event.commit, dict(event.payload)) for event in told] == [
        (override, {"reason": "customers cannot log in", "paths": [spec_path("alice", "a")]})
    ]


def test_an_override_lifts_no_brake_and_is_told_when_something_passes(platform: Platform) -> None:
    keys = platform.deploy(*NAMES)
    platform.push(rules_file(FREEZE))
    platform.delete(*NAMES)
    platform.push({"README.md": "x"}, "Argus-Override-Freeze: cleaning up")
    platform.settle()
    assert kinds(platform, keys) == {HoldKind.BRAKE}
    assert "FREEZE_OVERRIDDEN" not in platform.types("")
    platform.push({"README.md": "y"}, "Argus-Allow-Removal: 6")
    platform.settle()
    assert {platform.model(key).state for key in keys.values()} == {State.DELETED}
    assert platform.types("").count("FREEZE_OVERRIDDEN") == 1


def test_who_is_suspended_stays_as_it_was_and_others_go_on(platform: Platform) -> None:
    keys = platform.deploy("a", "b")
    platform.push(rules_file("suspend:\n  models: {alice/a: a benchmark}\n"))
    platform.push({spec_path("alice", name): spec(name, OTHER) for name in ("a", "b")})
    platform.settle(8)
    a, b = platform.model(keys["a"]), platform.model(keys["b"])
    assert a.held is not None
    assert a.held.message == "this model is suspended: a benchmark"
    assert (a.applied and a.applied.source_path, b.applied and b.applied.source_path) == (GOOD, OTHER)
    platform.push(rules_file(None))
    platform.settle(8)
    assert platform.model(keys["a"]).held is None
    assert platform.model(keys["a"]).serving_commit == b.serving_commit


def test_what_is_lost_in_a_freeze_is_started_again_as_it_was(platform: Platform) -> None:
    keys = platform.deploy("a")
    platform.push(rules_file(FREEZE))
    platform.push({spec_path("alice", "a"): spec("a", OTHER)})
    platform.settle()
    [pid] = platform.pids(keys["a"])
    platform.runtime.crash()
    platform.settle()
    record = platform.model(keys["a"])
    assert (record.state, record.serving and record.serving.source_path) == (State.RUNNING, GOOD)
    assert platform.pids(keys["a"]) not in (frozenset(), {pid})


def test_rules_that_cannot_be_read_leave_the_last_good_ones_in_force_also_after_a_restart(platform: Platform) -> None:
    keys = platform.deploy("a", "b")
    platform.push(rules_file("suspend: {models: {alice/a: x}}\n"))
    broken = platform.push(rules_file("suspend: {models: [alice\n"))
    platform.restart()
    platform.push({spec_path("alice", name): spec(name, OTHER) for name in ("a", "b")})
    platform.settle()
    platform.restart()
    platform.settle()
    assert platform.model(keys["a"]).held is not None
    assert platform.model(keys["b"]).held is None
    status = LedgerReader(platform.engine).status()
    assert status is not None
    assert status.rules_error is not None
    assert status.rules_error.startswith("argus.yaml: line 2: this is not valid YAML")
    told = [event for event in platform.events("") if event.event_type.value == "RULES_REJECTED"]
    assert [(event.commit, event.payload["line"]) for event in told] == [(broken, 2)]


def test_where_no_rules_could_ever_be_read_nothing_counts_and_nothing_stops(platform: Platform) -> None:
    keys = platform.deploy("a")
    pids = platform.pids(keys["a"])
    platform.push(rules_file("suspend: 3\n"))
    platform.push({spec_path("alice", "a"): None})
    platform.settle()
    assert platform.pids(keys["a"]) == pids
    held = platform.model(keys["a"]).held
    assert held is not None
    assert held.message.endswith("no change counts until it is put right")
    platform.push(rules_file(""))
    platform.settle()
    assert platform.model(keys["a"]).state is State.DELETED


def test_a_change_that_is_taken_back_while_it_is_held_never_happened(platform: Platform) -> None:
    keys = platform.deploy("a")
    pids = platform.pids(keys["a"])
    platform.push(rules_file(FREEZE))
    change = platform.push({spec_path("alice", "a"): spec("a", OTHER)})
    platform.settle()
    back = platform.push({spec_path("alice", "a"): spec("a")})
    platform.settle()
    assert platform.pids(keys["a"]) == pids
    assert platform.model(keys["a"]).held is None
    assert [(case.verdict, case.superseded_by) for case in platform.cases(change)] == [(Verdict.SUPERSEDED, back)]
    assert [case.verdict for case in platform.cases(back)] == [Verdict.APPLIED]


def test_a_forced_push_that_drops_a_held_change_supersedes_it(platform: Platform) -> None:
    keys = platform.deploy("a")
    platform.push(rules_file(FREEZE))
    change = platform.push({spec_path("alice", "a"): spec("a", OTHER)})
    platform.settle()
    platform.repository.rewind(1)
    platform.settle()
    assert platform.model(keys["a"]).held is None
    assert [case.verdict for case in platform.cases(change)] == [Verdict.SUPERSEDED]
    serving = platform.model(keys["a"]).serving_commit
    assert serving is not None
    assert serving.sha != change


def test_a_mistake_on_top_of_a_held_change_takes_its_place(platform: Platform) -> None:
    keys = platform.deploy("a")
    platform.push(rules_file(FREEZE))
    change = platform.push({spec_path("alice", "a"): spec("a", OTHER)})
    platform.settle()
    mistake = platform.push({spec_path("alice", "a"): "model_id: [\n"})
    platform.settle()
    assert [(case.verdict, case.superseded_by) for case in platform.cases(change)] == [(Verdict.SUPERSEDED, mistake)]
    assert [case.verdict for case in platform.cases(mistake)] == [Verdict.REJECTED]
    assert platform.model(keys["a"]).state is State.RUNNING
