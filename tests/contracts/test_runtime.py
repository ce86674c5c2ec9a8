"""The runtime's promises, held by the one in memory and by real Ray Serve.

The deployments on real Ray are toys: the processes are real, and so is everything that Serve does to them. This and
`test_serve_runtime` are the alarm for Ray's private names (`shell.serve`, `shell.replicas`): a Ray that changes them
fails here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.entities import Health
from reconciler.core.room import surge_peak
from tests.contracts.runtime_rigs import LONGEST_S, MemoryRig, Rig, app, gone, is_at, is_up, until, workload


@pytest.fixture(params=["memory", pytest.param("serve", marks=[pytest.mark.engine, pytest.mark.timeout(600)])])
def rig(request: pytest.FixtureRequest) -> Rig:
    return MemoryRig() if request.param == "memory" else request.getfixturevalue("serve_rig")


def test_no_model_at_all_is_a_valid_application(rig: Rig) -> None:
    rig.runtime.apply(app())
    seen = until(rig, lambda seen: seen.app_status == "RUNNING" and not seen.deployments)
    assert seen.root_is_current
    assert seen.cluster.total_gpus == 8


def test_what_was_applied_can_be_observed(rig: Rig) -> None:
    a = workload("alice", replicas=2)
    rig.runtime.apply(app(a))
    seen = until(rig, is_up(a))
    found = seen.deployments[a.model_key]
    assert (found.version, found.target_replicas, found.running) == ("v1", 2, 2)
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_nothing_that_happens_to_one_model_touches_another(rig: Rig) -> None:
    a, b = workload("alice"), workload("bob")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes = rig.pids(a.model_key)
    assert len(processes) == 1

    def untouched() -> bool:
        return rig.pids(a.model_key) == processes

    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    assert untouched(), "adding a model touched another"
    first = rig.pids(b.model_key)

    two = workload("bob", replicas=2)
    rig.runtime.apply(app(a, two))
    until(rig, is_up(two))
    assert untouched(), "scaling a model touched another"
    assert first < rig.pids(b.model_key), "scaling a model replaced its own replicas"

    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    updated = workload("bob", version="v2")
    rig.runtime.apply(app(a, updated))
    until(rig, is_up(updated))
    assert untouched(), "updating a model touched another"
    second = rig.pids(b.model_key)
    assert not second & first

    broken = workload("bob", version="v3", source="broken")
    rig.runtime.apply(app(a, broken))
    seen = until(rig, lambda seen: seen.deployments[b.model_key].health is Health.FAILED)
    assert "the engine found no weights in its folder" in seen.deployments[b.model_key].message
    assert untouched(), "a model that breaks touched another"
    assert rig.pids(b.model_key) == second, "a broken update took the replica that answers"

    rig.runtime.apply(app(a, updated))
    until(rig, is_up(updated))
    assert rig.pids(b.model_key) == second, "going back to what runs started it anew"

    rig.runtime.apply(app(a))
    until(rig, gone(b))
    assert untouched(), "removing a model touched another"


def test_applying_again_changes_nothing(rig: Rig) -> None:
    a = workload("alice")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    assert rig.pids(a.model_key) == processes


def test_who_begins_anew_observes_what_was_asked_of_each_model_and_not_what_still_answers(rig: Rig) -> None:
    """What a new ledger recognises models by (`core.recognition`): the key, the version, the number of replicas."""
    a, b = workload("alice", version="n1", replicas=2), workload("bob", version="n1")
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    until(rig, is_up(b))
    never = workload("bob", version="n2", source="endless")
    rig.runtime.apply(app(a, never))
    rig.begin_anew()
    seen = until(rig, lambda seen: is_at(never, seen) == "loading").deployments
    assert seen.keys() == {a.model_key, b.model_key}
    found, loads = seen[a.model_key], seen[b.model_key]
    assert (found.version, found.target_replicas, found.health) == ("n1", 2, Health.HEALTHY)
    assert (loads.version, loads.target_replicas, loads.health) == ("n2", 1, Health.STARTING)
    assert loads.running == 1, "the old version answers still"
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    assert rig.pids(a.model_key) == processes
    rig.runtime.apply(app())
    until(rig, gone(a))
    until(rig, gone(b))


def test_what_somebody_else_does_to_the_application_is_observed_and_can_be_put_right(rig: Rig) -> None:
    a, b = workload("alice", version="t1"), workload("bob", version="t1")
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    before = until(rig, is_up(b))
    processes = rig.pids(a.model_key)
    rig.tamper(replace(a, num_replicas=2), workload("eve", version="t1"))  # one scaled, one deleted, one from nowhere
    seen = until(rig, lambda seen: seen.deployments[a.model_key].target_replicas == 2)
    living = {key for key, each in seen.deployments.items() if each.health is not Health.STOPPING}
    assert living == {a.model_key, workload("eve").model_key}
    assert seen.root_is_current
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    until(rig, is_up(b))
    assert rig.pids(a.model_key) & processes

    rig.delete_app()
    seen = until(rig, lambda seen: seen.app_status in {None, "DELETING"})
    assert all(each.health is Health.STOPPING for each in seen.deployments.values())
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    after = until(rig, is_up(b))
    assert (after.session, after.root) == (before.session, before.root), "Ray's head is the same"
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_a_model_that_starts_says_how_far_it_is(rig: Rig) -> None:
    never, then = workload("alice", version="p1", source="endless"), workload("alice", version="p2")
    rig.runtime.apply(app(never))
    until(rig, lambda seen: is_at(never, seen) == "loading")
    rig.runtime.apply(app(then))
    until(rig, is_up(then))
    assert rig.runtime.observe().deployments[then.model_key].phase is None


def test_without_surge_the_old_version_goes_first(rig: Rig) -> None:
    a = workload("alice")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    before = rig.pids(a.model_key)
    changed = workload("alice", version="v9", surge=False)
    rig.runtime.apply(app(changed))
    until(rig, is_up(changed))
    after = rig.pids(a.model_key)
    assert len(after) == 1
    assert not after & before


def test_a_replica_without_room_waits_until_there_is_some(rig: Rig) -> None:
    a, b = workload("alice", gpus=8), workload("bob")
    rig.runtime.apply(app())
    until(rig, gone(a))
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    rig.runtime.apply(app(a, b))
    seen = until(rig, lambda seen: b.model_key in seen.deployments and seen.deployments[b.model_key].starting == 1)
    assert (seen.deployments[b.model_key].running, seen.cluster.free_gpus) == (0, 0)
    rig.runtime.apply(app(b))
    until(rig, is_up(b))
    rig.runtime.apply(app())
    until(rig, gone(b))


def test_a_model_that_goes_while_it_waits_for_room_is_gone_at_once(rig: Rig) -> None:
    """Serve would wait for the leave of a replica that has no process, for as long as others may drain."""
    a, wide = workload("alice"), workload("bob", gpus=9)  # of 8
    rig.runtime.apply(app(a, wide))
    until(rig, is_up(a))
    until(rig, lambda seen: seen.deployments[wide.model_key].starting == 1)
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a))
    until(rig, gone(wide), LONGEST_S / 4)
    assert rig.pids(a.model_key) == processes
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_a_surge_that_fits_at_its_worst_moment_is_completed(rig: Rig) -> None:
    """2 x 1 to 2 x 3: at the end the second new replica stands beside the last old one, 7 of 8 GPUs."""
    old, new = workload("alice", replicas=2), workload("alice", version="v2", replicas=2, gpus=3)
    assert surge_peak(old, new) == 7
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    rig.runtime.apply(app(new))
    until(rig, is_up(new))
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_surge_that_does_not_fit_at_its_worst_moment_stands_still(rig: Rig) -> None:
    """2 x 1 to 2 x 4: there the second new replica would make it 9 of 8, and no old one goes before it runs."""
    old, new = workload("alice", replicas=2), workload("alice", version="v2", replicas=2, gpus=4)
    assert surge_peak(old, new) == 9
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    first = rig.pids(old.model_key)

    def stands_still() -> bool:
        seen = rig.runtime.observe().deployments[old.model_key]
        return (seen.running, seen.starting, seen.stopping) == (2, 1, 0) and len(rig.pids(old.model_key) & first) == 1

    rig.runtime.apply(app(new))
    until(rig, lambda _seen: stands_still())
    for _ in range(5):
        rig.pause()
        assert stands_still()
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_rollout_without_surge_starts_what_is_missing_before_an_old_replica_goes(rig: Rig) -> None:
    """1 x 8 to 2 x 4 on 8 GPUs would never begin; with as many new replicas as there are old ones it does."""
    old, new = workload("alice", gpus=8), workload("alice", version="v2", replicas=2, gpus=4, surge=False)
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    before = rig.pids(old.model_key)
    rig.runtime.apply(app(new))
    until(rig, lambda seen: seen.deployments[old.model_key].starting == 1)
    for _ in range(5):
        rig.pause()
        assert rig.pids(old.model_key) == before
    first = replace(new, num_replicas=1)
    rig.runtime.apply(app(first))
    until(rig, is_up(first))
    rig.runtime.apply(app(new))
    until(rig, is_up(new))
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_newer_version_takes_over_from_one_that_waits_for_room(rig: Rig) -> None:
    old = workload("alice", gpus=6)
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    before = rig.pids(old.model_key)
    rig.runtime.apply(app(workload("alice", version="v2", gpus=6)))
    until(rig, lambda seen: seen.deployments[old.model_key].starting == 1)
    newer = workload("alice", version="v3", gpus=2)
    assert rig.pids(old.model_key) == before
    rig.runtime.apply(app(newer))
    until(rig, is_up(newer))
    rig.runtime.apply(app())
    until(rig, gone(newer))
