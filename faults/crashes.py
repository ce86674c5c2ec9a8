"""`kill -9` of one process after the other, under load."""

from __future__ import annotations

from collections.abc import Callable

from faults.report import Expectation
from faults.stage import Act, Stage
from tests.e2e.platform import BODIES, HAPROXY, ROUTER

SPARED = Expectation(heal_s=60)
NEXT_S = 3.0


def killed(pattern: str) -> Callable[[Stage], None]:
    """Kill a process that others stand in for at once."""

    def run(stage: Stage) -> None:
        stage.kill(pattern)
        stage.until_answering()
        stage.until_running("a")

    return run


def replica(pattern: str) -> Callable[[Stage], None]:
    """Kill one of two replicas of A, or the engine in it."""

    def run(stage: Stage) -> None:
        before = stage.replicas("a")
        stage.kill(pattern.format(key=stage.keys["a"]))
        stage.platform.until(stage.user, stage.keys["a"], lambda detail: detail["model"]["state"] != "RUNNING")
        stage.until_running("a")
        assert len(before & stage.replicas("a")) == 1, "the other replica did not stay"

    return run


ACTS = (
    Act("api-worker", "kill -9 an API worker", killed(r"gunicorn: worker \[argus-api\]"), SPARED),
    Act("api-master", "kill -9 the API", killed(r"gunicorn: master \[argus-api\]"), SPARED),
    Act("reconciler", "kill -9 the reconciler", killed(r"argus reconciler"), SPARED),
    Act("router", "kill -9 the router", killed(ROUTER), SPARED),
    Act("bodies", "kill -9 the HAProxy for large bodies", killed(BODIES), SPARED),
    Act(
        "haproxy",
        "kill -9 HAProxy",
        killed(HAPROXY),
        Expectation(heal_s=60, spared=False, next_s=NEXT_S),
    ),
    Act("controller", "kill -9 Serve's controller", killed(r"ray::ServeController"), SPARED),
)
