"""Commands that speak to a platform's API, wherever it runs: their options, and the client that these make.

    --server URL        else ARGUS_SERVER, else the API of the configuration (with `argus up`: this machine's)
    --token-file FILE   else ARGUS_TOKEN, else the admin's token from the state folder

A token is never an argument: everybody on a machine can read those.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from argus.errors import ClientError
from reconciler.errors import SettingsError
from reconciler.settings import Settings
from reconciler.shell.admin_token import admin_token

if TYPE_CHECKING:
    from argus.client import Client

SERVER, TOKEN = "ARGUS_SERVER", "ARGUS_TOKEN"

MODELS = "/api/v2/serve/models"

_PAGE = 100
_SHOWN = 5
_MOST_PAGES = 1000
_FORBIDDEN = 403


def add_options(command: argparse.ArgumentParser) -> None:
    """Give a command the options that `connect` reads."""
    command.add_argument("--server", metavar="URL", help=f"the API, e.g. https://argus.example.org ({SERVER})")
    command.add_argument("--token-file", metavar="FILE", help=f"a file that holds your token (or set {TOKEN})")


def connect(arguments: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> Client:
    """Give a client of the API that the options, the environment or the configuration name.

    Raises SettingsError where there is no token, or an address that is none. The message never holds a token.
    """
    from argus.client import Client  # noqa: PLC0415  `argus validate` has these options read, and needs no HTTP

    named = arguments.server or environ.get(SERVER)
    return Client(_checked(named) if named else api_url(settings), _token(arguments, settings, environ))


def api_url(settings: Settings) -> str:
    """Say where the API of this configuration can be reached from this machine."""
    host = settings.api.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.api.port}"


def model_key(client: Client, name: str) -> str:
    """Give the key of the one model that goes by this key, public name or suffix. Raises ClientError."""
    if name.startswith("svc-"):
        return name
    try:
        found = _keys_of(client, name, "&all=true")
    except ClientError as error:
        if error.status != _FORBIDDEN:
            raise
        found = _keys_of(client, name, "")  # a user's own are all that there are for a user
    if len(found) == 1:
        return found[0]
    which = f"it may be {' or '.join(sorted(found)[:_SHOWN])}" if found else "right would be its key, name or suffix"
    raise ClientError(f"there is no one model '{name:.100}' among yours; {which}")


def _keys_of(client: Client, name: str, whose: str) -> list[str]:
    found, cursor = [], ""
    for _ in range(_MOST_PAGES):
        page = client.get(f"{MODELS}?limit={_PAGE}{whose}{cursor}")
        found += [
            str(each["model_key"]) for each in page["items"] if name in (each["model_id"], each["model_id_suffix"])
        ]
        if not page["next_cursor"]:
            break
        cursor = f"&cursor={quote(page['next_cursor'])}"
    return found


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise SettingsError(f"--server or {SERVER}: right would be http(s)://host[:port], without user and password")
    return url.rstrip("/")


def _token(arguments: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> str:
    if arguments.token_file:
        try:
            token = Path(arguments.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--token-file {arguments.token_file}: cannot be read ({error})") from None
    else:
        token = environ.get(TOKEN, "").strip()
    if not token:
        if arguments.server or environ.get(SERVER):
            # The admin's token of this machine is for this machine's platform.
            raise SettingsError(f"no token: give --token-file FILE or set {TOKEN}")
        try:
            return admin_token(settings, environ)
        except SettingsError as error:
            raise SettingsError(f"no token: give --token-file FILE or set {TOKEN} ({error})") from None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise SettingsError("the token must be printable ASCII without spaces")
    return token
