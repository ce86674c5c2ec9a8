"""`kill -9` of one process after the other, under load."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults.house import LOAD_TIMEOUT_S
from faults.report import Expectation, Harm
from faults.saboteur import BEFORE_APPLY, BEFORE_RECORD, PUBLISHING
from faults.stage import Act, Stage
from tests.e2e.platform import BODIES, HAPROXY, ROUTER, descendants

API_MASTER, API_WORKER = r"gunicorn: master \[argus-api\]", r"gunicorn: worker \[argus-api\]"
RECONCILER = r"-m argus reconciler"
CONTROLLER = r"ray::ServeController"
PROXY, INGRESS = r"ray::ProxyActor", r"ray::ServeReplica:argus_llm_app:argus-ingress"
RAYLET, GCS = r"/raylet/raylet ", r"/gcs_server "

NEXT_S = 3.0
SPARED = Expectation(heal_s=60)
AND_K_STARTS = Expectation(heal_s=90)
"""A process of K's is waited for too: its imports take their time beside two engines."""
API_AWAY = Expectation(heal_s=60, writes_fail=True)
ONE_OF_TWO = Expectation(heal_s=180, harm=Harm.CUT, next_s=NEXT_S)
THE_ONLY_ONE = Expectation(heal_s=180, harm=Harm.CUT, next_s=180)
HEAD_LOST = Expectation(heal_s=300, harm=Harm.CUT, next_s=300)


def killed(pattern: str) -> Callable[[Stage], None]:
    """Kill a process that others stand in for, and see the API take a write and the reconciler make a pass."""

    def run(stage: Stage) -> None:
        stage.kill(pattern)
        stage.until_answering()
        stage.until_written()
        stage.until_passes()
        stage.until_running("a")

    return run


def reconciler_killed(
    switch: str, change: Callable[[Stage], None], is_so: Callable[[Stage], None]
) -> Callable[[Stage], None]:
    """Have the reconciler die at a point of the pass that `change` causes, and see the next one finish it."""

    def run(stage: Stage) -> None:
        before = stage.processes(RECONCILER)
        stage.house.turn_on(switch)
        change(stage)
        stage.wait(lambda: not stage.house.is_on(switch), lambda: f"the reconciler did not come to {switch}")
        stage.until_replaced(RECONCILER, before)
        is_so(stage)

    return run


def replica_killed(engine: bool, hung: bool = False) -> Callable[[Stage], None]:
    """Kill (or stop) one replica of A, or the engine in it; another takes its place, and those beside it stay."""

    def run(stage: Stage) -> None:
        before = stage.replicas("a")
        victims = stage.engines("a") if engine else before
        assert victims, "A has no engine core of its own"
        victim = min(victims)
        replica = next(pid for pid in before if victim == pid or victim in descendants(pid))
        os.kill(victim, signal.SIGSTOP if hung else signal.SIGKILL)
        try:
            stage.wait(
                lambda: replica not in stage.replicas("a") and len(stage.replicas("a")) == len(before),
                lambda: f"replica {replica} is not replaced: {stage.replicas('a')}",
            )
        finally:
            if hung:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGCONT)
        stage.until_answering()
        stage.until_passes()
        stage.until_running("a")
        assert before - {replica} <= stage.replicas("a"), "a replica beside it did not stay"

    return run


def load_hangs(stage: Stage) -> None:
    """Add H, and stop its engine core as soon as there is one: it is ended, and another loads in its place."""
    stage.create("h")
    stage.wait(lambda: bool(stage.engines("h")), lambda: "H has no engine core")
    victim, replica = min(stage.engines("h")), min(stage.replicas("h"))
    os.kill(victim, signal.SIGSTOP)
    stage.wait(lambda: not _runs(victim), lambda: f"the stopped engine core {victim} is still there")
    stage.until_running("h")
    assert replica not in stage.replicas("h"), "the replica whose load hung is still there"
    assert stage.says("h"), "H says nothing"
    stage.delete("h")
    stage.until("h", lambda model: bool(model["state"] == "DELETED"))
    stage.wait(lambda: not stage.replicas("h"), lambda: f"H has replicas: {stage.replicas('h')}")


def head_killed(pattern: str) -> Callable[[Stage], None]:
    """Kill what an embedded Ray cannot live without: all models start again."""

    def run(stage: Stage) -> None:
        before = stage.replicas("a")
        victim = min(stage.processes(pattern), default=None)
        assert victim is not None, f"there is no process {pattern}"
        os.kill(victim, signal.SIGKILL)
        stage.wait(
            lambda: bool(stage.replicas("a")) and not stage.replicas("a") & before,
            lambda: f"A's replicas: {stage.replicas('a')}",
        )
        stage.until_answering()
        stage.until_running("a")
        stage.until_passes()

    return run


def supervisor_killed(stage: Stage) -> None:
    """Kill `argus up` itself, and start it again on the same folder."""
    before = stage.replicas("a")
    kill_supervisor(stage)
    stage.platform.start("--no-demo")
    stage.until_answering()
    stage.until_written()
    stage.until_passes()
    stage.until_running("a")
    assert before == stage.replicas("a"), "A was started again"


def kill_supervisor(stage: Stage) -> None:
    """`kill -9` the process that starts all others."""
    assert stage.platform.process is not None
    stage.platform.process.kill()
    stage.platform.process.wait()


