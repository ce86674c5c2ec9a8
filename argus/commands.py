"""How the platform's own processes are started: the command, and an environment that holds no more than it needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from argus import ray_head
from argus.supervisor import Command
from reconciler.settings import Settings
from reconciler.shell.admin_token import VARIABLE

API, RECONCILER, BUILD = "api", "reconciler", "demo-model"


def own(name: str, settings: Settings, config: Path, environ: Mapping[str, str]) -> Command:
    """Give the command of the API or the reconciler. Both read the configuration that the supervisor read.

    The admin's token goes to the API alone, the way into the embedded Ray to the reconciler alone.
    """
    kept = {key: value for key, value in environ.items() if name == API or key != VARIABLE}
    if settings.ray.address is None:
        kept = {key: value for key, value in kept.items() if not key.startswith("RAY_")}
        if name == RECONCILER:
            kept |= ray_head.client_environ(settings.home)
    kept |= {
        "ARGUS_CONFIG": str(config),
        "ARGUS_HOME": str(settings.home),
        "ARGUS_API_PORT": str(settings.api.port),
        "ARGUS_OPENAI_PORT": str(settings.serving.port),
        "PYTHONUNBUFFERED": "1",
    }
    return Command((sys.executable, "-m", "argus", name), kept)


def build(target: Path, environ: Mapping[str, str]) -> Command:
    """Give the command that builds the demo model: nice, for on two cores it fills the gaps that Ray's start leaves."""
    kept = {key: value for key, value in environ.items() if not key.startswith("ARGUS_")}
    return Command((sys.executable, "-m", "argus.demo_model", str(target)), kept, niceness=10)
