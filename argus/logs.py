"""`argus logs`: what a model's engines print, once or as it comes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from argus.client import Client
from argus.errors import ClientError
from argus.remote import model_key

AGAIN_S = 2.0
"""How long a follower waits before it asks again, after an answer that was cut or refused for now."""

PATIENCE_S = 300.0
"""How long the API may be away before a follower gives up."""

SILENCE_S = 60.0
"""The API gives a sign of life every 15 s."""

_FOR_NOW = {None, 502, 503, 504}


def logs(
    client: Client,
    name: str,
    *,
    follow: bool,
    tail: int,
    out: TextIO = sys.stdout,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Print the log of the model that goes by this key or public name. Gives the exit status. Raises ClientError.

    A follower goes on through restarts of the API, and ends when the model is deleted and has said all.
    """
    key = model_key(client, name)
    last: int | None = None
    waited = 0.0
    while True:
        beginning = f"tail={tail}" if last is None else f"after={last}&tail=2000"
        try:
            for line in _lines(client, f"/api/v2/serve/models/{key}/logs?format=ndjson&{beginning}", follow=follow):
                print(f"{line['time'][:19]}Z {line['replica']} {line['text']}", file=out, flush=follow)
                last, waited = int(line["number"]), 0.0
            if not follow or _is_deleted(client, key):
                return 0
        except ClientError as error:
            if not follow or error.status not in _FOR_NOW or waited >= PATIENCE_S:
                raise
            waited += AGAIN_S
            pause(AGAIN_S)


def _lines(client: Client, path: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    for text in client.lines(f"{path}&follow=true" if follow else path, silence_s=SILENCE_S):
        if not text:
            continue  # a sign of life
        try:
            line: dict[str, Any] = json.loads(text)
        except ValueError:
            raise ClientError("the log's answer is not of the form that this client knows") from None
        yield line


def _is_deleted(client: Client, key: str) -> bool:
    try:
        return bool(client.get(f"/api/v2/serve/models/{key}")["model"]["state"] == "DELETED")
    except ClientError as error:
        if error.status == 404:
            return True
        raise
