"""Notifications as signed webhooks: CloudEvents 1.0 in structured JSON mode, signed as Standard Webhooks 1.0 has it.

The signature is HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`, with every key of the file, so that a key can
be changed without a gap. The id is the event's and stays through all attempts: receivers know by it what they have.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from reconciler.core.delivery import Letter, Reply
from reconciler.shell.outbox import secrets
from reconciler.shell.outbox.destination import Request
from reconciler.shell.outbox.statuses import USER_AGENT

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Webhook:
    """One receiver of notifications."""

    name: str
    url: str = field(repr=False)
    secret_file: Path
    ca_file: Path | None = None
    allow_private: bool = False

    def request(self, letter: Letter, now: datetime) -> Request:
        """Keep `Destination.request`."""
        body = json.dumps(letter.body, separators=(",", ":")).encode()
        keys = secrets.signing_keys(self.secret_file, f"secret_file of the notifications '{self.name}'")
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": USER_AGENT,
            **signed(keys, letter.body["id"], int(now.timestamp()), body),
        }
        return Request(self.url, headers, body)

    def reply(self, letter: Letter, status: int, headers: dict[str, str], body: bytes) -> Reply:
        """Keep `Destination.reply`. What a stranger's server says in a body is nobody's business here."""
        return Reply(status, headers=headers)


def signed(keys: list[bytes], id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Give the headers that say who sent this: `timestamp` is the attempt's, in seconds since 1970."""
    content = f"{id_}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