def terminated(stage: Stage) -> None:
    """Stop the whole platform with SIGTERM: streams end whole, status 0, no process is left. Then start it again."""
    assert stage.platform.process is not None
    below = descendants(stage.platform.process.pid) | stage.processes(RAYLET) | stage.replicas("a")
    stage.platform.process.send_signal(signal.SIGTERM)
    try:
        status = stage.platform.process.wait(90)
    except subprocess.TimeoutExpired:
        raise AssertionError("the platform had not stopped after 90 s") from None
    assert status == 0, f"exit status {status}"
    left = {pid for pid in below if _runs(pid)}
    assert not left, f"processes are left: {left}"
    stage.platform.start("--no-demo")
    stage.until_answering()
    stage.until_running("a")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _create_k(stage: Stage) -> None:
    stage.create("k")


def _delete_k(stage: Stage) -> None:
    stage.delete("k")


def _is_starting(stage: Stage) -> None:
    stage.until("k", lambda model: model["state"] in {"DEPLOYING", "RUNNING"})
    stage.wait(lambda: bool(stage.replicas("k")), lambda: "K has no replica")


def _is_gone(stage: Stage) -> None:
    stage.until("k", lambda model: bool(model["state"] == "DELETED"))
    stage.wait(lambda: not stage.replicas("k"), lambda: f"K has replicas: {stage.replicas('k')}")


def _is_published(stage: Stage) -> None:
    """See that fronts know K, though nothing answers for it yet: loading is 503, unknown is 404."""
    body = {"model": stage.names["k"], "prompt": "Hello", "max_tokens": 1}
    stage.wait(
        lambda: stage.platform.post("/v1/completions", **body).status_code in {200, 503}, lambda: "K's name is unknown"
    )
    stage.delete("k")
    _is_gone(stage)


PROCESSES = (
    Act("api-worker", "kill -9 an API worker", killed(API_WORKER), API_AWAY),
    Act("api-master", "kill -9 the API's master", killed(API_MASTER), API_AWAY),
    Act("reconciler", "kill -9 the reconciler", killed(RECONCILER), SPARED),
    Act(
        "before-apply",
        "the reconciler dies between commit and apply (K is created)",
        reconciler_killed(BEFORE_APPLY, _create_k, _is_starting),
        AND_K_STARTS,
    ),
    Act(
        "before-record",
        "the reconciler dies between apply and record (K is deleted)",
        reconciler_killed(BEFORE_RECORD, _delete_k, _is_gone),
        SPARED,
    ),
    Act(
        "publishing",
        "the reconciler dies while it publishes routes (K is created and deleted)",
        reconciler_killed(PUBLISHING, _create_k, _is_published),
        AND_K_STARTS,
        ("haproxy",),
    ),
    Act("router", "kill -9 the router", killed(ROUTER), SPARED, ("haproxy",)),
    Act("bodies", "kill -9 the HAProxy for large bodies", killed(BODIES), SPARED, ("haproxy",)),
    Act(
        "haproxy",
        "kill -9 HAProxy",
        killed(HAPROXY),
        Expectation(heal_s=60, harm=Harm.CUT, next_s=NEXT_S),
        ("haproxy",),
    ),
    Act("controller", "kill -9 Serve's controller", killed(CONTROLLER), SPARED),
    Act(
        "ingress",
        "kill -9 the only ingress replica",
        killed(INGRESS),
        Expectation(heal_s=120, harm=Harm.CUT, next_s=60),
        ("ray",),
    ),
    Act(
        "proxy",
        "kill -9 Serve's HTTP proxy",
        killed(PROXY),
        Expectation(heal_s=120, harm=Harm.CUT, next_s=60),
        ("ray",),
    ),
)

MODELS = (
    Act(
        "load-hangs",
        "H is added, and its engine core hangs while it loads (SIGSTOP)",
        load_hangs,
        # No limit on gaps: A has two engines by now, and three on two cores wait for each other.
        Expectation(heal_s=LOAD_TIMEOUT_S + 240),
    ),
    Act(
        "engine-of-two",
        "kill -9 one of A's two engine cores (as the kernel does when memory is out)",
        replica_killed(engine=True),
        ONE_OF_TWO,
    ),
    Act("replica-of-two", "kill -9 one of A's two replicas", replica_killed(engine=False), ONE_OF_TWO),
    Act(
        "engine-hangs",
        "one of A's two engine cores hangs (SIGSTOP)",
        replica_killed(engine=True, hung=True),
        Expectation(heal_s=240, harm=Harm.CUT, next_s=90),
    ),
)

ALONE = (Act("engine-of-one", "kill -9 A's only engine core", replica_killed(engine=True), THE_ONLY_ONE),)

HEADS = (
    Act(
        "supervisor",
        "kill -9 `argus up`, and start it again",
        supervisor_killed,
        Expectation(heal_s=90, writes_fail=True),
    ),
    Act("raylet", "kill -9 the raylet: all models start again", head_killed(RAYLET), HEAD_LOST),
    Act("gcs", "kill -9 the GCS: all models start again", head_killed(GCS), HEAD_LOST),
    Act(
        "terminated",
        "SIGTERM of the whole platform, and a new start",
        terminated,
        Expectation(heal_s=300, harm=Harm.REFUSED, next_s=300, writes_fail=True),
    ),
)
