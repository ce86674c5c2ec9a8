"""`argus suspend`, `resume`, `allow-removal` and `override-freeze`: what holds changes back, said through the API."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from argus import remote
from reconciler.settings import Settings

if TYPE_CHECKING:
    from argus.client import Client

COMMANDS = ("suspend", "resume", "allow-removal", "override-freeze")

_SERVE = "/api/v2/serve"
_MOST_SHOWN = 20


def add_to(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the commands to argparse's table of subcommands; gives them, for options that they share with others."""
    suspend = commands.add_parser("suspend", help="keep a model, a user's models or all as they are, whatever git says")
    resume = commands.add_parser("resume", help="have changes count again that were suspended")
    for command in (suspend, resume):
        who = command.add_mutually_exclusive_group(required=True)
        who.add_argument("model", nargs="?", metavar="MODEL", help="USER/SUFFIX, its key, public name or suffix")
        who.add_argument("--user", metavar="ID", help="all models of this user")
        who.add_argument("--all", action="store_true", help="all models (the admin's)")
    suspend.add_argument("--reason", metavar="TEXT", help="one line, shown wherever a change is held")
    allow = commands.add_parser("allow-removal", help="say that the removals which the brake holds are meant")
    allow.add_argument("count", nargs="?", type=int, metavar="N", help="how many; without it, what is held is listed")
    allow.add_argument("--reason", metavar="TEXT", help="one line for the commit's message")
    override = commands.add_parser("override-freeze", help="let pass what is on the branch now and waits in a freeze")
    override.add_argument("--reason", metavar="TEXT", required=True, help="one line; it is recorded")
    made = [suspend, resume, allow, override]
    for command in made:
        remote.add_options(command)
    return made


def run(arguments: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> int:
    """Run one of the commands. Gives the exit status. Raises SettingsError, ClientError."""
    client = remote.connect(arguments, settings, environ)
    match arguments.command:
        case "suspend" | "resume":
            return _suspend(client, arguments)
        case "override-freeze":
            done = client.post(f"{_SERVE}/freeze/override", {"reason": arguments.reason})
            print(f"what was on the branch before commit {done['commit']} does not wait for the freeze")
            return 0
        case _:
            return _allow(client, arguments.count, arguments.reason)


def _suspend(client: Client, arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = {}
    if arguments.all:
        body, name = {"all": True}, "all models"
    elif arguments.user:
        body, name = {"user_id": arguments.user}, f"the models of {arguments.user}"
    else:
        named = arguments.model
        body = {"model": named if "/" in named else remote.model_key(client, named)}
        name = named
    if arguments.command == "suspend" and arguments.reason:
        body["reason"] = arguments.reason
    done = client.post(f"{_SERVE}/{arguments.command}", body)
    said = f"{arguments.command}{'d' if arguments.command == 'resume' else 'ed'}"
    rest = f"by commit {done['commit']}" if done["changed"] else "already, nothing to do"
    print(f"{name}: {said} {rest}")
    return 0


def _allow(client: Client, count: int | None, reason: str | None) -> int:
    held = client.get(f"{_SERVE}/removals")
    if count is None:
        print(f"held: {held['count']} removals of {held['running']} running models")
        for each in held["items"][:_MOST_SHOWN]:
            print(f"  - {each['path']} ({each['model_key']}), removed by {each['commit'][:12]}")
        if len(held["items"]) > _MOST_SHOWN:
            print(f"  and {len(held['items']) - _MOST_SHOWN} more")
        return 0
    body = {"count": count, "revision": held["revision"], **({"reason": reason} if reason else {})}
    done = client.post(f"{_SERVE}/removals", {key: value for key, value in body.items() if value is not None})
    print(f"{count} removals are allowed by commit {done['commit']}")
    return 0
