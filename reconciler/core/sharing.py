"""How models share the cluster's GPUs: what becomes of those who want more than they hold, one after the other. Pure.

`room` says what there is, `line` who may take it; here that becomes an action for each model, with the words for its
owner: what it needs, what is free, what an update costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from reconciler.core import room
from reconciler.core.actions import Action, Hold, Keep, Scale, Start, Wait
from reconciler.core.desired import Wanted
from reconciler.core.entities import Cluster, Commit, Record, Waiting, Workload
from reconciler.core.estimates import LoadTimes
from reconciler.core.line import Need, Room
from reconciler.spec import UpdateStrategy


@dataclass(frozen=True, slots=True)
class Ask:
    """A model that wants to become `workload`, and may need room for that."""

    workload: Workload
    commit: Commit
    strategy: UpdateStrategy


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is to share, and what is known of loads. Others on the same Ray hold `others_gpus` of the cluster."""

    cluster: Cluster
    others_gpus: float
    load_times: LoadTimes


class Sharing:
    """One plan's line. It is used once: `serve` gives everybody who asks an action."""

    def __init__(
        self,
        wanted: Mapping[str, Wanted],
        records: Mapping[str, Record],
        adopted: Mapping[str, Workload],
        ground: Ground,
    ) -> None:
        """Count what is held. `adopted` are models that run without being on record, as they will be."""
        self._wanted = wanted
        self._records = records
        self._most = ground.cluster.total_gpus
        self._others = ground.others_gpus
        self._load_times = ground.load_times
        self._claims = {key: room.claim(records.get(key)) for key in wanted}
        self._claims |= {key: room.plain_claim(workload) for key, workload in adopted.items()}
        gone = {
            key: room.leaving(record, self._claims[key].peak if key in self._claims else 0)
            for key, record in records.items()
        }
        self._back = sum(map(sum, gone.values()))
        """GPUs on their way back: their replicas end their last streams, for the drain's limit at the most."""
        free = room.free(ground.cluster, self._others, self._claims.values(), self._back)
        self._room = Room(free=free, open=free)
        self._held = Counter(chain(*gone.values(), *(claim.parts for claim in self._claims.values())))

    def serve(self, asks: Mapping[str, Ask]) -> dict[str, Action]:
        """Give everybody who asks what there is for them, in the order in which they asked."""
        return {key: self._answer(key, asks[key]) for key in sorted(asks, key=self._place)}

    def _place(self, key: str) -> tuple[datetime, datetime, str]:
        """Order by when the platform first saw what is wanted: a commit's own time is its author's to choose."""
        committed_at = self._wanted[key].file.commit.committed_at
        record = self._records.get(key)
        return (record.asked_at if record and record.asked_at else committed_at, committed_at, key)

    def _answer(self, key: str, ask: Ask) -> Action:
        record, new = self._records.get(key), ask.workload
        running = room.runs(record)
        if room.too_big(new.total_gpus, self._most):
            why = room.why_too_big(new.num_replicas, new.gpus_per_replica, self._most)
            return Hold(running, ask.commit, why, Waiting(new.total_gpus, int(self._most), None))
        if record is None or running is None:
            return self._first(key, ask, None)
        if running.version == new.version:
            return self._more_replicas(key, ask, record, running)
        if record.deployment is None or record.deployment.running == 0:
            # Nothing answers that would have to be kept up. A load of another version that is under way is given up.
            return self._first(key, ask, running)
        old = record.serving if room.is_changing(record) and record.serving is not None else running
        return self._replace(key, ask, record, running, old)

    def _first(self, key: str, ask: Ask, running: Workload | None) -> Action:
        new = ask.workload
        need = self._need(key, new.total_gpus, new.total_gpus)
        if not self._room.fits(need):
            what = f"needs {room.gpus(new.total_gpus)} ({new.num_replicas} x {new.gpus_per_replica})"
            return self._wait(key, running, need, what, new)
        self._take(key, need, new)
        return Start(replace(new, surge=True), ask.commit, estimate_s=self._load_times.estimate_s(new))

    def _more_replicas(self, key: str, ask: Ask, record: Record, running: Workload) -> Action:
        bigger = ask.workload
        peak = bigger.total_gpus
        if room.is_changing(record) and record.serving is not None and running.surge:
            peak = max(peak, room.surge_peak(record.serving, bigger))
        need = self._need(key, bigger.total_gpus, peak)
        if not self._room.fits(need):
            more = bigger.num_replicas - running.num_replicas
            what = f"needs {room.gpus(need.peak)} more ({more} x {bigger.gpus_per_replica})"
            return self._wait(key, running, need, what, bigger)
        self._take(key, need, bigger)
        if room.is_changing(record) and not running.surge:
            # Serve would start the new ones before an old one goes, and there may be no room for that. 1 x 8 to 2 x 4
            # on 8 GPUs: one of the two takes the place of the old one, and when it answers the other one follows.
            return Keep(running, ask.commit)
        return Scale(bigger, ask.commit)

    def _replace(  # noqa: PLR0911  one return a manner
        self, key: str, ask: Ask, record: Record, running: Workload, old: Workload
    ) -> Action:
        """Put a new version in the place of `old`, which answers. `running` is what Serve was last asked to run."""
        new, left = ask.workload, self._room
        together = room.surge_peak(old, new)
        beside = self._need(key, new.total_gpus, together)
        if ask.strategy != "recreate" and left.fits(beside):
            self._take(key, beside, new)
            return Start(replace(new, surge=True), ask.commit, estimate_s=self._load_times.estimate_s(new))
        what = f"the new version needs {room.gpus(beside.peak)} beside the one that answers"
        if ask.strategy == "surge":
            if room.too_big(together, self._most):
                return self._never_beside(ask, running, old, together)
            return self._wait(key, running, beside, what, new)
        failed = record.failure
        if failed is not None and (failed.version, failed.recreated_for) == (new.version, ask.commit.sha):
            why = "not tried again by itself, as that takes down the version that answers; commit a change to try again"
            return Hold(running, ask.commit, f"{failed.message}\n({why})")
        in_place = self._need(key, new.total_gpus, new.total_gpus)
        if ask.strategy == "auto" and in_place.lasting <= left.open and beside.peak <= left.free + self._back:
            return self._wait(key, running, beside, what, new)  # no downtime, for a wait that ends with the drain
        if not left.fits(in_place):
            return self._wait(key, running, in_place, f"the new version needs {room.gpus(in_place.peak)} more", new)
        self._take(key, in_place, new)
        estimate_s = self._load_times.estimate_s(new)
        first = replace(new, surge=False, num_replicas=min(old.num_replicas, new.num_replicas))  # see _more_replicas
        why = "update_strategy: recreate" if ask.strategy == "recreate" else _no_room_beside(beside, left)
        return Start(first, ask.commit, _downtime(first, estimate_s, why), estimate_s)

    def _never_beside(self, ask: Ask, running: Workload, old: Workload, together: int) -> Hold:
        new, most = ask.workload, int(self._most)
        why = (
            f"no surge can fit: {old.num_replicas} x {old.gpus_per_replica} GPUs of the version that answers beside "
            f"{new.num_replicas} x {new.gpus_per_replica} of the new one are up to {together}, and the whole cluster "
            f"has {most}; set update_strategy: recreate"
        )
        return Hold(running, ask.commit, why, Waiting(together, most, None))

    def _need(self, key: str, lasting: int, peak: int) -> Need:
        """Give what is wanted beyond what is held already."""
        claim = self._claims[key]
        more = max(0, lasting - claim.lasting)
        return Need(lasting=more, peak=max(more, peak - claim.peak))

    def _take(self, key: str, need: Need, workload: Workload) -> None:
        """Go: what was free is now held, by replicas that may go again one day."""
        self._room = self._room.taken(need)
        before = self._claims[key]
        after = room.Claim(before.lasting + need.lasting, before.peak + need.peak, room.plain_claim(workload).replicas)
        self._claims[key] = after
        self._held = self._held - Counter(before.parts) + Counter(after.parts)

    def _wait(self, key: str, running: Workload | None, need: Need, what: str, new: Workload) -> Wait:
        before = self._room
        self._room = before.kept(need, self._held - Counter(self._claims[key].parts))
        kept = before.free - before.open
        estimate_s = self._load_times.estimate_s(new)
        numbers = [
            f"waiting for room: {what}",
            f"{before.free} free",
            f"{self._back} being given back" if self._back else "",
            f"{kept} kept for who came first" if kept else "",
            f"{self._others:g} held by others on this Ray" if self._others else "",
        ]
        reason = f"{', '.join(filter(None, numbers))}; number {self._room.waiting} in line"
        reason += f"; loads in about {estimate_s} s then" if estimate_s else ""
        return Wait(running, reason, Waiting(need.peak, before.free, self._room.waiting), estimate_s)


def _no_room_beside(beside: Need, left: Room) -> str:
    if left.free == 0:
        return "no free GPU"
    return f"the new version needs {room.gpus(beside.peak)} beside the old one, {left.free} free"


def _downtime(first: Workload, estimate_s: int | None, why: str) -> str:
    """Say what a replacement costs. It begins when the old version has ended its last streams."""
    if first.num_replicas > 1:
        each = f", about {estimate_s} s each" if estimate_s else ""
        return f"one of {first.num_replicas} replicas is down at a time{each}: {why}"
    return f"down for about {estimate_s} s: {why}" if estimate_s else f"down while it loads: {why}"
