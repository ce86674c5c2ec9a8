"""`argus rollback`: take a model back to what its file said at an earlier commit, through the API."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from argus.client import Client, ClientError
from reconciler.settings import Settings

SERVER = "ARGUS_SERVER"
TOKEN = "ARGUS_TOKEN"  # noqa: S105  a variable's name

_MODELS = "/api/v2/serve/models"


def roll_back(client: Client, model: str, to: str | None, reason: str | None) -> int:
    """Roll back the one model that `model` means: its key, its public name or its suffix. Gives the exit status."""
    try:
        key = _key(client, model)
        if isinstance(key, list):
            which = f"; it may be {' or '.join(sorted(key))}" if key else " among yours"
            print(f"argus: there is no one model '{model:.120}'{which}", file=sys.stderr)
            return 1
        body = {name: value for name, value in (("to", to), ("reason", reason)) if value is not None}
        before = client.get(f"{_MODELS}/{quote(key)}")["model"]["commit"]
        done = client.post(f"{_MODELS}/{quote(key)}/rollback", body)
    except ClientError as error:
        print(f"argus: {error}", file=sys.stderr)
        return 1
    said = "nothing to do: its file says that already, since" if done["commit"] == before else "rolled back by"
    print(f"{key}: {said} commit {done['commit']} ({done['state']})")
    return 0


def client_of(server: str | None, token_file: str | None, settings: Settings, environ: Mapping[str, str]) -> Client:
    """Give a client of the API at `server`, with the token of `token_file`; else as the environment and settings say.

    On the machine of an embedded platform the admin's token in the state folder will do. Raises ClientError.
    """
    url = server or environ.get(SERVER) or f"http://127.0.0.1:{settings.api.port}"
    token = environ.get(TOKEN)
    file = Path(token_file) if token_file else settings.home / "admin-token"
    if token_file or not token:
        try:
            token = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ClientError(
                f"the token file {file} cannot be read ({type(error).__name__}); name one with --token-file, or put "
                f"the token into {TOKEN}"
            ) from None
    return Client(url, token)


def run(arguments: Any, settings: Settings, environ: Mapping[str, str] = os.environ) -> int:
    """Do what the command line asks for. Gives the exit status."""
    try:
        client = client_of(arguments.server, arguments.token_file, settings, environ)
    except ClientError as error:
        print(f"argus: {error}", file=sys.stderr)
        return 2
    return roll_back(client, arguments.model, arguments.to, arguments.reason)


def _key(client: Client, model: str) -> str | list[str]:
    """Give the key of the one model that is meant, or the keys of those that might be."""
    if model.startswith("svc-"):
        return model
    found, cursor, everybodys = [], "", "all=true&"
    while True:
        try:
            page = client.get(f"{_MODELS}?{everybodys}limit=200{cursor}")
        except ClientError as error:
            if error.status != 403 or not everybodys:
                raise
            everybodys = ""  # a user's own are all that there are for a user
            continue
        found += [each["model_key"] for each in page["items"] if model in (each["model_id"], each["model_id_suffix"])]
        if page["next_cursor"] is None:
            return found[0] if len(found) == 1 else found
        cursor = f"&cursor={quote(page['next_cursor'])}"
