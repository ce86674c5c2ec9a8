"""The commands that need no platform on this machine: for spec repositories, and for the jobs of code hosts.

Each imports what it needs when it runs, so that none waits for another's libraries; none needs Ray or an engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from argus import remote
from argus.errors import UpFailed
from reconciler.errors import SettingsError
from reconciler.settings import load

COMMANDS = frozenset({"validate", "plan", "comment", "schema"})


def add_to(commands: Any) -> None:
    """Add the commands' arguments to argparse's table of subcommands."""
    validate = commands.add_parser(
        "validate",
        help="check specs exactly as the reconciler will",
        description="Check specs offline, exactly as the reconciler will. Exit status: 0 fine, 1 problems, 2 misused.",
    )
    validate.add_argument("paths", nargs="*", metavar="PATH", help="files, folders or a whole repository (default: .)")
    validate.add_argument("--root", metavar="DIR", help="the spec repository's root (default: found from the paths)")
    validate.add_argument("--format", choices=("text", "json", "github", "gitlab", "sarif"), default="text")
    validate.add_argument("--user", metavar="ID", help="check files outside of users/ as specs of this user")
    validate.add_argument("--strict", action="store_true", help="count warnings as problems")

    plan = commands.add_parser(
        "plan",
        help="say what a change of the spec repository would do; nothing of it is run",
        description="Say what merging HEAD into BASE would do. Exit status: 0 planned, 1 it cannot be planned, "
        "2 with --exit-code where something would change.",
    )
    plan.add_argument(
        "range", nargs="?", metavar="BASE..HEAD", help="default: the remote's (or the local) main branch to HEAD"
    )
    plan.add_argument("--repo", metavar="DIR", default=".", help="a clone of the spec repository (default: .)")
    remote.add_options(plan)
    plan.add_argument("--gpus", type=int, metavar="N", help="without --server: how many GPUs the cluster has")
    plan.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    plan.add_argument("--exit-code", action="store_true", help="exit with 2 where something would change")

    comment = commands.add_parser(
        "comment",
        help="put a plan on the pull request that a CI job runs for",
        description="Write FILE as one comment that each run rewrites. In a job of GitHub or Gitea it needs "
        "GITHUB_TOKEN, in one of GitLab ARGUS_GITLAB_TOKEN.",
    )
    comment.add_argument("file", metavar="FILE", help="what `argus plan --format markdown` has written")

    schema = commands.add_parser("schema", help="print the JSON Schema of a spec or of argus.yaml, for editors")
    schema.add_argument("of", nargs="?", choices=("spec", "rules"), default="spec", help="default: spec")
    for command in (validate, plan):
        command.add_argument("--config", metavar="FILE", help="configuration with the platform's bounds (ARGUS_CONFIG)")


def run(arguments: argparse.Namespace, environ: Mapping[str, str], version: str) -> int:
    """Run the command. Gives the exit status. Raises SettingsError, UpFailed, ArgusError."""
    match arguments.command:
        case "validate":
            return _validate(arguments, environ, version)
        case "plan":
            return _plan(arguments, environ)
        case "comment":
            from argus import comments  # noqa: PLC0415

            _print(comments.run(Path(arguments.file), environ))
            return 0
        case "schema":
            from argus.schema import rules_text, text  # noqa: PLC0415

            _print(rules_text() if arguments.of == "rules" else text())
            return 0
        case other:
            raise AssertionError(f"no such command: {other}")


def _validate(arguments: argparse.Namespace, environ: Mapping[str, str], version: str) -> int:
    from argus.validate import Misused, Options, run  # noqa: PLC0415

    settings = load(_config(arguments, environ), environ)
    options = Options(
        paths=tuple(arguments.paths),
        root=arguments.root,
        form=arguments.format,
        owner=arguments.user,
        strict=arguments.strict,
    )
    try:
        status, said = run(options, settings.limits, version)
    except Misused as error:
        print(f"argus validate: {error}", file=sys.stderr)
        return 2
    _print(said)
    return status


def _plan(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from argus import planning  # noqa: PLC0415
    from argus.plan_text import FORMATS  # noqa: PLC0415

    settings = load(_config(arguments, environ), environ)
    if arguments.gpus is not None and arguments.gpus < 0:
        raise UpFailed("--gpus is a number of GPUs, 0 or more")
    asked = planning.Asked(repository=Path(arguments.repo), range=arguments.range, gpus=arguments.gpus)
    if arguments.server or environ.get(remote.SERVER):
        try:
            client = remote.connect(arguments, settings, environ)
        except SettingsError as error:  # exit status 2 would say that something would change
            raise UpFailed(str(error)) from None
        found = planning.on_server(asked, settings, client)
    else:
        found = planning.offline(asked, settings)
    _print(FORMATS[arguments.format](found))
    return 2 if arguments.exit_code and planning.would_change(found) else 0


def _config(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Path | None:
    named = arguments.config or environ.get("ARGUS_CONFIG")
    return Path(named).absolute() if named else None


def _print(text: str) -> None:
    """Print what was made of strangers' names, whatever the terminal can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
