"""What is drift, and how often it is fought, for every state that Serve may be found in."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.differences import Difference, Kind
from reconciler.core.drift import Course, course
from reconciler.core.entities import App, Deployment, Event, EventType, Health, Observation, Workload
from reconciler.core.plan import differs
from reconciler.core.upkeep import PAUSES, WINDOW, Fight, Upkeep
from tests.core.values import NOW, deployment, identity, later, running, seen, spec, work

WHO = [identity(user) for user in ("alice", "bob", "carl")]
MODELS = [work(spec(num_replicas=2), who) for who in WHO]
ASKED = Upkeep("s", "r", None)

times = st.integers(0, 10**6).map(later)
fights = st.builds(
    Fight,
    st.sampled_from(["", "c1", "c2"]),
    st.lists(times, max_size=3).map(tuple),
    st.integers(0, 9),
    times | st.none(),
)
subjects = st.sampled_from([*(who.model_key for who in WHO), "", "été"])
upkeeps = st.builds(
    Upkeep, st.sampled_from([None, "s", "t"]), st.sampled_from([None, "r", "q"]), times | st.none(),
    st.dictionaries(subjects, fights),
)  # fmt: skip
differences = st.builds(
    Difference, subjects, st.sampled_from(Kind), st.sampled_from([None, 2, "v"]), st.sampled_from([None, 5, "w"])
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    held: list[Deployment] = []
    for each in MODELS:
        version = draw(st.sampled_from([each.version, each.version, "x", None]))
        number = draw(st.integers(0, 3))
        health = draw(st.sampled_from([Health.HEALTHY, Health.STOPPING]))
        if version is not None:
            held.append(replace(deployment(each, health), version=version, target_replicas=number))
    if draw(st.booleans()):
        held.append(replace(deployment(MODELS[0]), model_key="a-stranger"))
    return replace(
        seen(*held),
        app_status=draw(st.sampled_from(["RUNNING", "DEPLOYING", "DELETING", None])),
        root_is_current=draw(st.booleans()),
        root="r",
        session="s",
    )


def decided(
    saw: Observation,
    upkeep: Upkeep,
    at: datetime = NOW,
    planned: list[Workload] = MODELS,
    asked: list[Workload] = MODELS,
) -> Course:
    before = {
        each.model_key: replace(running(spec(), who), applied=each)
        for who, each in zip(WHO, asked, strict=True)
    }  # fmt: skip
    app = App({each.model_key: each for each in planned})
    return course(planned=app, before=before, records=before, seen=saw, upkeep=upkeep, revision="c9", now=at)


@settings(deadline=None)
@given(upkeeps, st.lists(differences, max_size=3).map(tuple))
def test_what_is_remembered_is_the_same_when_it_is_read_again(upkeep: Upkeep, intended: tuple[Difference, ...]) -> None:
    upkeep = replace(upkeep, intended=intended)
    assert Upkeep.from_json(upkeep.to_json()) == upkeep


def test_what_an_earlier_version_wrote_is_read_and_without_intents_written_as_it_did() -> None:
    written = '["s", "r", null, {}]'
    assert Upkeep.from_json(written) == ASKED
    assert ASKED.to_json() == written


@settings(deadline=None)
@given(observations(), observations(), st.booleans())
def test_what_a_pass_was_about_to_put_right_is_told_once_wherever_it_died(
    saw: Observation, then: Observation, applied: bool
) -> None:
    dead = decided(saw, ASKED)
    assert (dead.intent is None) == (dead.events == ())
    if dead.intent is None:
        return
    assert replace(dead.intent, intended=()) == ASKED, "nothing else is remembered of a pass that died"
    right = replace(seen(*map(deployment, MODELS)), root="r", session="s")
    after = decided(right if applied else saw, dead.intent, NOW + timedelta(seconds=5))
    assert sorted(map(told, after.events)) == sorted(map(told, dead.events))
    assert after.upkeep.intended == ()
    assert decided(right, after.upkeep, NOW + timedelta(seconds=10)).events == ()
    # Where that one dies, too, and something else differs by then, all of it is told by the third.
    again = decided(then, dead.intent, NOW + timedelta(seconds=5))
    third = decided(right, again.intent or dead.intent, NOW + timedelta(seconds=10))
    assert set(map(told, third.events)) == set(map(told, (*dead.events, *again.events)))


def told(event: Event) -> str:
    """Give what an event says, but for how often it was so."""
    return json.dumps([event.model_key, {**event.payload, "corrections": None}], sort_keys=True)


@settings(deadline=None)
@given(observations())
def test_whatever_differs_is_put_right_at_once_and_told_once(saw: Observation) -> None:
    done = decided(saw, ASKED)
    planned = App({each.model_key: each for each in MODELS})
    assert (done.app, done.left) == (planned, {})
    assert done.is_due == differs(planned, saw)
    assert {event.event_type for event in done.events} <= {EventType.DRIFT_CORRECTED}
    assert bool(done.events) == done.is_due
    told = [event.payload.get("deployment", event.model_key) for event in done.events]
    assert len(told) == len(set(told))


@settings(deadline=None)
@given(observations(), st.sampled_from([None, "another"]))
def test_a_ray_of_which_nothing_was_asked_has_no_drift(saw: Observation, session: str | None) -> None:
    done = decided(saw, replace(ASKED, session=session))
    assert done.events == ()
    assert done.is_due == differs(App({each.model_key: each for each in MODELS}), saw)
    assert done.upkeep.session == "s", "from now on it has"


@settings(deadline=None)
@given(observations())
def test_a_model_that_changes_in_this_pass_is_never_called_drift(saw: Observation) -> None:
    saw = replace(saw, app_status="RUNNING")
    new = [replace(each, version="new") for each in MODELS]
    done = decided(saw, ASKED, planned=new)
    assert done.is_due
    assert {event.payload["what"] for event in done.events} <= {Kind.UNKNOWN, Kind.ROOT}


@settings(deadline=None)
@given(observations(), upkeeps, times)
def test_what_is_left_is_all_that_is_left_out(saw: Observation, upkeep: Upkeep, at: datetime) -> None:
    done = decided(saw, replace(upkeep, session="s", root="r", asked_at=None), at)
    for each in MODELS:
        asked, left = done.app.workloads.get(each.model_key), done.left.get(each.model_key)
        if asked != each:
            assert left is not None
            assert left.until > at
            held = saw.deployments.get(each.model_key)
            if asked is None:
                assert held is None or held.health is Health.STOPPING
            else:
                assert held is not None
                assert (asked.version, asked.num_replicas) == (held.version, held.target_replicas)
    if not done.left:
        assert done.is_due == differs(done.app, saw)
    assert done.upkeep.asked_at == (at if done.is_due else None)


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=20, max_size=200))
def test_the_same_thing_is_never_fought_more_than_five_times_in_five_minutes_and_every_quarter_hour_in_the_end(
    gaps: list[int],
) -> None:
    """Three at once, then 1 and 2 min apart, then 5 and 15."""
    wrong = replace(seen(*(replace(deployment(each), target_replicas=9) for each in MODELS[:1])), root="r", session="s")
    upkeep, at, corrected = ASKED, NOW, list[datetime]()
    models = MODELS[:1]
    record = {models[0].model_key: running(spec(num_replicas=2), WHO[0])}
    for gap in gaps:
        at += timedelta(seconds=gap)
        done = course(
            planned=App({each.model_key: each for each in models}),
            before=record, records=record, seen=wrong, upkeep=upkeep, revision="c9", now=at,
        )  # fmt: skip
        assert len(done.events) <= 1
        corrected += [event.created_at for event in done.events if event.event_type is EventType.DRIFT_CORRECTED]
        upkeep = done.upkeep
    for number, first in enumerate(corrected):
        assert sum(first <= at <= first + WINDOW for at in corrected[number:]) <= 5
    if max(gaps) * 2 < WINDOW.total_seconds():  # no gap is so long that the fight is over
        late = corrected[3 + len(PAUSES) :]
        assert all(after - before >= PAUSES[-1] for before, after in itertools.pairwise(late))
