"""From a commit to what a provider shows: the real loop, ledger and server; and processes that are killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.core.announcements import VERDICT_GIVEN, Audience, StatusRules, Subscription
from reconciler.loop import Reconciler
from reconciler.shell.ledger import Outbox, SqlLedger, VerdictReader, open_ledger
from reconciler.shell.outbox import Courier
from reconciler.shell.outbox.statuses import CommitStatuses
from tests.loop.test_runner import until
from tests.loop.world import BROKEN, RULES, World, spec
from tests.receivers import TOKEN, Answer, Receiver, provider

TOY = Path(__file__).parent / "toy_announcer.py"


@pytest.fixture
def forge() -> Iterator[Receiver]:
    with provider("gitea") as running:
        yield running


def shown(forge: Receiver) -> dict[str, list[str]]:
    """Give what was posted of each commit, in the order in which it came."""
    found: dict[str, list[str]] = {}
    for seen in forge.seen:
        found.setdefault(seen.path.rpartition("/")[2], []).append(seen.body["state"])
    return found


def test_every_commit_shows_pending_and_then_what_became_of_it(tmp_path: Path, forge: Receiver) -> None:
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 5)
    outbox = Outbox(engine)
    world = World()
    world.loop.ledger = SqlLedger(engine, audience=Audience(StatusRules()))
    courier = Courier(outbox, [CommitStatuses("gitea", f"{forge.url}/api/v1", "a/b", "main", token=TOKEN)])
    courier.start()

    def posted() -> None:
        until(lambda: outbox.page(None, 1) == [])

    try:
        good = world.write("alice", "qwen", spec("qwen"))
        world.step()
        posted()
        assert shown(forge) == {good: ["pending"]}
        world.settle()
        bad = world.write("alice", "qwen", "rubbish: [")
        world.settle()
        broken = world.write("alice", "qwen", spec("qwen", BROKEN))
        world.step()
        posted()
        newer = world.write("alice", "qwen", spec("qwen", seed=1))
        world.step()
        posted()
        gone = world.write("alice", "qwen", None)
        world.settle()
        posted()
    finally:
        courier.close()
        engine.dispose()
    assert forge.problems == []
    assert shown(forge)[good] == ["pending", "success"]
    assert shown(forge)[bad] == ["failure"]
    assert shown(forge)[broken] == ["pending", "success"], "it was superseded while it loaded"
    assert {sha: states[-1] for sha, states in shown(forge).items()}[newer] == "success"
    assert shown(forge)[gone][-1] == "success"
    said = [seen.body["description"] for seen in forge.seen if seen.path.endswith(broken)]
    assert said[-1] == f"SUPERSEDED alice/qwen: commit {newer[:12]} took its place"


def test_a_new_ledger_announces_nothing_that_git_notes_told(tmp_path: Path) -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.write("alice", "llama", "rubbish: [")
    world.settle()
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 5)
    audience = Audience(StatusRules(), (Subscription("chat", frozenset({VERDICT_GIVEN})),))
    ledger = SqlLedger(engine, audience=audience)
    loop = Reconciler(
        world.source, world.folders, world.runtime, world.front, ledger, RULES, lambda: world.now, notes=world.notes
    )
    for _ in range(3):
        loop.reconcile_once()
    assert len(VerdictReader(engine).page(None, 9)) == 2
    assert Outbox(engine).page(None, 9) == []
    world.write("alice", "llama", spec("llama"))
    loop.reconcile_once()
    assert [entry.body["state"] for entry in Outbox(engine).page(None, 9)] == ["pending"]
    engine.dispose()


class Toy:
    """A process of `toy_announcer`."""

    def __init__(self, job: str, folder: Path, forge: Receiver) -> None:
        root = str(TOY.parents[2])
        self.popen = subprocess.Popen(
            [sys.executable, str(TOY), job, f"sqlite:///{folder / 'ledger.sqlite'}", forge.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=root,
            env={"PYTHONPATH": root},
        )
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline().strip() in {"recorded", "delivering"}

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@pytest.fixture
def start(tmp_path: Path, forge: Receiver) -> Iterator[Callable[[str], Toy]]:
    with ExitStack() as stack:

        def begin(job: str) -> Toy:
            toy = Toy(job, tmp_path, forge)
            stack.callback(toy.kill)
            return toy

        yield begin


def test_a_process_killed_between_writing_and_sending_loses_nothing(
    start: Callable[[str], Toy], tmp_path: Path, forge: Receiver
) -> None:
    start("record").kill()
    assert forge.seen == []
    forge.script.append(Answer(hang=True))
    sending = start("deliver")
    (cut_off, *_) = forge.wait(1)
    sending.kill()
    start("deliver")
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 5)
    until(lambda: Outbox(engine).page(None, 9) == [])
    engine.dispose()
    assert forge.problems == []
    assert sorted(states[-1] for states in shown(forge).values()) == ["failure", "success"]
    again = [seen for seen in forge.seen if seen.path == cut_off.path]
    assert [seen.raw for seen in again] == [cut_off.raw] * len(again)
    assert len(again) >= 2
