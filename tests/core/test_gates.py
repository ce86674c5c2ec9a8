"""Gates: what is withheld changes nothing, and what passes counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import gates, progress
from reconciler.core.desired import Wanted, Withheld
from reconciler.core.entities import Cluster, Commit, HoldKind, Located, Record, State, Tree
from reconciler.core.gates import Pending
from reconciler.core.plan import Plan, plan
from tests.core.values import DELAYS, NOW, PLATFORM, REFUSED, commit, identity, later, record, running, spec, wanted

TIP = commit("tip")
TREE = Tree("tip", {}, frozenset(), tip=TIP)
SUFFIXES = ("a", "b", "c", "d", "e")
FROZEN = Withheld(HoldKind.FROZEN, "frozen until later")


def changes(
    want: Mapping[str, Wanted], records: Mapping[str, Record], removals: Mapping[str, Commit] | None = None
) -> dict[str, Pending]:
    return gates.pending(want, records, removals or {}, TREE, {})


def hold_all(pending: Mapping[str, Pending]) -> dict[str, Withheld]:
    return dict.fromkeys(pending, FROZEN)


def hold(want: Mapping[str, Wanted], records: Mapping[str, Record]) -> tuple[dict[str, Wanted], dict[str, Record]]:
    after, _ = gates.gated(want, changes(want, records), [hold_all])
    return after, progress.committed(records, after, {}, NOW)


def decide(want: Mapping[str, Wanted], records: Mapping[str, Record]) -> Plan:
    folders = {key: Located("/private/hf/demo") for key in want}
    return plan(wanted=want, folders=folders, records=records, cluster=Cluster(64, 64), now=NOW, platform=PLATFORM)


def test_what_says_the_same_or_is_refused_is_not_pending() -> None:
    known = running(spec())
    key = known.identity.model_key
    assert changes({key: wanted(spec(), by=commit("c2"))}, {key: known}) == {}
    assert changes({key: wanted(REFUSED, by=commit("c2"))}, {key: known}) == {}


def test_a_change_that_is_withheld_leaves_the_model_at_its_commit_and_its_spec() -> None:
    known = running(spec(num_replicas=2))
    key = known.identity.model_key
    want, records = hold({key: wanted(spec(num_replicas=1), by=commit("c2"))}, {key: known})
    held = records[key].held
    assert held is not None
    assert (held.kind, held.commit.sha) == (HoldKind.FROZEN, "c2")
    assert replace(records[key], held=None) == known
    assert decide(want, records) == decide({key: wanted(spec(num_replicas=2))}, {key: known})


def test_a_hold_that_goes_on_keeps_its_time_and_is_told_once() -> None:
    known = running(spec())
    key = known.identity.model_key
    want = {key: wanted(spec(num_replicas=3), by=commit("c2"))}
    after, first = hold(want, {key: known})
    again = progress.committed(first, after, {}, later(60))
    assert again == first
    assert [event.event_type for event in gates.events({key: known}, first, NOW)] == ["CHANGE_HELD"]
    assert gates.events(first, again, NOW) == ()


def test_a_change_that_is_let_pass_counts_and_is_told() -> None:
    known = running(spec())
    key = known.identity.model_key
    want = {key: wanted(spec(num_replicas=3), by=commit("c2"))}
    _, held = hold(want, {key: known})
    let, _ = gates.gated(want, changes(want, held), [])
    freed = progress.committed(held, let, {}, NOW)
    assert (freed[key].held, freed[key].commit.sha, freed[key].spec) == (None, "c2", spec(num_replicas=3))
    assert [event.event_type for event in gates.events(held, freed, NOW)] == ["CHANGE_RELEASED"]


def test_a_new_model_that_is_withheld_waits_and_has_not_failed() -> None:
    new = wanted(spec())
    key = new.file.identity.model_key
    want, records = hold({key: new}, {})
    outcome = progress.decided(records, decide(want, records), NOW, DELAYS).records[key]
    assert (outcome.state, outcome.spec, outcome.applied) == (State.QUEUED, None, None)
    let, _ = gates.gated({key: new}, changes({key: new}, {key: outcome}), [])
    assert progress.committed({key: outcome}, let, {}, NOW)[key].spec == spec()


def test_a_removal_that_is_withheld_keeps_the_model_wanted() -> None:
    known = running(spec())
    key = known.identity.model_key
    after, rest = gates.gated({}, changes({}, {key: known}, {key: commit("gone")}), [hold_all])
    assert rest == {}
    assert (after[key].is_gone, after[key].newer, after[key].file.commit) == (True, commit("gone"), known.commit)
    records = progress.committed({key: known}, after, {key: commit("gone")}, NOW)
    assert set(decide(after, records).app.workloads) == {key}


def test_a_removal_of_an_unknown_commit_is_held_from_the_tip_at_which_it_was_first_seen() -> None:
    known = running(spec())
    key = known.identity.model_key
    first = changes({}, {key: known})
    assert first[key].commit == TIP
    _, records = hold({}, {key: known})
    moved = replace(TREE, revision="later", tip=commit("later"))
    assert gates.pending({}, records, {}, moved, {})[key].commit == TIP


def test_a_model_that_runs_without_a_record_is_taken_over_and_not_held() -> None:
    known = running(spec())
    key = known.identity.model_key
    assert known.deployment is not None
    assert gates.pending({key: wanted(spec())}, {}, {}, TREE, {key: known.deployment}) == {}


def test_a_change_of_what_a_new_ledger_has_recognised_is_pending_although_nothing_was_started_by_it() -> None:
    up = running(spec())
    key = up.identity.model_key
    assert up.deployment is not None
    known = record(spec())
    want = {key: wanted(spec(num_replicas=2), by=commit("c2"))}
    assert gates.pending(want, {key: known}, {}, TREE, {key: up.deployment}).keys() == {key}
    unknown = record(None)
    assert gates.pending(want, {key: unknown}, {}, TREE, {key: up.deployment}) == {}


def test_a_gate_is_not_asked_about_what_another_holds_back() -> None:
    known = running(spec())
    key = known.identity.model_key
    asked: list[str] = []

    def watch(pending: Mapping[str, Pending]) -> dict[str, Withheld]:
        asked.extend(pending)
        return {}

    gates.gated({}, changes({}, {key: known}), [hold_all, watch])
    assert asked == []


@settings(deadline=None)
@given(data=st.data())
def test_a_change_that_is_withheld_never_alters_the_app(data: st.DataObject) -> None:
    says = st.builds(
        lambda replicas, seed: spec("x", num_replicas=replicas, engine_kwargs={"seed": seed}),
        st.integers(1, 3),
        st.integers(0, 2),
    )
    records, as_it_was, want = {}, {}, {}
    for suffix in SUFFIXES:
        who = identity(suffix=suffix)
        before = data.draw(st.none() | says)
        after = data.draw(st.none() | says)
        if before is not None:
            records[who.model_key] = running(before, who) if data.draw(st.booleans()) else record(before, who)
            as_it_was[who.model_key] = wanted(before, who=who)
        if after is not None:
            want[who.model_key] = wanted(after, who=who, by=commit("c2"))
    held, known = hold(want, records)
    assert decide(held, known).app == decide(as_it_was, records).app
