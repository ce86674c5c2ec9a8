"""From the output of real Serve replicas into the ledger: of those that run, that fail, and that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.core import log_lines, root_cause
from reconciler.core.entities import App, Health, Workload
from reconciler.core.root_cause import told
from reconciler.shell.ledger import EngineLog, open_ledger
from tests.contracts.ledgers import url_of
from tests.contracts.toy_replica import wait_for
from tests.processes import free_port, running_ray

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

LIMIT_S = 120.0


def workload(name: str) -> Workload:
    return Workload(f"svc-{name}", f"alice-{name}", "alice", datetime.now(UTC), "v1", f"/private/hf/{name}", 1, 1, {})


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from reconciler.settings import ServingSettings
    from reconciler.shell import below, engine_log, load_watch, phases
    from reconciler.shell.serve import ServeRuntime
    from tests.contracts import toy_printer

    with running_ray(tmp_path_factory.mktemp("ray"), gpus=4) as address:
        made = ServeRuntime(
            ServingSettings(port=free_port()),
            lambda: address,
            toy_printer.deploy,
            by_value=(toy_printer, engine_log, log_lines, root_cause, below, load_watch, phases),
            front="haproxy",
        )
        made.connect()
        yield made
        made.close()


def test_every_line_of_every_replica_is_kept_once_whatever_becomes_of_replicas_readers_and_collectors(
    runtime: Any, tmp_path: Path
) -> None:
    import ray
    from ray.experimental import internal_kv

    from reconciler.shell.engine_log import NAMESPACE, PREFIX
    from reconciler.shell.log_collector import LogCollector

    engine = open_ledger(url_of(tmp_path), timeout_s=5)
    kept = EngineLog(engine)
    names = ("fine", "broken", "killed")
    runtime.apply(App({f"svc-{name}": workload(name) for name in names}))

    def texts(name: str) -> list[str]:
        return [line.text for line in kept.tail(f"svc-{name}", 1000)]

    def collected(condition: Callable[[], bool]) -> Callable[[], bool]:
        def ask() -> bool:
            collector.collect()
            return condition()

        return ask

    collector = LogCollector(kept)
    wait_for(collected(lambda: "ready" in texts("fine")), "the log of the one that runs", LIMIT_S)
    wait_for(
        collected(lambda: "last words, without an end" in texts("killed")), "the log of the one that died", LIMIT_S
    )
    wait_for(collected(lambda: "core \ufffd dumped" in texts("broken")), "the log of the one that failed", LIMIT_S)
    assert "starting the engine" in texts("broken")
    assert "(EngineCore pid=1) ValueError: no room for a KV cache" in texts("broken")

    def failed() -> bool:
        seen = runtime.observe().deployments.get("svc-broken")
        return seen is not None and seen.health is Health.FAILED

    wait_for(failed, "Serve gives the broken one up", LIMIT_S)
    message = runtime.observe().deployments["svc-broken"].message
    assert told(message) == "the engine did not start: ValueError: no room for a KV cache"

    # The reader dies, then the collector with all that it knew: nothing is said twice.
    before = texts("fine")
    for reader in collector._readers.values():
        ray.kill(reader)
    another = LogCollector(kept)
    another.collect()
    assert texts("fine") == before
    assert before.count("ready") == 1

    def sources() -> set[str]:
        keys = internal_kv.internal_kv_get_gcs_client().internal_kv_keys(PREFIX, namespace=NAMESPACE, timeout=5)
        return {key.decode().split("/")[1] for key in keys}

    # Those that died are forgotten when they have been silent for a while, in Ray's store and in the ledger.
    collector = another
    wait_for(collected(lambda: sources() == {"svc-fine"}), "dead sources are forgotten", LIMIT_S)
    assert {source.split("/")[0] for source in kept.positions()} == {"svc-fine"}
    assert texts("killed").count("last words, without an end") == texts("killed").count("starting the engine")
    engine.dispose()


def test_a_load_that_hangs_fails_with_what_it_was_doing_and_its_gpu_is_free(runtime: Any) -> None:
    runtime.apply(App({"svc-hangs": workload("hangs")}))

    def failed() -> bool:
        seen = runtime.observe()
        hung = seen.deployments.get("svc-hangs")
        return hung is not None and hung.health is Health.FAILED and seen.cluster.free_gpus == seen.cluster.total_gpus

    wait_for(failed, "Serve gives the one that hangs up", LIMIT_S)
    message = told(runtime.observe().deployments["svc-hangs"].message)
    assert message.startswith("the engine did not start: it hangs: loading weights for ")
    assert message.endswith("without progress; serving.llm.load_timeout_s (0.5 s) is the limit")


def test_a_load_of_what_is_not_wanted_any_more_is_ended_and_its_gpu_is_free(runtime: Any) -> None:
    runtime.apply(App({"svc-unwanted": workload("unwanted")}))

    def loads() -> bool:
        seen = runtime.observe().deployments.get("svc-unwanted")
        return seen is not None and seen.phase == "loading"

    wait_for(loads, "it loads", LIMIT_S)
    runtime.apply(App({}))

    def is_free() -> bool:
        seen = runtime.observe()
        return not seen.deployments and seen.cluster.free_gpus == seen.cluster.total_gpus

    wait_for(is_free, "nothing of it is left", LIMIT_S)  # Serve itself would wait for the load's end, or 600 s
