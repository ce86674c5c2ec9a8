"""The front's figures for Prometheus: HAProxy's counters by model, and what the router knows itself.

A slot's counters go on when it is given to another model, so each model's figures count from where the slot stood when
the model got it (its baseline). When HAProxy starts anew they start at nought, which Prometheus knows as a reset.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler.core.answers import refuse
from reconciler.core.routes import Route
from reconciler.front.asgi import Receive, Scope, Send, send_answer
from reconciler.front.desk import DeskView

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

COUNTED = (
    ("bin", "argus_front_request_bytes", "Bytes of requests, with their headers."),
    ("bout", "argus_front_response_bytes", "Bytes of answers, with their headers."),
    ("wretr", "argus_front_retries", "Further attempts at the same or another replica."),
    ("wredis", "argus_front_redispatches", "Requests given to another replica than the first."),
    ("econ", "argus_front_connection_errors", "Connections that no replica took."),
    ("eresp", "argus_front_response_errors", "Answers that broke off or never began."),
)
"""What is counted of a backend besides its answers: HAProxy's name of it, ours, and what it is."""

_LABELS = ("model_id", "model_key", "owner")
_WINDOW = 1024
"""HAProxy's averages are of about the last so many requests of a server."""

Row = Mapping[str, str]


def counters(row: Row) -> dict[str, float]:
    """Give the counters of a backend as they stand, to count from there later."""
    return {name: _number(row, name) for name in (*(f"hrsp_{code}" for code in CLASSES), *(c[0] for c in COUNTED))}


def render(
    rows: Iterable[Row],
    slots: Mapping[str, Route],
    baselines: Mapping[str, Mapping[str, float]],
    view: DeskView,
    *,
    frontend: str,
    desk: str,
) -> bytes:
    """Give all figures as text.

    Args:
        rows: HAProxy's `show stat`, by its names of columns. None of them: HAProxy does not answer.
        slots: Whose each slot is, by its backend's name.
        baselines: What to count from, by the same names.
        view: What the router knows.
        frontend: The frontend that clients come to.
        desk: The desk's backend.
    """
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row["pxname"]].append(row)
    metrics = [*_front(by_name, view, frontend, desk), *_models(by_name, slots, baselines, view)]
    return generate_latest(_Collected(metrics))


class MetricsApp:
    """An ASGI app that shows the figures at /metrics."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        """`text` is called at each scrape, on a thread of its own."""
        self._text = text

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["path"] != "/metrics":
            await send_answer(send, scope["method"], refuse(404, "the figures are at /metrics", "not_found"))
            return
        content = await asyncio.to_thread(self._text)
        headers = [
            (b"content-type", CONTENT_TYPE_LATEST.encode()),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _front(rows: Mapping[str, list[Row]], view: DeskView, frontend: str, desk: str) -> Iterator[Metric]:
    yield _gauge("up", "1 while HAProxy answers the router.", bool(rows))
    yield _gauge("board_reachable", "1 while the board can be read.", view.trouble is None)
    if view.read_at is not None:
        yield _gauge("table_age_seconds", "Since the board was read well.", time.monotonic() - view.read_at)
    yield _gauge("models_known", "Models in the table.", len(view.table.routes) if view.table else 0)
    yield _gauge("models_without_slot", "Models that could answer and have no slot.", len(view.full))
    for row in _only(rows, frontend, "FRONTEND"):
        yield _gauge("connections", "Clients' connections now.", _number(row, "scur"))
        yield CounterMetricFamily(
            "argus_front_accepted_connections", "Clients' connections so far.", value=_number(row, "stot")
        )
    for row in _only(rows, desk, "BACKEND"):
        answered = CounterMetricFamily("argus_front_desk_requests", "What the desk answered.", labels=("code",))
        for code in CLASSES:
            answered.add_metric((code,), _number(row, f"hrsp_{code}"))
        yield answered


def _models(
    rows: Mapping[str, list[Row]],
    slots: Mapping[str, Route],
    baselines: Mapping[str, Mapping[str, float]],
    view: DeskView,
) -> Iterator[Metric]:
    known = [(route, row, name) for name, route in slots.items() for row in _only(rows, name, "BACKEND")]
    for name, about, of in _GAUGES:
        gauge = GaugeMetricFamily(f"argus_front_{name}", about, labels=_LABELS)
        for route, row, slot in known:
            gauge.add_metric(_labels(route), of(row, _servers(rows[slot], route)))
        yield gauge
    replicas = GaugeMetricFamily("argus_front_replicas_known", "Replicas that the table knows.", labels=_LABELS)
    for route in view.table.routes if view.table else ():
        replicas.add_metric(_labels(route), len(route.targets))
    yield replicas
    requests = CounterMetricFamily("argus_front_requests", "Requests that were answered.", labels=(*_LABELS, "code"))
    counted = [(route, _since(counters(row), baselines.get(slot, {}))) for route, row, slot in known]
    for route, figures in counted:
        for code in CLASSES:
            requests.add_metric((*_labels(route), code), figures[f"hrsp_{code}"])
    yield requests
    for column, name, about in COUNTED:
        counter = CounterMetricFamily(name, about, labels=_LABELS)
        for route, figures in counted:
            counter.add_metric(_labels(route), figures[column])
        yield counter


_GAUGES: tuple[tuple[str, str, Callable[[Row, list[Row]], float]], ...] = (
    ("requests_in_flight", "Requests at replicas and before them.", lambda row, _: _number(row, "scur")),
    (
        "queue_length",
        "Requests that wait for a replica.",
        lambda row, servers: _number(row, "qcur") + sum(_number(server, "qcur") for server in servers),
    ),
    ("replicas_up", "Replicas that take requests, as HAProxy sees them.", lambda row, _: _number(row, "act")),
    (
        "queue_seconds",
        "Average wait for a replica, over about the last 1024 requests of each.",
        lambda row, servers: _average("qtime", row, servers) / 1000,
    ),
    (
        "time_to_first_byte_seconds",
        "Average time to the head of a replica's answer, over about the last 1024 requests of each.",
        lambda row, servers: _average("rtime", row, servers) / 1000,
    ),
)


def _average(column: str, row: Row, servers: list[Row]) -> float:
    """Take the average over the model's own servers: the slot's would remember the model before."""
    weights = [min(_number(server, "stot"), _WINDOW) for server in servers]
    if not servers:
        return _number(row, column)
    total = sum(weight * _number(server, column) for weight, server in zip(weights, servers, strict=True))
    return total / (sum(weights) or 1)


def _servers(rows: list[Row], route: Route) -> list[Row]:
    own = {target.name for target in route.targets}
    return [row for row in rows if row["svname"] in own]


def _only(rows: Mapping[str, list[Row]], proxy: str, kind: str) -> list[Row]:
    return [row for row in rows.get(proxy, ()) if row["svname"] == kind]


def _since(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Count from a baseline; never below nought, whatever became of HAProxy."""
    return {name: max(0.0, value - before.get(name, 0.0)) for name, value in now.items()}


def _labels(route: Route) -> tuple[str, ...]:
    return (route.model_id, route.model_key, route.owner)


def _number(row: Row, column: str) -> float:
    return float(row.get(column) or 0)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"argus_front_{name}", about, value=float(value))
