"""What becomes of commits, through whole passes: in the ledger, and in the notes on them."""

from __future__ import annotations

import pytest

from reconciler.chronicle import ENOUGH_TRIES
from reconciler.core.cases import Case, Verdict
from reconciler.core.entities import State
from reconciler.errors import LedgerUnreachable, SourceUnreachable
from reconciler.names import spec_path
from tests.loop.world import BROKEN, GOOD, OTHER, ForgetfulLedger, World, spec


def begun() -> World:
    """Give a world whose repository was there before its ledger, and has been read once."""
    world = World()
    world.source.commit({"README.md": b"x"})
    world.loop.reconcile_once()
    return world


def case(world: World, sha: str) -> Case:
    """Give the one case of a commit."""
    [found] = [case for case in world.ledger.cases.values() if case.commit.sha == sha]
    return found


def verdicts(world: World, *shas: str) -> list[Verdict | None]:
    return [case(world, sha).verdict for sha in shas]


def lose_the_ledger(world: World) -> None:
    world.ledger = ForgetfulLedger()
    world.restart()


def test_a_commit_goes_through_its_stages_to_its_verdict() -> None:
    world = World()
    sha = world.write("alice", "qwen", spec("qwen"))
    world.loop.reconcile_once()
    loading = case(world, sha)
    assert (loading.verdict, loading.stages.applied, loading.stages.ready) == (None, world.now, None)
    world.settle()
    done = case(world, sha)
    assert done.verdict is Verdict.APPLIED
    assert done.stages.ready is not None
    assert done.stages.ready > world.ledger.events[0].created_at
    assert world.notes.texts[sha].startswith("APPLIED users/alice/qwen.yaml -> svc-alice-")


def test_a_hundred_rapid_commits_with_broken_ones_among_them_get_one_verdict_each() -> None:
    world = World(total_gpus=64)
    contents = (spec("m"), "a: [", spec("m", BROKEN), spec("m", OTHER, 2), f"# again\n{spec('m', OTHER, 2)}", None)
    shas = []
    for number in range(100):
        shas.append(world.write("alice", "m", contents[number % len(contents)]))
        if number % 7 == 0:
            world.loop.reconcile_once()
        if number % 11 == 0:
            world.runtime.step()
    last = world.write("alice", "m", spec("m", seed=7))
    world.settle()
    found = verdicts(world, *shas, last)
    assert None not in found
    assert {*found} == {Verdict.SUPERSEDED, Verdict.REJECTED, Verdict.REMOVED, Verdict.NO_CHANGE, Verdict.APPLIED}
    assert found[-1] is Verdict.APPLIED
    assert world.record("alice", "m").state is State.RUNNING
    assert world.record("alice", "m").commit.sha == last
    assert set(world.notes.texts) == {*shas, last}


def test_a_load_that_is_overtaken_is_cancelled_and_not_waited_for() -> None:
    world = World()
    slow = world.write("alice", "qwen", spec("qwen"))
    world.loop.reconcile_once()
    world.runtime.step()
    key = world.key("alice", "qwen")
    assert (world.runtime.observe().deployments[key].starting, world.runtime.pids(key)) == (1, frozenset())
    newer = world.write("alice", "qwen", spec("qwen", seed=1))
    world.loop.reconcile_once()
    assert case(world, slow).superseded_by == newer
    applied = world.record("alice", "qwen").applied
    assert applied is not None
    assert world.runtime.app is not None
    assert world.runtime.app.workloads[key].version == applied.version
    world.settle()
    assert verdicts(world, slow, newer) == [Verdict.SUPERSEDED, Verdict.APPLIED]
    assert "DEPLOY_SUCCEEDED" not in [event.event_type.value for event in world.events(key) if event.commit == slow]


def test_a_success_after_the_first_failure_is_an_event_and_no_second_verdict() -> None:
    world = World()
    sha = world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle()
    failed = case(world, sha)
    assert failed.verdict is Verdict.FAILED
    world.runtime.broken.clear()
    world.wait(15)
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING
    assert case(world, sha) == failed


