"""Whether whoever sent a delivery knows a secret. It is found out while the body streams by, before anything reads it.

    X-Hub-Signature-256: sha256=<hex>                 GitHub, and whoever signs plainly: HMAC-SHA256 of the body
    X-Gitea-Signature, X-Forgejo-Signature: <hex>     Gitea and Forgejo: the same without the prefix
    X-Gitlab-Token: <secret>                          GitLab's secret token, which signs nothing
    webhook-id, webhook-timestamp, webhook-signature  GitLab's signing token, and all who keep to Standard Webhooks 1.0:
                                                      HMAC-SHA256 of `<id>.<timestamp>.<body>`, in base64

Several secrets count at a time, so that one can be replaced without a gap. Comparisons take the same time whatever they
find, and every secret is compared with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from werkzeug.datastructures import Headers

from reconciler.settings import HOOK_SECRETS, Settings

TOLERANCE_S = 300
"""How far the time in a delivery may be from ours, in seconds: an older one is somebody's recording."""

MOST_SECRETS = 8
SHORTEST_SECRET, LONGEST_SECRET = 16, 1024

_HEX = ("X-Hub-Signature-256", "X-Gitea-Signature", "X-Forgejo-Signature")
_HEX_DIGEST = re.compile(r"(?:sha256=)?([0-9a-fA-F]{64})\Z")
_ID = re.compile(r"[\x21-\x7e]{1,256}\Z")
_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_SECRET = re.compile(rf"[\x21-\x7e]{{{SHORTEST_SECRET},{LONGEST_SECRET}}}\Z")
_KEY_PREFIX = "whsec_"
_MOST_SIGNATURES = 8


class SecretsUnreadable(Exception):
    """A file of `api.hooks.secret_files` cannot be read, or holds no secret. The message names it, and none of it."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Where secrets are: in the environment, and in files that are read at each delivery, so that they may change."""

    given: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[Path, ...] = ()

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str] = os.environ) -> Self:
        """Give the secrets that the configuration and the environment name."""
        files = tuple(settings.home / name for name in settings.api.hooks.secret_files)
        return cls(tuple(environ.get(HOOK_SECRETS, "").split()), files)

    @property
    def are_configured(self) -> bool:
        """Say whether there is to be any."""
        return bool(self.given or self.files)

    def read(self) -> list[str]:
        """Give all of them. Raises SecretsUnreadable."""
        found = list(self.given)
        for file in self.files:
            try:
                with file.open(encoding="ascii") as opened:
                    found += opened.read(MOST_SECRETS * (LONGEST_SECRET + 1)).split()
            except (OSError, UnicodeDecodeError) as error:
                raise SecretsUnreadable(f"{file} cannot be read: {type(error).__name__}") from None
        if not found or len(found) > MOST_SECRETS or not all(_SECRET.match(secret) for secret in found):
            raise SecretsUnreadable(
                f"the secrets in {HOOK_SECRETS} and api.hooks.secret_files must be 1 to {MOST_SECRETS}, each of "
                f"{SHORTEST_SECRET} to {LONGEST_SECRET} printable ASCII characters without spaces"
            )
        return found


class Proof:
    """What the headers of one delivery offer as proof. Give it the body with `update`, then ask whether it `holds`."""

    def __init__(self, headers: Headers, secrets: Sequence[str], now: float) -> None:
        """Take the offer. `now` is in seconds since the epoch."""
        self._signed: list[hmac.HMAC] = []
        self._claimed: list[bytes] = []
        token = headers.get("X-Gitlab-Token", "")
        self._has_token = bool(token)
        self._token_fits = _any(hmac.compare_digest(_digest(token), _digest(secret)) for secret in secrets)
        if digests := _hex_digests(headers):
            self._claimed += digests
            self._signed += [hmac.new(secret.encode(), digestmod=hashlib.sha256) for secret in secrets]
        beginning, digests = _standard(headers, now)
        if digests:
            self._claimed += digests
            self._signed += [hmac.new(_key(secret), beginning, hashlib.sha256) for secret in secrets]

    @property
    def is_offered(self) -> bool:
        """Say whether there is anything to be looked at."""
        return self._has_token or bool(self._claimed)

    def update(self, part: bytes) -> None:
        """Take the next part of the body."""
        for each in self._signed:
            each.update(part)

    def holds(self) -> bool:
        """Say whether any of the secrets made it."""
        made = [each.digest() for each in self._signed]
        fits = _any(hmac.compare_digest(claim, digest) for claim in self._claimed for digest in made)
        return fits | (self._has_token & self._token_fits)


def _any(found: Iterable[bool]) -> bool:
    """Say whether one is true, after all were looked at."""
    return sum(found) > 0


def _digest(text: str) -> bytes:
    """Bring texts to one length, so that comparing them tells none."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _hex_digests(headers: Headers) -> list[bytes]:
    found = (_HEX_DIGEST.match(headers.get(name, "")) for name in _HEX)
    return list(dict.fromkeys(bytes.fromhex(each[1]) for each in found if each))


def _standard(headers: Headers, now: float) -> tuple[bytes, list[bytes]]:
    """Give what is signed before the body, and the digests that are claimed for it: none for what is not of today."""
    id_, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _ID.match(id_) or not _SECONDS.match(moment) or abs(now - int(moment)) > TOLERANCE_S:
        return b"", []
    found = []
    for signature in headers.get("webhook-signature", "").split(" ")[:_MOST_SIGNATURES]:
        version, _, text = signature.partition(",")
        digest = _from_base64(text)
        if version == "v1" and digest is not None and len(digest) == hashlib.sha256().digest_size:
            found.append(digest)
    return f"{id_}.{moment}.".encode(), found


def _key(secret: str) -> bytes:
    """Give the key that a secret stands for: `whsec_` is followed by one in base64."""
    decoded = _from_base64(secret.removeprefix(_KEY_PREFIX)) if secret.startswith(_KEY_PREFIX) else None
    return decoded or secret.encode()


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
