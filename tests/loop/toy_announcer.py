"""A reconciler that announces, as a program: on a real ledger, under a real lease, with a cluster in memory.

python toy_announcer.py record URL FORGE     runs passes over a good commit and a bad one, and says `recorded`
python toy_announcer.py deliver URL FORGE    runs the courier, until SIGTERM
"""

from __future__ import annotations

import signal
import sys
import threading

from reconciler.core.announcements import Audience, StatusRules
from reconciler.shell.leadership import Keeper, Leadership
from reconciler.shell.ledger import Outbox, SqlLeases, SqlLedger, open_ledger
from reconciler.shell.outbox import Courier
from reconciler.shell.outbox.statuses import CommitStatuses
from tests.loop.world import World, spec
from tests.receivers import TOKEN

PATIENCE_S = 5.0
TIMEOUT_S = 0.3


def main() -> None:
    job, url, forge = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = open_ledger(url, 10)
    leadership = Leadership(SqlLeases(engine), "a", PATIENCE_S)
    keeper = Keeper(leadership, PATIENCE_S, lambda: None)
    keeper.start()
    if job == "record":
        world = World()
        world.loop.ledger = SqlLedger(engine, leadership.fence, Audience(StatusRules()))
        world.write("alice", "good", spec("good"))
        world.write("alice", "bad", "rubbish: [")
        world.settle()
        print("recorded", flush=True)
    else:
        statuses = CommitStatuses("gitea", f"{forge}/api/v1", "team/specs", "main", token=TOKEN)
        courier = Courier(
            Outbox(engine, leadership.fence), [statuses], is_wanted=leadership.is_leading, timeout_s=TIMEOUT_S
        )
        courier.start()
        print("delivering", flush=True)
    stop.wait()
    keeper.stop()


if __name__ == "__main__":
    main()
