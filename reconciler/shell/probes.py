"""A small HTTP server for probes: `GET /healthz` and `/readyz`, JSON, 200 or 503. It runs beside a loop, on threads."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from reconciler.shell.pulse import Health

log = logging.getLogger(__name__)

CLIENTS = 16
"""Connections at a time; further ones are closed. Each is given five seconds."""

Answers = Mapping[str, Callable[[], Health]]


class _Handler(BaseHTTPRequestHandler):
    timeout = 5
    server_version = "argus"
    sys_version = ""
    server: ProbeServer

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path.partition("?")[0])
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, {"status": "not_found", "paths": sorted(self.server.answers)})
            return
        health = answer()
        self._send(HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE, health.facts)

    do_HEAD = do_GET  # noqa: N815  the base class's name

    def _send(self, status: HTTPStatus, facts: Mapping[str, Any]) -> None:
        content = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: a probe comes every few seconds."""


class ProbeServer(ThreadingMixIn, HTTPServer):
    """Answers on `listener` until `stop`."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, answers: Answers) -> None:
        """Answer each path of `answers` with what its function says. Begins at once."""
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.answers = answers
        self._room = threading.BoundedSemaphore(CLIENTS)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.2,), name="probes", daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, or close it where there are too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Say it in the log, not on stderr: a client that went away is no news."""
        log.debug("a probe was not answered", exc_info=True)

    def stop(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()
