"""The command `argus`. A wrong configuration is one clear line and exit status 2, a step that fails exit status 1."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from argus import brakes, offline, remote
from argus.errors import ClientError, UpFailed
from reconciler import settings as configuration
from reconciler.errors import ArgusError, SettingsError
from reconciler.settings import Settings

EMBEDDED_CONFIG = Path(__file__).parent / "dev.yaml"
"""The embedded configuration, which `argus up` runs."""

_ON_EMBEDDED = {"up", "down", "logs", "outbox", "rollback", "commits", *brakes.COMMANDS}
"""Commands that read the embedded configuration where no file is named."""

_FLAGS = {"home": "ARGUS_HOME", "api_port": "ARGUS_API_PORT", "openai_port": "ARGUS_OPENAI_PORT"}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the command that `argv` names. Gives the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _obey(arguments, environ)
    except SettingsError as error:
        print(f"argus: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 0
    except (UpFailed, ClientError, ArgusError) as error:
        print(f"argus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _obey(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    if arguments.command == "version":
        print(f"argus {_version()}")
        return 0
    if arguments.command in offline.COMMANDS:
        return offline.run(arguments, environ, _version())
    environ = overlay(arguments, environ)
    embedded = EMBEDDED_CONFIG if arguments.command in _ON_EMBEDDED else None
    named = arguments.config or environ.get("ARGUS_CONFIG")
    config = Path(named).absolute() if named else embedded
    return _run(arguments, configuration.load(config, environ), config, environ)


def overlay(arguments: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment with the flags in it: a flag beats the environment, which beats the file."""
    given = {variable: getattr(arguments, flag, None) for flag, variable in _FLAGS.items()}
    return {**environ, **{variable: str(value) for variable, value in given.items() if value is not None}}