def test_a_link_in_place_of_a_spec_is_rejected() -> None:
    world = World()
    path = spec_path("alice", "qwen")
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    sha = world.source.commit({path: spec("qwen").encode()}, modes={path: "120000"})
    world.settle()
    assert case(world, sha).verdict is Verdict.REJECTED


def test_an_old_repository_is_judged_by_what_is_in_force_and_not_commit_by_commit() -> None:
    world = World()
    old = [world.write("alice", "qwen", spec("qwen", seed=seed)) for seed in range(50)]
    world.write("bob", "gone", spec("gone"))
    world.write("bob", "gone", None)
    world.settle()
    assert [id_[0] for id_ in world.ledger.cases] == [old[-1]]
    assert verdicts(world, old[-1]) == [Verdict.APPLIED]


def test_a_lost_ledger_has_its_verdicts_back_from_the_notes_and_gives_none_twice() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    for text in (spec("qwen", seed=1), "rubbish: [", spec("qwen", BROKEN)):
        world.write("alice", "qwen", text)
        world.settle()
    before, told = dict(world.ledger.cases), dict(world.notes.texts)
    lose_the_ledger(world)
    world.settle()
    assert world.ledger.cases == before
    assert world.notes.texts == told


@pytest.mark.parametrize(
    "forged",
    ["", "APPLIED everything", '{"argus": 1}', '{"argus": 1, "path": "users/alice/qwen.yaml", "verdict": "PRAISED"}'],
)
def test_what_strangers_write_into_notes_is_passed_over(forged: str) -> None:
    world = World()
    sha = world.write("alice", "qwen", spec("qwen", GOOD))
    world.notes.texts = {sha: forged, "f" * 40: forged}
    world.settle()
    assert verdicts(world, sha) == [Verdict.APPLIED]


def test_a_refusal_of_notes_is_in_the_status_stops_nothing_and_is_made_up_for() -> None:
    world = begun()
    world.notes.down = True
    first = world.write("alice", "qwen", spec("qwen"))
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING
    assert world.ledger.status is not None
    assert (world.ledger.status.error, world.ledger.status.notes_error) == (None, "notes are refused")
    world.notes.down = False
    second = world.write("bob", "llm", spec("llm"))
    world.wait(900)
    world.settle()
    assert set(world.notes.texts) == {first, second}
    assert world.ledger.status.notes_error is None


def test_what_is_refused_is_not_asked_for_in_every_pass() -> None:
    world = begun()
    world.notes.down = True
    world.write("alice", "qwen", "rubbish")
    world.loop.reconcile_once()
    world.notes.down = False
    world.loop.reconcile_once()
    assert world.notes.texts == {}
    world.wait(15)
    world.loop.reconcile_once()
    assert len(world.notes.texts) == 1


def test_verdicts_that_a_killed_process_did_not_publish_are_published_by_the_next() -> None:
    world = begun()
    world.notes.down = True
    sha = world.write("alice", "qwen", "rubbish")
    world.loop.reconcile_once()
    world.notes.down = False
    world.restart()
    world.loop.reconcile_once()
    assert world.notes.texts[sha].startswith("REJECTED ")


def test_all_that_a_pass_closed_is_one_publication() -> None:
    world = begun()
    for user in ("alice", "bob", "carol"):
        world.write(user, "qwen", "rubbish")
    world.loop.reconcile_once()
    assert (len(world.notes.texts), world.notes.times) == (3, 1)


def test_a_pass_that_was_not_written_down_judges_again_what_it_judged() -> None:
    world = begun()
    sha = world.write("alice", "qwen", "rubbish")
    world.ledger.lose_next_write = True
    with pytest.raises(LedgerUnreachable):
        world.loop.reconcile_once()
    assert (world.ledger.cases, world.notes.texts) == ({}, {})
    world.restart()
    world.loop.reconcile_once()
    assert verdicts(world, sha) == [Verdict.REJECTED]


def test_a_new_ledger_waits_for_the_notes_a_little_and_serves_without_them_in_the_end() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.notes.down = True
    for _ in range(ENOUGH_TRIES - 1):
        with pytest.raises(SourceUnreachable):
            world.loop.reconcile_once()
    assert world.runtime.app is None
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING
