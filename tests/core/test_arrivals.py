"""Which models are about to be called RUNNING, and how those are seen that nobody reaches yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.arrivals import Arrival, arrivals, held_back
from reconciler.core.entities import Health, Record, State
from tests.core.values import commit, deployment, record, running, seen, spec, work

KEY = "svc-alice-20260106-123000-qwen"
NEW = work(spec(num_replicas=2))
COMING = record(spec(), state=State.DEPLOYING, applied=NEW, applied_commit=commit("c2"))
ARRIVAL = Arrival(KEY, "alice-202601061230-qwen", NEW.version, "c2")


def test_a_version_that_serve_calls_healthy_for_the_first_time_arrives() -> None:
    assert arrivals({KEY: COMING}, seen(deployment(NEW))) == (ARRIVAL,)


def test_a_model_that_comes_back_after_a_loss_arrives_again() -> None:
    back = replace(COMING, serving=NEW, serving_commit=commit("c2"))
    assert arrivals({KEY: back}, seen(deployment(NEW))) == (ARRIVAL,)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (running(spec()), deployment(work(spec()))),
        (COMING, deployment(NEW, Health.STARTING)),
        (COMING, deployment(NEW, running=1)),
        (COMING, replace(deployment(NEW), version="another")),
        (replace(COMING, state=State.DELETING), deployment(NEW)),
        (replace(COMING, applied=None), deployment(NEW)),
    ],
    ids=["known to run", "starting", "one of two", "another version", "going", "not applied"],
)
def test_nothing_else_arrives(known: Record, found: object) -> None:
    assert arrivals({KEY: known}, seen(found)) == ()  # type: ignore[arg-type]
    assert arrivals({KEY: known}, seen()) == ()


def test_one_that_is_held_back_is_seen_starting_and_nobody_else() -> None:
    other = deployment(replace(NEW, model_key="svc-bob"))
    after = held_back(seen(deployment(NEW), other), {KEY}).deployments
    assert (after[KEY].health, after[KEY].phase, after[KEY].running) == (Health.STARTING, "warming_up", 2)
    assert after["svc-bob"] == other
    everything = seen(deployment(NEW))
    assert held_back(everything, ()) is everything