def _run(  # noqa: PLR0911, PLR0912  one branch and one return a command
    arguments: argparse.Namespace, settings: Settings, config: Path | None, environ: Mapping[str, str]
) -> int:
    # Each command imports what it needs: the reconciler's part of Ray takes seconds, `argus down` none.
    match arguments.command:
        case "up":
            from argus.console import Console  # noqa: PLC0415
            from argus.up import Platform  # noqa: PLC0415

            if config is None:
                raise AssertionError("`up` has a configuration file, if only the embedded one")
            return Platform(settings, config, environ, Console()).up(with_demo=not arguments.no_demo)
        case "down":
            from argus.console import Console  # noqa: PLC0415
            from argus.down import down  # noqa: PLC0415

            return down(settings.home, Console(), settings.serving.stop_grace_s)
        case "api":
            from webapi.__main__ import main as api  # noqa: PLC0415

            return api(settings)
        case "reconciler":
            from reconciler.__main__ import main as reconciler  # noqa: PLC0415

            return reconciler(settings)
        case "front":
            from argus.console import Console  # noqa: PLC0415
            from argus.front import run  # noqa: PLC0415

            return run(settings, config, environ, Console())
        case "router":
            from reconciler.front.router import main as router  # noqa: PLC0415

            return router(settings)
        case "logs":
            from argus.logs import logs  # noqa: PLC0415

            client = remote.connect(arguments, settings, environ)
            return logs(client, arguments.model, follow=arguments.follow, tail=arguments.tail)
        case "outbox":
            from argus.outbox import outbox  # noqa: PLC0415

            client = remote.connect(arguments, settings, environ)
            return outbox(client, arguments.state, arguments.retry, retry_dead=arguments.retry_dead)
        case "rollback":
            from argus.rollback import roll_back  # noqa: PLC0415

            client = remote.connect(arguments, settings, environ)
            return roll_back(client, arguments.model, arguments.to, arguments.reason)
        case "commits":
            from argus import commits  # noqa: PLC0415

            client = remote.connect(arguments, settings, environ)
            if arguments.wait:
                return commits.wait(client, arguments.wait, arguments.timeout, arguments.format)
            return commits.show(client, arguments.limit, arguments.format)
        case other if other in brakes.COMMANDS:
            return brakes.run(arguments, settings, environ)
        case other:
            raise AssertionError(f"no such command: {other}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="argus",
        description="A GitOps reconciler that serves language models with Ray Serve and vLLM.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start and supervise the whole platform; Ctrl-C stops it")
    down = commands.add_parser("down", help="stop a platform, also one whose `argus up` was killed")
    api = commands.add_parser("api", help="run the management API alone")
    reconciler = commands.add_parser("reconciler", help="run the reconciler alone, against the Ray at ray.address")
    front = commands.add_parser("front", help="run HAProxy and its router alone, as on each further node of a cluster")
    router = commands.add_parser("router", help="run the router alone: it tells a running HAProxy where models are")
    logs = commands.add_parser("logs", help="show what a model's engines print, also after a failure")
    logs.add_argument("model", metavar="MODEL", help="its model_key or model_id")
    logs.add_argument("--follow", "-f", action="store_true", help="go on with further lines as they come")
    logs.add_argument("--tail", type=int, default=200, metavar="N", help="lines to begin with (default: 200)")
    remote.add_options(logs)
    rollback = commands.add_parser("rollback", help="take a model back to what its file said at an earlier commit")
    rollback.add_argument("model", metavar="MODEL", help="its key, its public name or its suffix")
    rollback.add_argument("--to", metavar="SHA", help="the commit; without it, the last one that served")
    rollback.add_argument("--reason", metavar="TEXT", help="one line for the commit's message")
    remote.add_options(rollback)
    commits = commands.add_parser(
        "commits",
        help="show what became of commits, or wait for what becomes of one",
        description="Show the newest commits with their verdicts, or wait for one. Exit status with --wait: 0 applied, "
        "no change, removed or superseded by a later commit; 1 failed, rejected or held; 2 misused; 3 no verdict yet.",
    )
    commits.add_argument("--limit", type=_count, default=20, metavar="N", help="how many to show (default: 20)")
    commits.add_argument("--wait", type=_sha, metavar="SHA", help="wait for this commit: 7 digits of its SHA or more")
    commits.add_argument(
        "--timeout", type=_seconds, default=600, metavar="S", help="with --wait: for so many seconds (default: 600)"
    )
    commits.add_argument("--format", choices=("text", "json"), default="text")
    remote.add_options(commits)
    outbox = commands.add_parser("outbox", help="show commit statuses and notifications that have not arrived")
    outbox.add_argument("--state", choices=("pending", "dead"), help="only what waits, or only what was given up")
    outbox.add_argument("--retry", action="append", default=[], metavar="ID", help="send this one again, at once")
    outbox.add_argument("--retry-dead", action="store_true", help="send everything again that was given up")
    remote.add_options(outbox)
    commands.add_parser("version", help="print the version")
    holding = brakes.add_to(commands)
    for command in (up, down, api, reconciler, front, router, logs, outbox, rollback, commits, *holding):
        command.add_argument("--config", metavar="FILE", help="configuration file, see dev.yaml (ARGUS_CONFIG)")
        command.add_argument("--home", metavar="DIR", help="state folder (ARGUS_HOME)")
    for command in (up, api, logs, outbox, rollback, commits, *holding):
        command.add_argument("--api-port", type=int, metavar="N", help="port of the API (ARGUS_API_PORT)")
    for command in (up, api, reconciler, front, router):
        command.add_argument("--openai-port", type=int, metavar="N", help="port of the models (ARGUS_OPENAI_PORT)")
    offline.add_to(commands)
    up.add_argument("--no-demo", action="store_true", help="start without the demo model")
    return parser


def _count(text: str) -> int:
    """Read a number of commits."""
    return int(_between(text, 1, 10_000))


def _seconds(text: str) -> float:
    return _between(text, 0, 86_400)


def _between(text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"right would be a number from {least:g} to {most:g}")
    return number


def _sha(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{7,40}", text):
        raise argparse.ArgumentTypeError("right would be a commit's SHA, or 7 hexadecimal digits of it or more")
    return text.lower()


def _version() -> str:
    try:
        return version("argus-serving")
    except PackageNotFoundError:
        return "(not installed)"
