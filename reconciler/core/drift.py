"""Drift: what differs in Serve from what was asked of it, although the reconciler has asked for nothing else. Pure.

Somebody deleted or scaled a deployment by hand, put another one into the application, deleted the application. It is
put right in the pass that finds it. Where the same thing has been put right three times in five minutes, somebody or
something works against the reconciler: then it is left as it is found, for a pause that grows, and told. A commit for
the model ends the pause.

What is not drift: a change that this pass makes anyway; a replica that crashed, which Serve replaces by itself; and
everything that went with Ray's head, because nothing was asked of the new one yet (`Upkeep.session`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

from reconciler.core.differences import Difference, Kind
from reconciler.core.entities import (
    PLATFORM,
    App,
    Deployment,
    Event,
    EventType,
    Health,
    Observation,
    Record,
    State,
    Workload,
)
from reconciler.core.plan import differs
from reconciler.core.upkeep import WINDOW, Fight, Upkeep, text_of

SETTLING = timedelta(seconds=3)
"""How long Serve may take to show what it was asked for: its controller takes it up within its next turn, 0.1 s later
where it has time. What differs so soon after an apply is looked at again; it is neither drift nor applied again."""


@dataclass(frozen=True, slots=True)
class Left:
    """A difference that is left as it is found, and until when."""

    difference: Difference
    until: datetime

    @property
    def words(self) -> str:
        """Say it, with what ends it."""
        ends = "a commit for the model puts it right at once" if self.difference.subject else ""
        when = f"left as it is until {text_of(self.until)}, as putting it right did not last; {ends}".rstrip("; ")
        return f"{self.difference.words}; {when}"


@dataclass(frozen=True, slots=True)
class Course:
    """What a pass does about the application: `app` is what Serve is asked for, if it has to be asked (`is_due`).

    `app` is the plan's, but for what is left as it is found. `left` is by subject. `intent` is to be remembered before
    Serve is asked, so that what is put right is told also where the pass dies after that; None where nothing is new.
    """

    app: App
    is_due: bool
    left: Mapping[str, Left]
    events: tuple[Event, ...]
    upkeep: Upkeep
    intent: Upkeep | None


Target: TypeAlias = tuple[str | None, int]


def course(
    *,
    planned: App,
    before: Mapping[str, Record],
    records: Mapping[str, Record],
    seen: Observation,
    upkeep: Upkeep,
    revision: str | None,
    now: datetime,
) -> Course:
    """Compare Serve with what was asked of it and with what is planned, and say what to do.

    Args:
        planned: The application that this pass wants.
        before: The ledger's records when the pass began: they hold what was asked.
        records: The records after the plan, with the newest commits.
        seen: What Serve holds.
        upkeep: What the last pass remembered.
        revision: The branch's tip, for events that are about no model.
        now: The time.
    """
    asked = {key: record.applied for key, record in before.items() if record.applied is not None}
    still = {key for key in asked.keys() | planned.workloads.keys() if _same(asked, planned.workloads, key)}
    found = differences(asked, planned, seen, upkeep)
    is_settling = upkeep.asked_at is not None and timedelta(0) <= now - upkeep.asked_at < SETTLING
    fights = _current(upkeep.fights, records, now)
    left: dict[str, Left] = {}
    begun: set[str] = set()
    counted: list[Difference] = []
    for one in found:
        fight = fights.get(one.subject) or Fight(_commit(records, one.subject))
        if not is_settling and fight.until is None and fight.is_bitter(now):
            fight = fights[one.subject] = fight.paused(now)
            begun.add(one.subject)
        if fight.until is not None and now < fight.until:
            left[one.subject] = Left(one, fight.until)
        if one.subject in left or not is_settling:
            counted.append(one)
    app, stays = _with_what_is_left(planned, left, before, seen)
    is_due = differs(planned, seen, _no_reason(found, left, still, is_settling=is_settling))
    corrected = [one for one in counted if is_due and one.subject not in stays]
    for one in corrected:
        left.pop(one.subject, None)
    # What a pass before this one put right, and died before it could tell.
    corrected = [*(one for one in upkeep.intended if one not in found), *corrected]
    for one in corrected:
        fights[one.subject] = fights.get(one.subject, Fight(_commit(records, one.subject))).put_right(now)
    tell = _Teller(records, revision, now)
    events = [tell.left(each) for subject, each in left.items() if subject in begun]
    events += [tell.corrected(one, fights[one.subject]) for one in corrected]
    kept = Upkeep(
        seen.session,
        seen.root,
        now if is_due else upkeep.asked_at,
        MappingProxyType(fights),
        tuple(one for one in upkeep.intended if one in found and one not in counted),
    )
    intent = replace(upkeep, intended=tuple(dict.fromkeys([*upkeep.intended, *corrected])))
    return Course(app, is_due, MappingProxyType(left), tuple(events), kept, intent if intent != upkeep else None)


def differences(
    asked: Mapping[str, Workload], planned: App, seen: Observation, upkeep: Upkeep
) -> tuple[Difference, ...]:
    """Give what somebody else has changed, in order of the subjects. A model that changes in this pass is left out."""
    if upkeep.session is None or upkeep.session != seen.session:
        return ()
    if seen.app_status in {None, "DELETING"}:
        return (Difference(PLATFORM, Kind.APPLICATION),)
    found = []
    if not seen.root_is_current and upkeep.root == seen.root:
        found.append(Difference(PLATFORM, Kind.ROOT))
    held = {key: each for key, each in seen.deployments.items() if each.health is not Health.STOPPING}
    for key in sorted(asked.keys() | held.keys()):
        if _same(asked, planned.workloads, key) and (one := _difference(key, asked.get(key), held.get(key))):
            found.append(one)
    return tuple(found)


def marked(records: Mapping[str, Record], left: Mapping[str, Left]) -> dict[str, Record]:
    """Give the records with a word for the owners of models that are left as they are found.

    A model that is not there, or of which something unknown is, counts as failed; one of another size goes on.
    """
    after = dict(records)
    for subject, each in left.items():
        if (record := after.get(subject)) is None:
            continue
        down = each.difference.kind in {Kind.GONE, Kind.VERSION}
        state, since = (State.FAILED, None) if down else (record.state, record.since)
        after[subject] = replace(record, error_summary=each.words, state=state, since=since)
    return after


def told(left: Mapping[str, Left]) -> str | None:
    """Say what is left as it is found, for status pages. None where nothing is."""
    lines = [f"{subject}: {each.words}" if subject else each.words for subject, each in sorted(left.items())]
    return "\n".join(lines) or None


def _difference(key: str, asked: Workload | None, held: Deployment | None) -> Difference | None:
    if asked is None:
        return Difference(key, Kind.UNKNOWN, None, held.version) if held is not None else None
    if held is None:
        return Difference(key, Kind.GONE, asked.version)
    if held.version != asked.version:
        return Difference(key, Kind.VERSION, asked.version, held.version)
    if held.target_replicas != asked.num_replicas:
        return Difference(key, Kind.REPLICAS, asked.num_replicas, held.target_replicas)
    return None


def _same(asked: Mapping[str, Workload], planned: Mapping[str, Workload], key: str) -> bool:
    """Say whether a pass asks for the same of a model as the one before."""
    return _target(asked.get(key)) == _target(planned.get(key))


def _target(workload: Workload | None) -> Target | None:
    return (workload.version, workload.num_replicas) if workload is not None else None


def _current(fights: Mapping[str, Fight], records: Mapping[str, Record], now: datetime) -> dict[str, Fight]:
    """Forget what is over, and what a newer commit has ended. A pause that has ended leaves its count."""
    current = {}
    for subject, fight in fights.items():
        if fight.is_over(now) or fight.commit != _commit(records, subject):
            continue
        current[subject] = fight
    return current


def _commit(records: Mapping[str, Record], subject: str) -> str:
    return records[subject].commit.sha if subject in records else ""


def _no_reason(
    found: Iterable[Difference], left: Mapping[str, Left], still: Collection[str], *, is_settling: bool
) -> set[str]:
    """Give the subjects for whose sake alone nothing is applied in this pass."""
    none = {one.subject for one in found if one.subject in left or is_settling}
    if any(one.kind is Kind.APPLICATION and one.subject in none for one in found):
        none |= set(still)  # all that differs of these is that the application is gone
    return none


def _with_what_is_left(
    planned: App, left: Mapping[str, Left], before: Mapping[str, Record], seen: Observation
) -> tuple[App, Collection[str]]:
    """Give the application with what is left in it as it is found, and the subjects for which that can be said.

    An apply is for the whole application. What an unknown version is built from nobody here knows, nor can one ask for
    an application without asking for all of it: these are put right by the next apply that is made for another reason.
    """
    workloads = dict(planned.workloads)
    stays = set()
    for subject, each in left.items():
        if each.difference.kind is Kind.GONE:
            workloads.pop(subject, None)
            stays.add(subject)
        elif each.difference.kind in {Kind.REPLICAS, Kind.VERSION}:
            record, held = before[subject], seen.deployments[subject]
            known = [one for one in (record.applied, record.serving) if one and one.version == held.version]
            if known and held.target_replicas > 0:
                workloads[subject] = replace(known[0], num_replicas=held.target_replicas)
                stays.add(subject)
    return App(workloads), stays


@dataclass(frozen=True, slots=True)
class _Teller:
    """Makes the events of one pass."""

    records: Mapping[str, Record]
    revision: str | None
    now: datetime

    def left(self, left: Left) -> Event:
        return self._event(EventType.DRIFT_LEFT, left.difference, until=text_of(left.until))

    def corrected(self, one: Difference, fight: Fight) -> Event:
        recent = sum(self.now - at <= WINDOW for at in fight.corrected)
        return self._event(EventType.DRIFT_CORRECTED, one, corrections=recent)

    def _event(self, kind: EventType, one: Difference, **more: Any) -> Event:
        record = self.records.get(one.subject)
        payload = {"message": one.words, "what": one.kind.value, "asked": one.asked, "found": one.found, **more}
        if record is None:
            payload |= {"deployment": one.subject} if one.subject else {}
            return Event(kind, PLATFORM, "", self.now, self.revision or "", "", "git", payload)
        commit = record.applied_commit or record.commit
        who = record.identity
        return Event(kind, who.model_key, who.user_id, self.now, commit.sha, commit.author, commit.source, payload)
