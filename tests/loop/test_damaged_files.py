"""Files whose content cannot be read any more, through real git and a real ledger: one of them blocks nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.cases import Verdict
from reconciler.core.entities import Event, EventType, HoldKind, Record, State
from reconciler.errors import SourceUnreachable
from reconciler.names import RULES_FILE
from reconciler.shell.git import Git
from reconciler.shell.ledger import LedgerReader, VerdictReader
from reconciler.shell.mending import mend
from reconciler.shell.objects import object_id
from tests.loop.git_world import GitWorld
from tests.loop.world import spec
from tests.repositories import git, loose

ANN, BOB = "users/ann/qwen.yaml", "users/bob/llama.yaml"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitWorld]:
    made = GitWorld(tmp_path)
    made.write("ann", "qwen", spec("qwen"))
    made.write("bob", "llama", spec("llama"))
    made.settle()
    yield made
    made.close()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(file: Path) -> None:
    file.write_bytes(b"\xa5" * file.stat().st_size)


def delete(file: Path) -> None:
    file.unlink()


def push_damaged(world: GitWorld, path: str, text: str, ruin: Callable[[Path], None] = cut) -> tuple[str, str]:
    """Bring a file onto the branch and ruin its content before any pass; give the commit and the object."""
    sha, blob = world.push({path: text}), object_id("blob", text.encode())
    ruin(loose(world.repository.path, blob))
    return sha, blob


def put_back(world: GitWorld, text: str) -> None:
    """Give the object its content again, as an administrator does who has it in a clone."""
    loose(world.repository.path, object_id("blob", text.encode())).unlink(missing_ok=True)
    git(world.repository.path, "hash-object", "-w", "--stdin", stdin=text.encode())


def held(record: Record) -> tuple[HoldKind, str] | None:
    return (record.held.kind, record.held.commit.sha) if record.held is not None else None


def told(world: GitWorld, record: Record) -> list[Event]:
    return [event for event in world.all_events() if event.model_key == record.identity.model_key]


def kinds(world: GitWorld, record: Record) -> list[EventType]:
    return [event.event_type for event in told(world, record)]


@pytest.mark.parametrize("ruin", [cut, delete])
def test_a_running_models_damaged_change_holds_that_model_and_nobody_else(
    world: GitWorld, ruin: Callable[[Path], None]
) -> None:
    before = world.by_path()
    pids = world.runtime.pids(before[ANN].identity.model_key)
    sha, blob = push_damaged(world, ANN, spec("qwen", seed=7), ruin)
    world.write("bob", "llama", spec("llama", replicas=2))
    world.write("carl", "new", spec("new"))
    world.settle()
    after = world.by_path()
    assert after["users/carl/new.yaml"].state is State.RUNNING
    assert (bob := after[BOB].serving) is not None
    assert bob.num_replicas == 2
    ann = after[ANN]
    assert (ann.state, ann.commit, ann.serving) == (State.RUNNING, before[ANN].commit, before[ANN].serving)
    assert world.runtime.pids(ann.identity.model_key) == pids
    assert held(ann) == (HoldKind.DAMAGED, sha)
    assert ann.held is not None
    for word in (blob, ANN, "git fsck", "clone"):
        assert word in ann.held.message
    assert kinds(world, ann)[-2:] == [EventType.UPDATE_REQUESTED, EventType.CHANGE_HELD]
    assert told(world, ann)[-1].payload["message"] == ann.held.message
    assert world.verdicts()[sha, ANN] is None
    [case] = [case for case in world.known().cases if case.path == ANN]
    assert case.message == ann.held.message


def test_a_new_models_damaged_file_waits_and_counts_by_itself_when_it_can_be_read(world: GitWorld) -> None:
    text = spec("new")
    sha, _ = push_damaged(world, "users/carl/new.yaml", text, garble)
    world.settle()
    record = world.by_path()["users/carl/new.yaml"]
    assert (record.state, record.spec, held(record)) == (State.QUEUED, None, (HoldKind.DAMAGED, sha))
    assert world.verdicts()[sha, "users/carl/new.yaml"] is None
    put_back(world, text)
    world.settle()
    record = world.by_path()["users/carl/new.yaml"]
    assert (record.state, record.held) == (State.RUNNING, None)
    assert kinds(world, record) == [
        EventType.DEPLOY_REQUESTED,
        EventType.CHANGE_HELD,
        EventType.CHANGE_RELEASED,
        EventType.DEPLOY_STARTED,
        EventType.DEPLOY_SUCCEEDED,
    ]
    assert world.verdicts()[sha, "users/carl/new.yaml"] is Verdict.APPLIED


def test_a_new_commit_of_a_damaged_file_takes_its_place(world: GitWorld) -> None:
    sha, _ = push_damaged(world, ANN, spec("qwen", seed=7))
    world.settle()
    newer = world.write("ann", "qwen", spec("qwen", seed=8))
    world.settle()
    record = world.by_path()[ANN]
    assert (record.held, record.commit.sha, record.state) == (None, newer, State.RUNNING)
    assert world.verdicts()[sha, ANN] is Verdict.SUPERSEDED
    assert world.verdicts()[newer, ANN] is Verdict.APPLIED


def test_a_damaged_file_that_is_taken_away_goes(world: GitWorld) -> None:
    sha, _ = push_damaged(world, "users/carl/new.yaml", spec("new"))
    world.settle()
    gone = world.write("carl", "new", None)
    world.settle()
    assert "users/carl/new.yaml" not in {path for path, each in world.by_path().items() if each.state != State.DELETED}
    assert world.verdicts()[sha, "users/carl/new.yaml"] is Verdict.SUPERSEDED
    assert world.verdicts()[gone, "users/carl/new.yaml"] is Verdict.REMOVED


def test_what_was_accepted_before_it_was_damaged_goes_on_through_restarts_and_changes_of_others(
    world: GitWorld,
) -> None:
    before = world.by_path()[ANN]
    pids = world.runtime.pids(before.identity.model_key)
    cut(loose(world.repository.path, before.blob))
    world.settle()
    assert world.by_path()[ANN].held is None, "nobody had to read it again"
    world.restart()
    world.write("bob", "llama", spec("llama", replicas=2))
    world.settle()
    record = world.by_path()[ANN]
    assert (record.state, record.serving, record.commit) == (State.RUNNING, before.serving, before.commit)
    assert held(record) == (HoldKind.DAMAGED, before.commit.sha)
    assert world.runtime.pids(before.identity.model_key) == pids
    assert world.verdicts()[before.commit.sha, ANN] is Verdict.APPLIED
    assert mend(Git(world.repository.path, 30), spec("qwen").encode())
    world.settle()
    assert world.by_path()[ANN].held is None
    assert world.runtime.pids(before.identity.model_key) == pids


def test_what_is_refused_once_it_can_be_read_is_told_and_judged_as_every_refusal(world: GitWorld) -> None:
    text = "model_id: qwen\nnum_replicas: many\n"
    sha, _ = push_damaged(world, ANN, text)
    world.settle()
    put_back(world, text)
    world.settle()
    record = world.by_path()[ANN]
    assert (record.state, record.held) == (State.RUNNING, None)
    assert record.rejection is not None
    assert kinds(world, record)[-1] is EventType.SPEC_REJECTED
    assert told(world, record)[-1].commit == sha
    [(_, [case])] = VerdictReader(world.engine).page(None, 1)
    assert (case.verdict, case.line) == (Verdict.REJECTED, record.rejection.line)


def test_of_a_damaged_version_of_the_rules_the_one_before_counts_until_it_can_be_read(world: GitWorld) -> None:
    world.push({RULES_FILE: "suspend: {users: [ann]}\n"})
    world.settle()
    text = "suspend: {users: [bob]}\n"
    push_damaged(world, RULES_FILE, text)
    world.write("ann", "qwen", spec("qwen", replicas=2))
    world.write("bob", "llama", spec("llama", replicas=2))
    world.settle()
    assert held_kinds(world) == {ANN: HoldKind.SUSPENDED, BOB: None}
    assert [event.event_type for event in world.all_events()].count(EventType.RULES_REJECTED) == 1
    status = LedgerReader(world.engine).status()
    assert status is not None
    assert "cannot be read" in str(status.rules_error)
    put_back(world, text)
    world.write("bob", "llama", spec("llama", replicas=3))
    world.settle()
    assert held_kinds(world) == {ANN: None, BOB: HoldKind.SUSPENDED}
    status = LedgerReader(world.engine).status()
    assert status is not None
    assert status.rules_error is None


def held_kinds(world: GitWorld) -> dict[str, HoldKind | None]:
    return {path: record.held.kind if record.held else None for path, record in world.by_path().items()}


def test_a_damaged_folder_still_stops_the_pass(world: GitWorld) -> None:
    world.write("ann", "qwen", spec("qwen", replicas=2))
    tree = git(world.repository.path, "rev-parse", "main:users/ann")
    cut(loose(world.repository.path, tree))
    with pytest.raises(SourceUnreachable, match=r"damaged.*git fsck"):
        world.loop.reconcile_once()


def test_a_damaged_file_in_a_mirror_is_fetched_anew_and_nobody_hears_of_it(tmp_path: Path) -> None:
    world = GitWorld(tmp_path, url=(tmp_path / "specs.git").as_uri())
    world.write("ann", "qwen", spec("qwen"))
    world.git_source.read(None)
    cut(loose(world.git_source.copy.git.folder, object_id("blob", spec("qwen").encode())))
    world.settle()
    assert world.by_path()[ANN].state is State.RUNNING
    assert EventType.CHANGE_HELD not in {event.event_type for event in world.all_events()}
    world.close()
