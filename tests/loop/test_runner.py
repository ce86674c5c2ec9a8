"""When passes run: every so often, at once when asked, soon again while something is on its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.__main__ import RESTART_ME, Runner
from reconciler.core.entities import State
from reconciler.core.identity import Carried
from reconciler.errors import RuntimeLost
from reconciler.shell.embedded_repo import PUSHED
from reconciler.shell.ledger import SqlLedger, open_ledger
from reconciler.shell.wake import ring
from reconciler.shell.watch import Watch
from reconciler.testing import MemoryLedger
from tests.loop.world import World, spec
from tests.repositories import Repository

NEVER_S = 3600.0
SOON_S = 10.0


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


@contextmanager
def running(world: World, interval_s: float = NEVER_S) -> Iterator[Runner]:
    runner = Runner(world.loop, interval_s)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()


def test_the_first_pass_runs_at_once() -> None:
    world = World()
    with running(world):
        until(lambda: world.runtime.applies == 1)


def test_a_pass_runs_at_once_when_asked() -> None:
    world = World()
    with running(world) as runner:
        until(lambda: world.runtime.applies == 1)
        world.write("alice", "qwen", spec("qwen"))
        runner.ask()
        until(lambda: world.runtime.applies == 2)


def test_a_clock_that_is_put_back_does_not_hold_the_loop_up() -> None:
    world = World()
    with running(world, interval_s=0.2) as runner:
        until(lambda: world.runtime.applies == 1)
        world.write("alice", "qwen", spec("qwen"))

        def put_back() -> bool:
            # What the scheduler makes of it: the next run is as far away as the clock was put back.
            if not runner._asked.is_set():
                runner._job.modify(next_run_time=datetime.now(UTC) + timedelta(hours=1))
            runner.keep_pace()
            return world.runtime.applies == 2

        until(put_back)


def test_what_was_asked_during_a_pass_is_not_forgotten() -> None:
    world = World()
    inside, go_on = threading.Event(), threading.Event()
    read = world.source.read

    def slow_read(since: str | None, carried: Carried | None = None) -> object:
        reading = read(since, carried)
        inside.set()
        assert go_on.wait(SOON_S)
        return reading

    world.loop.source.read = slow_read  # type: ignore[method-assign, assignment]  # a source that takes its time
    with running(world) as runner:
        assert inside.wait(SOON_S)
        world.write("alice", "qwen", spec("qwen"))
        runner.ask()
        go_on.set()
        until(lambda: world.runtime.app is not None and len(world.runtime.app.workloads) == 1)


def test_a_model_on_its_way_is_looked_after_without_being_asked() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    with running(world):
        until(lambda: world.runtime.applies == 1)
        world.runtime.step()
        world.runtime.step()
        until(lambda: world.record("alice", "qwen").state is State.RUNNING)


def test_trouble_is_on_record_and_ends_with_the_next_good_pass() -> None:
    world = World()
    world.source.down = True
    with running(world) as runner:
        until(lambda: world.ledger.status is not None and world.ledger.status.error is not None)
        world.source.down = False
        runner.ask()
        until(lambda: world.ledger.status is not None and world.ledger.status.error is None)
        assert not runner.stopping.is_set()


def test_a_lost_ray_ends_the_process_with_the_status_that_asks_for_another() -> None:
    world = World()

    def lost() -> None:
        raise RuntimeLost("Ray did not answer within 60 s")

    world.loop.runtime.observe = lost  # type: ignore[method-assign, assignment]  # a Ray that is gone for good
    with running(world) as runner:
        until(runner.stopping.is_set)
        assert runner.exit_status == RESTART_ME


def test_a_lost_ledger_ends_the_process_and_asks_for_another(tmp_path: Path) -> None:
    world = World()
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", timeout_s=5)
    world.loop.ledger = SqlLedger(engine)
    with running(world) as runner:
        until(lambda: world.runtime.applies == 1)
        (tmp_path / "ledger.sqlite").unlink()
        runner.ask()
        until(runner.stopping.is_set)
        assert runner.exit_status == RESTART_ME
    engine.dispose()


def test_a_push_and_a_nudge_stir_the_watch_and_nothing_else_does(tmp_path: Path) -> None:
    repository, ledger = Repository(tmp_path / "specs.git"), MemoryLedger()
    repository.commit({"README.md": b"x"})
    watch = Watch(ledger, str(repository.path), "main")
    assert not watch.stirred()
    repository.commit({"users/alice/qwen.yaml": b"x"})
    assert watch.stirred()
    assert not watch.stirred()
    ledger.nudge()
    assert watch.stirred()
    assert not watch.stirred()
    watch.close()


def test_a_push_through_the_hook_stirs_once_and_again_where_the_branch_is_no_file(tmp_path: Path) -> None:
    repository, ledger = Repository(tmp_path / "specs.git"), MemoryLedger()
    repository.commit({"README.md": b"x"})
    watch = Watch(ledger, str(repository.path), "main")
    sha = repository.commit({"users/alice/qwen.yaml": b"x"})
    assert watch.stirred()
    (repository.path / PUSHED).write_text(f"{sha}\n")
    assert not watch.stirred(), "it has looked at this commit already"
    (repository.path / PUSHED).write_text(f"{'1' * 40}\n")
    assert watch.stirred()
    assert not watch.stirred()
    watch.close()


def test_a_push_and_a_nudge_wake_who_waits_for_them(tmp_path: Path) -> None:
    repository, ledger = Repository(tmp_path / "specs.git"), MemoryLedger()
    repository.commit({"README.md": b"x"})
    (tmp_path / "run").mkdir()
    watch = Watch(ledger, str(repository.path), "main", tmp_path)
    ways = (
        lambda: repository.commit({"users/alice/qwen.yaml": b"x"}),
        lambda: (repository.path / PUSHED).write_text("x"),
        lambda: ring(tmp_path),
    )
    for way in ways:
        waits = threading.Thread(target=watch.wait, args=(NEVER_S,), daemon=True)
        waits.start()
        way()
        waits.join(SOON_S)
        assert not waits.is_alive()
        watch.wait(0)  # whatever else came of it
    watch.close()
