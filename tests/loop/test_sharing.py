"""Whatever models share a cluster: updates end, nobody starves, and who runs is left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.entities import App, Health, State, Workload
from reconciler.core.room import surge_peak
from reconciler.testing import MemoryRuntime
from tests.loop.world import World, spec

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))
ASKED = st.lists(SIZES, min_size=1, max_size=8)
LONG = 40


def _workload(version: str, size: tuple[int, int]) -> Workload:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Workload("svc", "m", "alice", at, version, "/private/hf/good", *size, engine_kwargs={})


def _comes_up(runtime: MemoryRuntime, workload: Workload) -> bool:
    runtime.apply(App({"svc": workload}))
    for _ in range(LONG):
        runtime.step()
    return runtime.observe().deployments["svc"].health is Health.HEALTHY


@given(old=SIZES, new=SIZES, spare=st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_a_surge_ends_exactly_where_its_worst_moment_fits(
    old: tuple[int, int], new: tuple[int, int], spare: int
) -> None:
    before, after = _workload("v1", old), _workload("v2", new)
    runtime = MemoryRuntime(before.total_gpus + spare)
    assert _comes_up(runtime, before)
    assert _comes_up(runtime, after) == (surge_peak(before, after) <= runtime.total_gpus)


@given(old=SIZES, new=SIZES)
@settings(max_examples=200, deadline=None)
def test_without_a_surge_as_many_as_before_always_fit_where_both_versions_do(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    before, after = _workload("v1", old), _workload("v2", new)
    runtime = MemoryRuntime(max(before.total_gpus, after.total_gpus))
    assert _comes_up(runtime, before)
    first = replace(after, num_replicas=min(before.num_replicas, after.num_replicas), surge=False)
    assert _comes_up(runtime, first)
    assert _comes_up(runtime, replace(after, surge=False))


@given(asked=ASKED, total=st.integers(4, 16), updated=st.booleans())
@settings(max_examples=60, deadline=None)
def test_everybody_who_fits_gets_a_turn_in_the_end(asked: list[tuple[int, int]], total: int, updated: bool) -> None:
    """Models come one after the other, and the oldest that runs goes: whoever waits has a turn, whatever their size."""
    world = World(total_gpus=total)
    for number, (replicas, gpus) in enumerate(asked):
        world.write("alice", f"m{number}", spec(f"m{number}", replicas=replicas, gpus=gpus))
        world.settle(3)
    waiting = {f"m{number}" for number, (replicas, gpus) in enumerate(asked) if replicas * gpus <= total}
    for _ in range(len(asked) + 1):
        world.settle(8)
        up = [name for name in sorted(waiting) if world.record("alice", name).state is State.RUNNING]
        if not waiting:
            return
        assert up, "nothing runs, and somebody waits"
        if updated:
            replicas, gpus = asked[int(up[0][1:])]
            world.write("alice", up[0], spec(up[0], replicas=replicas, gpus=gpus, seed=1))
            world.settle(LONG)
            record = world.record("alice", up[0])
            assert (record.state, record.serving_commit) == (State.RUNNING, record.commit)
        world.write("alice", up[0], None)
        waiting.discard(up[0])
    assert not waiting


def test_a_big_model_is_not_starved_by_small_ones_that_keep_coming() -> None:
    world = World(total_gpus=4)
    for number in range(4):
        world.write("bob", f"s{number}", spec(f"s{number}"))
    world.settle()
    world.write("alice", "big", spec("big", gpus=4))
    for number in range(4):
        world.write("bob", f"s{number + 4}", spec(f"s{number + 4}"))
        world.write("bob", f"s{number}", None)
        world.settle()
    assert world.record("alice", "big").state is State.RUNNING


@given(asked=ASKED, total=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_who_runs_is_left_alone_whoever_comes(asked: list[tuple[int, int]], total: int) -> None:
    world = World(total_gpus=total)
    world.write("carol", "still", spec("still"))
    world.settle()
    before = world.runtime.pids(world.key("carol", "still"))
    for number, (replicas, gpus) in enumerate(asked):
        world.write("alice", "busy", spec("busy", replicas=replicas, gpus=gpus, seed=number))
        world.write("bob", f"m{number}", spec(f"m{number}", replicas=replicas, gpus=gpus))
        world.settle(4)
        assert world.runtime.pids(world.key("carol", "still")) == before
        assert world.runtime.observe().cluster.free_gpus >= 0
