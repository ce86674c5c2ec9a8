"""The figures that Prometheus reads: written from rows of HAProxy's statistics, read back by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from reconciler.core.routes import Name, Replica, Route, Unavailable, routing_table
from reconciler.front.desk import DeskView
from reconciler.front.metrics import counters, render

NAME = Name('alice-"odd"\\name', "svc-1", "alice", 1, {}, Unavailable("x", "x", 1))
TABLE = routing_table(
    "s", [NAME], [Replica("r1", "svc-1", "v", "127.0.0.1:9"), Replica("r2", "svc-1", "v", "127.0.0.1:8")]
)
(ROUTE,) = TABLE.routes
ROW = {
    **{"pxname": "m0", "svname": "BACKEND", "scur": "3", "qcur": "1", "qtime": "20", "rtime": "5", "act": "2"},
    **{"bin": "1000", "bout": "5000", "hrsp_2xx": "10", "hrsp_4xx": "1", "hrsp_5xx": "", "wretr": "2", "econ": "1"},
}
FRONT = {"pxname": "openai", "svname": "FRONTEND", "scur": "7", "stot": "70"}
DESK = {"pxname": "desk", "svname": "BACKEND", "hrsp_4xx": "4", "hrsp_5xx": "2"}

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _read(text: bytes) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _figures(
    *rows: dict[str, str], baselines: dict[str, dict[str, float]] | None = None, view: DeskView | None = None
) -> Figures:
    slots: dict[str, Route] = {"m0": ROUTE}
    return _read(render(rows, slots, baselines or {}, view or DeskView(TABLE), frontend="openai", desk="desk"))


def _of(figures: Figures, name: str, **labels: str) -> float:
    model = {"model_id": NAME.model_id, "model_key": "svc-1", "owner": "alice"}
    return figures[name, tuple(sorted({**model, **labels}.items()))]


def test_a_models_figures_carry_its_names() -> None:
    figures = _figures(ROW)
    assert _of(figures, "argus_front_requests_total", code="2xx") == 10
    assert _of(figures, "argus_front_requests_total", code="5xx") == 0
    assert _of(figures, "argus_front_response_bytes_total") == 5000
    assert _of(figures, "argus_front_requests_in_flight") == 3
    assert _of(figures, "argus_front_queue_length") == 1
    assert _of(figures, "argus_front_replicas_up") == 2
    assert _of(figures, "argus_front_replicas_known") == 2


def test_times_are_in_seconds() -> None:
    figures = _figures(ROW)
    assert _of(figures, "argus_front_queue_seconds") == 0.02
    assert _of(figures, "argus_front_time_to_first_byte_seconds") == 0.005


def test_a_slots_next_model_starts_from_nothing() -> None:
    figures = _figures(ROW, baselines={"m0": counters(ROW)})
    assert _of(figures, "argus_front_requests_total", code="2xx") == 0
    assert _of(figures, "argus_front_response_bytes_total") == 0


def test_a_haproxy_that_started_anew_never_counts_below_nothing() -> None:
    figures = _figures({**ROW, "bout": "1"}, baselines={"m0": {"bout": 4000.0}})
    assert _of(figures, "argus_front_response_bytes_total") == 0


def test_servers_and_empty_slots_have_no_figures_of_their_own() -> None:
    figures = _figures({**ROW, "svname": "r1"}, {**ROW, "pxname": "m1"})
    assert not [key for key in figures if key[0] == "argus_front_requests_total"]


def test_the_front_as_a_whole_is_told_too() -> None:
    figures = _figures(ROW, FRONT, DESK)
    assert figures["argus_front_up", ()] == 1
    assert figures["argus_front_connections", ()] == 7
    assert figures["argus_front_accepted_connections_total", ()] == 70
    assert figures["argus_front_desk_requests_total", (("code", "4xx"),)] == 4
    assert figures["argus_front_models_known", ()] == 1


def test_what_is_wrong_can_be_alarmed_on() -> None:
    figures = _figures(view=DeskView(None, trouble="locked", full=frozenset({"svc-9"})))
    assert figures["argus_front_up", ()] == 0
    assert figures["argus_front_board_reachable", ()] == 0
    assert figures["argus_front_models_without_slot", ()] == 1
