"""The API's process: the Flask app under gunicorn, with threads, as the configuration says."""

from __future__ import annotations

import os
import signal
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from reconciler.settings import Settings

GRACEFUL_TIMEOUT_S = 10
"""How long a request that is being answered may take after SIGTERM, in seconds."""


def options(settings: Settings) -> dict[str, Any]:
    """Give gunicorn's settings."""
    api = settings.api
    host = f"[{api.host}]" if ":" in api.host else api.host
    return {
        "bind": f"{host}:{api.port}",
        "worker_class": "gthread",
        "workers": api.workers,
        "threads": api.threads,
        # With threads this is no limit on a request but on a worker that shows no sign of life.
        "timeout": max(1, round(api.request_timeout_s)),
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        # Longer than clients keep an idle connection: the one that closes first may meet a request on its way.
        "keepalive": 75,
        "worker_tmp_dir": "/dev/shm",  # noqa: S108  the sign of life is a file's time: a busy disk must not delay it
        "control_socket_disable": True,
        "errorlog": "-",
        "accesslog": None,  # the app writes one line a request, without addresses that may hold names
        "proc_name": "argus-api",
        "post_worker_init": _end_followers_with,
    }


def _end_followers_with(worker: Any) -> None:
    """Let no client that follows a log hold up a worker that was told to stop."""
    from webapi.logs import end_when  # noqa: PLC0415  as in `_Gunicorn.load`

    end_when(worker.wsgi, lambda: not worker.alive)


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn with settings from a dictionary, and an app that each worker makes for itself, after the fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        from webapi.app import create_app  # noqa: PLC0415  connections to the database must not cross a fork

        return create_app(self._settings, on_lost_ledger=_end_worker)


def _end_worker() -> None:
    """End this worker when its requests are answered; gunicorn starts another, which opens the ledger afresh."""
    os.kill(os.getpid(), signal.SIGTERM)


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Gives the exit status; gunicorn itself exits where it cannot start."""
    _Gunicorn(settings).run()
    return 0
