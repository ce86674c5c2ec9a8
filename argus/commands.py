"""How the platform's own processes are started: the command, and an environment that holds no more than it needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from argus import ray_head
from argus.supervisor import Command
from reconciler.front import config as haproxy
from reconciler.settings import SPEC_REPO_TOKEN, STATUS_TOKEN, Settings
from reconciler.shell.admin_token import VARIABLE

API, RECONCILER, BUILD, ROUTER = "api", "reconciler", "demo-model", "router"


def own(name: str, settings: Settings, config: Path | None, environ: Mapping[str, str]) -> Command:
    """Give the command of the API, the reconciler or the router. All read the configuration that the supervisor read.

    The admin's token goes to the API alone, the way into Ray and the token for commit statuses to the reconciler alone,
    and the spec repository's token to those two.
    """
    kept = {key: value for key, value in environ.items() if name == API or key != VARIABLE}
    if name not in {API, RECONCILER}:
        kept.pop(SPEC_REPO_TOKEN, None)
    if name != RECONCILER:
        kept.pop(STATUS_TOKEN, None)
    if name != RECONCILER or settings.ray.address is None:
        kept = {key: value for key, value in kept.items() if not key.startswith("RAY_")}
    if name == RECONCILER and settings.ray.address is None:
        kept |= ray_head.client_environ(settings.home)
    kept |= {
        "ARGUS_HOME": str(settings.home),
        "ARGUS_API_PORT": str(settings.api.port),
        "ARGUS_OPENAI_PORT": str(settings.serving.port),
        "PYTHONUNBUFFERED": "1",
    }
    if config is not None:
        kept["ARGUS_CONFIG"] = str(config)
    return Command((sys.executable, "-m", "argus", name), kept)


def front(part: haproxy.Part, settings: Settings) -> Command:
    """Give the command of a HAProxy, with what it was last told in its configuration. It needs no environment."""
    return Command(haproxy.prepare(settings.home, settings.serving, part), {}, front_facts(settings))


def front_facts(settings: Settings) -> dict[str, Any]:
    """Say what a HAProxy was started for: one that runs already is taken over where it is the same."""
    return {"wants": settings.serving.model_dump(mode="json")}


def build(target: Path, environ: Mapping[str, str]) -> Command:
    """Give the command that builds the demo model: nice, for on two cores it fills the gaps that Ray's start leaves."""
    kept = {key: value for key, value in environ.items() if not key.startswith("ARGUS_")}
    return Command((sys.executable, "-m", "argus.demo_model", str(target)), kept, niceness=10)
