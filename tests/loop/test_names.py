"""Which names the front knows, pass by pass."""

from __future__ import annotations

from tests.loop.world import BROKEN, World, spec


def test_a_name_is_known_from_the_pass_that_saw_its_commit_and_says_how_the_model_is() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.loop.reconcile_once()
    (name,) = world.front.names.values()
    assert (name.owner, name.unavailable.code) == ("alice", "model_loading")
    world.settle()
    (name,) = world.front.names.values()
    record = world.record("alice", "qwen")
    assert record.applied is not None
    assert name.commits == {record.applied.version: record.commit.sha}


def test_a_deleted_models_name_is_gone_before_its_replicas_are() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    world.write("alice", "qwen", None)
    world.loop.reconcile_once()
    assert world.front.names == {}
    assert world.runtime.observe().deployments


def test_what_cannot_run_has_a_name_and_a_reason() -> None:
    world = World(total_gpus=2)
    world.write("alice", "broken", spec("broken", source=BROKEN))
    world.write("bob", "small", spec("small"))
    world.write("bea", "big", spec("big", gpus=2))
    world.write("ben", "huge", spec("huge", gpus=4))
    world.write("carl", "wrong", "model_id: wrong\nnum_replicas: two\n")
    world.settle()
    said = {name.owner: name.unavailable.reason for name in world.front.names.values()}
    assert said == {
        "alice": "failed to start and will be tried again",
        "bob": "has lost its replicas, which are being started again",
        "bea": "is waiting for free GPUs",
        "ben": "needs more GPUs than the cluster has",
        "carl": "is not served: its spec was refused",
    }


def test_during_an_update_both_versions_are_stamped_and_afterwards_a_scale_moves_the_commit() -> None:
    world = World()
    first = world.write("alice", "qwen", spec("qwen"))
    world.settle()
    second = world.write("alice", "qwen", spec("qwen", seed=7))
    world.loop.reconcile_once()
    (name,) = world.front.names.values()
    assert sorted(name.commits.values()) == sorted([first, second])
    world.settle()
    third = world.write("alice", "qwen", spec("qwen", seed=7, replicas=2))
    world.settle()
    (name,) = world.front.names.values()
    assert set(name.commits.values()) == {third}
