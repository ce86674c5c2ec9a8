"""One of several reconcilers works; what the others see of it, and what a paused one may still do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.errors import LedgerUnreachable, NotLeader
from reconciler.shell.leadership import Keeper, Leadership, claim
from reconciler.testing import MemoryLeases
from tests.loop.test_runner import until
from tests.loop.world import World, spec

PATIENCE_S = 10.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases() -> MemoryLeases:
    return MemoryLeases()


@pytest.fixture
def join(clock: Clock, leases: MemoryLeases) -> Callable[[str], Leadership]:
    """Make a further reconciler of that name, which has looked at the lease once."""

    def make(name: str) -> Leadership:
        leadership = Leadership(leases, name, PATIENCE_S, clock)
        leadership.tend()
        return leadership

    return make


Join = Callable[[str], Leadership]


def test_the_first_leads_at_once_and_the_second_waits(join: Join) -> None:
    first, second = join("a"), join("b")
    assert first.is_leading()
    assert not second.is_leading()
    assert second.token is None
    with pytest.raises(NotLeader):
        second.confirm()


def test_a_leader_that_is_gone_is_followed_within_fifteen_seconds(join: Join, clock: Clock) -> None:
    first, second = join("a"), join("b")
    clock.now += 2
    first.tend()
    died_at = clock.now
    while not second.is_leading():
        clock.now += 1
        second.tend()
    assert clock.now - died_at <= 15
    assert second.token == 2


def test_a_leader_that_renews_is_never_followed(join: Join, clock: Clock) -> None:
    first, second = join("a"), join("b")
    for _ in range(100):
        clock.now += 1
        first.tend()
        second.tend()
    assert first.is_leading()
    assert first.token == 1
    assert not second.is_leading()


def test_a_leader_that_cannot_renew_stops_before_anybody_follows(
    join: Join, clock: Clock, leases: MemoryLeases
) -> None:
    first, second = join("a"), join("b")
    while not second.is_leading():
        assert clock.now < 2000
        clock.now += 0.25
        leases.down = True
        with pytest.raises(LedgerUnreachable):
            first.confirm()
        leases.down = False
        stopped = not first.is_leading()
        second.tend()
    assert stopped


def test_a_leader_that_was_paused_finds_out_before_it_acts(join: Join, clock: Clock) -> None:
    first, second = join("a"), join("b")
    clock.now += 60
    second.tend()
    assert second.is_leading()
    with pytest.raises(NotLeader):
        first.confirm()
    assert first.token is None
    second.confirm()


def test_a_leader_that_was_paused_alone_goes_on_with_its_token(join: Join, clock: Clock) -> None:
    first = join("a")
    clock.now += 3600
    assert not first.is_leading()
    first.tend()
    assert first.is_leading()
    assert first.token == 1


def test_a_ledger_that_confirms_too_late_does_not_count(clock: Clock, leases: MemoryLeases, join: Join) -> None:
    first = join("a")
    renew = leases.renew

    def slowly(held: object) -> bool:
        clock.now += 5
        return renew(held)  # type: ignore[arg-type]  # a Lease, handed on

    leases.renew = slowly  # type: ignore[method-assign]  # a ledger that takes its time
    with pytest.raises(LedgerUnreachable, match=r"5\.0 s"):
        first.confirm()


def test_a_process_that_starts_again_takes_its_own_lease_back_at_once(join: Join) -> None:
    join("a")
    again = join("a")
    assert again.is_leading()
    assert again.token == 2


def test_of_two_living_processes_of_one_name_the_later_leads_and_the_earlier_does_not_take_it_back(
    join: Join, clock: Clock
) -> None:
    first, second = join("a"), join("a")
    with pytest.raises(NotLeader):
        first.confirm()
    for _ in range(5):
        clock.now += 2
        second.tend()
        first.tend()
    assert second.is_leading()
    assert not first.is_leading()


def test_a_leader_that_stops_gives_the_lease_back_at_once(join: Join) -> None:
    first, second = join("a"), join("b")
    first.release()
    assert not first.is_leading()
    second.tend()
    assert second.is_leading()


def test_the_keeper_holds_the_lease_through_a_long_pass_and_gives_it_back(leases: MemoryLeases) -> None:
    gained: list[int | None] = []
    leadership = Leadership(leases, "a", 0.5)
    keeper = Keeper(leadership, 0.5, lambda: gained.append(leadership.token))
    keeper.start()
    assert gained == [1]
    until(lambda: leases.lease.renewals >= 5)
    assert leadership.token == leases.lease.token == 1
    keeper.stop()
    assert leases.lease.holder is None


def test_the_state_folder_names_one_living_process_only(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from reconciler.shell.leadership import claim\n"
    program += "print(*claim(Path(sys.argv[1])))"

    def other() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.split()

    before = other()
    mine = claim(tmp_path)
    beside = other()
    assert before == [mine.name, "True"]
    assert mine.has_folder
    assert beside[1] == "False"
    assert beside[0] != mine.name


class TestAPass:
    """A pass under the lease, at the seams where it may be lost."""

    @pytest.fixture
    def world(self, clock: Clock) -> World:
        world = World()
        world.write("alice", "qwen", spec("qwen"))
        leadership = Leadership(world.ledger.leases, "a", PATIENCE_S, clock)
        leadership.tend()
        world.loop.confirm, world.ledger.fence = leadership.confirm, leadership.fence
        return world

    @staticmethod
    def depose(world: World) -> None:
        leases = world.ledger.leases
        assert leases.take(leases.read(), "b", PATIENCE_S) is not None

    def test_a_leader_that_lost_the_lease_while_it_planned_applies_nothing(self, world: World) -> None:
        observe = world.runtime.observe

        def paused() -> object:
            seen = observe()
            self.depose(world)
            return seen

        world.loop.runtime.observe = paused  # type: ignore[method-assign, assignment]  # woken up an hour later
        with pytest.raises(NotLeader):
            world.loop.reconcile_once()
        assert world.runtime.applies == 0
        assert world.ledger.base == 0

    def test_a_leader_that_lost_the_lease_while_it_applied_records_nothing(self, world: World) -> None:
        apply = world.runtime.apply

        def paused(app: object) -> None:
            apply(app)  # type: ignore[arg-type]  # an App, handed on
            self.depose(world)

        world.loop.runtime.apply = paused  # type: ignore[method-assign]  # woken up an hour later
        with pytest.raises(NotLeader):
            world.loop.reconcile_once()
        assert world.ledger.base == 0

    def test_whoever_follows_puts_right_what_a_stale_apply_left(self, world: World) -> None:
        """The window that is left: the lease is lost between the last look at it and Serve's own work."""
        stale: list[object] = []
        world.settle()
        world.write("alice", "llama", spec("llama"))
        apply = world.runtime.apply
        world.loop.runtime.apply = stale.append  # type: ignore[method-assign, assignment]  # still on its way to Serve
        world.loop.reconcile_once()
        self.depose(world)
        follower = Leadership(world.ledger.leases, "b", PATIENCE_S)
        follower.tend()
        world.runtime.apply = apply  # type: ignore[method-assign]  # the class's own again
        world.restart()
        world.loop.confirm, world.ledger.fence = follower.confirm, follower.fence
        world.write("alice", "llama", None)
        world.write("alice", "gemma", spec("gemma"))
        world.settle()
        assert set(world.runtime.app.workloads) == {world.key("alice", "qwen"), world.key("alice", "gemma")}  # type: ignore[union-attr]  # applied above
        apply(stale[0])  # type: ignore[arg-type]  # an App: it arrives at last
        world.settle()
        assert set(world.runtime.app.workloads) == {world.key("alice", "qwen"), world.key("alice", "gemma")}  # type: ignore[union-attr]  # applied above

    def test_one_that_waits_looks_and_changes_nothing(self, world: World) -> None:
        world.loop.look()
        assert world.runtime.applies == 0
        assert world.ledger.base == 0
        assert world.front.names == {}
