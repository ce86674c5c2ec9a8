"""GPUs in numbers: what each model may hold at most, what is on its way back, what others hold, what is free.

Counted for the cluster as a whole, not by node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reconciler.core.entities import Cluster, Deployment, Record, Workload


@dataclass(frozen=True, slots=True)
class Claim:
    """What one model may hold: `lasting` for good, `peak` while one of its versions replaces another.

    `replicas` are the GPUs of each of its replicas.
    """

    lasting: int
    peak: int
    replicas: tuple[int, ...]

    @property
    def parts(self) -> tuple[int, ...]:
        """What may be given back on its own: a replica, and what is only held for a while."""
        return (*self.replicas, self.peak - self.lasting) if self.peak > self.lasting else self.replicas


def surge_peak(old: Workload, new: Workload) -> int:
    """Say how many GPUs both versions hold together at most while `new` replaces `old` with a surge.

    Serve stops an old replica whenever one more than the wanted number runs. 2 x 1 to 2 x 1: one new beside two old,
    then another for the first that went: 3 are enough. 2 x 1 to 2 x 4: at first 4 + 2, and in the end the second new
    one beside the last old one, 8 + 1 = 9: on 8 GPUs it would wait for ever. 1 x 1 to 4 x 1: the old one stays until
    all four run, 5. With o old replicas and n new ones, m the smaller of the two numbers and k old ones gone, it is
    (n - m + 1 + k) x new + (m - k) x old, which is greatest at one of its two ends.
    """
    met = min(old.num_replicas, new.num_replicas)
    first = (new.num_replicas - met + 1) * new.gpus_per_replica + met * old.gpus_per_replica
    last = new.num_replicas * new.gpus_per_replica + old.gpus_per_replica
    return max(first, last, old.total_gpus)


def is_changing(record: Record) -> bool:
    """Say whether a version that was started has not answered yet, and another one did before."""
    applied, serving = record.applied, record.serving
    return applied is not None and serving is not None and applied.version != serving.version


def runs(record: Record | None) -> Workload | None:
    """Give what runs of a model, or is on its way. After a failure that is the version which it goes back to."""
    if record is None:
        return None
    return record.applied if record.applied is not None else record.serving


def claim(record: Record | None) -> Claim:
    """Say what a model that is wanted may hold.

    An update that shrinks a model holds the old version's share until the new one answers: it may have to go back.
    """
    held = runs(record)
    if record is None or held is None:
        return Claim(0, 0, ())
    if not is_changing(record) or record.serving is None:
        return plain_claim(held)
    larger = max(held, record.serving, key=lambda workload: workload.total_gpus)
    peak = max(larger.total_gpus, surge_peak(record.serving, held) if held.surge else 0)
    return replace(plain_claim(larger), peak=peak)


def plain_claim(workload: Workload) -> Claim:
    """Say what a model may hold that changes nothing."""
    return Claim(workload.total_gpus, workload.total_gpus, (workload.gpus_per_replica,) * workload.num_replicas)


def leaving(record: Record, claimed: int) -> tuple[int, ...]:
    """Give the GPUs of each replica that is on its way out: what a model is seen to hold beyond what it claims.

    2 x 1 that were replaced a moment ago: claimed 2, seen 2 that run and 2 that end their streams: (1, 1) come back.
    """
    seen, sizes = record.deployment, _sizes(record)
    if seen is None or not sizes:
        return ()
    beyond = (seen.running + seen.starting + seen.stopping) * max(sizes) - claimed
    return (max(sizes),) * math.ceil(max(0, beyond) / max(sizes))


def others(cluster: Cluster, records: Iterable[Record], before: float | None) -> float:
    """Say how many GPUs are held by others on the same Ray: used, less what our replicas hold.

    What ours hold is not seen exactly: a replica that runs or stops holds its GPUs, one that starts may have got them
    or not. So there is a range, and what was known before (None: nothing) is moved into it. Of 8 GPUs others hold 4,
    and a model of 4 starts. While it is pending, 4 are used and ours are 0 to 4 of them, so others hold 0 to 4: still
    4, and nothing else is started. When it has got them, 8 are used and others hold 4 to 8: still 4. When others take 2
    of a larger cluster meanwhile, they hold 6 to 10: 6. Where nothing is known (the process is new) the least counts:
    loads take minutes, being pending seconds.
    """
    used = cluster.total_gpus - cluster.free_gpus
    least, most = used, used
    for record in records:
        seen, sizes = record.deployment, _sizes(record)
        if seen is not None and sizes:
            least -= (seen.running + seen.starting + seen.stopping) * max(sizes)
            most -= (seen.running + seen.stopping) * min(sizes)
    least, most = max(0.0, least), max(0.0, most)
    return least if before is None else min(max(before, least), most)


def free(cluster: Cluster, others_gpus: float, claims: Iterable[Claim], back: int) -> int:
    """Say how many GPUs nobody holds, and nobody who was started is still to get. `back` are on their way back."""
    return max(0, math.floor(cluster.total_gpus - others_gpus) - sum(each.peak for each in claims) - back)


def unrecorded(record: Record | None, seen: Deployment | None) -> bool:
    """Say whether Serve holds a model of which nothing is on record: the ledger was lost, or a write of it was."""
    if seen is None or not (seen.running or seen.starting) or seen.version is None:
        return False
    return record is None or (record.applied is None and record.serving is None and record.failure is None)


def too_big(total_gpus: int, most: float) -> bool:
    """Say that a model can never fit. A cluster without any GPU is one whose nodes have not joined yet: it may grow."""
    return 0 < most < total_gpus


def why_too_big(num_replicas: int, gpus_per_replica: int, most: float) -> str:
    """Say so in words for the model's owner."""
    return (
        f"needs {gpus(num_replicas * gpus_per_replica)} ({num_replicas} x {gpus_per_replica}), and the whole cluster "
        f"has {math.floor(most)}; num_replicas x gpus_per_replica must not be more"
    )


def gpus(number: int) -> str:
    """Write a number of GPUs."""
    return f"{number} GPU{'s' * (number != 1)}"


def _sizes(record: Record) -> list[int]:
    """Give the GPUs that one replica may have, of any version that may be seen."""
    sizes = [each.gpus_per_replica for each in (record.applied, record.serving) if each is not None]
    if not sizes and record.spec is not None:
        sizes = [record.spec.gpus_per_replica]
    return sizes
