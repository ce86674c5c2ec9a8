"""The API's Flask app, put together. Run it under gunicorn (`argus api`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from flask import Flask, Response, g, request

from reconciler.settings import Settings
from reconciler.shell.admin_token import admin_token
from reconciler.shell.ledger import open_ledger
from webapi import auth, commits, hooks, logs, openapi, parts, problems, readiness
from webapi.brakes import brakes
from webapi.docs import docs
from webapi.health import health
from webapi.history import history
from webapi.models import models
from webapi.outbox import outbox
from webapi.parts import Parts
from webapi.planning import plans
from webapi.rollback import rollback
from webapi.status import status
from webapi.suspending import suspending
from webapi.users import users

log = logging.getLogger("webapi")


def create_app(settings: Settings, on_lost_ledger: Callable[[], None] = lambda: None) -> Flask:
    """Make the API as `settings` say. Raises SettingsError, LedgerUnreachable, SourceUnreachable.

    `on_lost_ledger` is called once where the ledger's file is lost: from then on every answer that needs it is 503.
    """
    ledger = open_ledger(settings.ledger_url, settings.ledger.timeout_s, on_lost_ledger)
    return assemble(Parts.from_settings(settings, ledger, admin_token(settings)))


def assemble(platform: Parts) -> Flask:
    """Make the API from parts that exist already."""
    app = openapi.make_app(_version())
    app.config["MAX_CONTENT_LENGTH"] = platform.settings.api.max_body_bytes
    app.url_map.merge_slashes = False  # an address is what it says: `//api/v2/...` is not redirected, but absent
    parts.keep(app, platform)
    readiness.install(app, platform)
    problems.install(app)
    app.before_request(_start_clock)
    auth.install(app)
    logs.install(app, _log_followers(platform.settings))
    commits.install(app, platform.settings.api.threads)
    hooks.install(app, platform)
    app.after_request(_write_log)
    for api in (
        health, users, models, history, rollback, commits.commits, plans, brakes, suspending, hooks.hooks, logs.logs,
        outbox, status,
    ):  # fmt: skip
        app.register_api(api)
    app.register_blueprint(docs)
    return app


def _start_clock() -> None:
    g.began = time.monotonic()


def _write_log(response: Response) -> Response:
    """Write one line a request: the address's template, never the address, a body or a token."""
    rule = request.url_rule.rule if request.url_rule else "-"
    took_ms = (time.monotonic() - g.began) * 1000 if "began" in g else 0.0
    log.info("%s %s %d %.1f ms %s", request.method, rule, response.status_code, took_ms, auth.caller_name())
    return response


def _log_followers(settings: Settings) -> int:
    """Leave half of the threads to requests that end by themselves."""
    return min(settings.api.log_followers, max(1, settings.api.threads // 2))


def _version() -> str:
    try:
        return version("argus-serving")
    except PackageNotFoundError:
        return "0"
