"""`argus outbox`: commit statuses and notifications that have not arrived, and sending them again, through the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from argus.client import Client
from argus.reports import printable

OUTBOX = "/api/v2/serve/outbox"

_PAGE = 100
_MOST_PAGES = 400


def outbox(client: Client, state: str | None, retry: Sequence[str], *, retry_dead: bool) -> int:
    """Show what is in the outbox, or send some of it again. Gives the exit status. Raises ClientError."""
    if retry or retry_dead:
        again = [*retry, *([each["id"] for each in _all(client, "dead")] if retry_dead else [])]
        for id_ in dict.fromkeys(again):
            address = f"{OUTBOX}/{quote(id_, safe='')}/retry"
            print(f"{id_}: due now, for {client.post(address)['destination']}")
        if not again:
            print("nothing was given up")
        return 0
    found = False
    for each in _all(client, state):
        found = True
        print(_line(each))
    if not found:
        print("nothing waits" if state == "pending" else "nothing was given up" if state else "the outbox is empty")
    return 0


def _all(client: Client, state: str | None) -> Iterator[dict[str, Any]]:
    wanted = f"&state={state}" if state else ""
    cursor = ""
    for _ in range(_MOST_PAGES):
        page = client.get(f"{OUTBOX}?limit={_PAGE}{wanted}{cursor}")
        yield from page["items"]
        if not page["next_cursor"]:
            return
        cursor = f"&cursor={quote(page['next_cursor'])}"


def _line(item: dict[str, Any]) -> str:
    body = item["body"]
    what = f"{body['context']} {body['state']} on {body['sha'][:12]}" if "context" in body else str(body.get("type"))
    attempts = f"{item['attempts']} attempt{'s' * (item['attempts'] != 1)} since {item['since'][:19]}Z"
    then = "given up" if item["state"] == "dead" else f"next at {item['next_attempt_at'][:19]}Z"
    why = f": {item['error']}" if item["error"] else ""
    return printable(f"{item['id']} {item['destination']}: {what}; {attempts}, {then}{why}")
