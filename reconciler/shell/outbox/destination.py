"""What the courier needs to know of a destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from reconciler.core.delivery import Letter, Reply
from reconciler.errors import ArgusError


class Unready(ArgusError):
    """A request cannot be made now: a file with a secret is missing or wrong. It is tried again later."""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST. `url` and `headers` may hold secrets, and are never logged or kept."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Destination(Protocol):
    """Somewhere to deliver to. Used by one thread."""

    @property
    def name(self) -> str:
        """Its name in the outbox."""
        ...

    @property
    def ca_file(self) -> Path | None:
        """Certificates of its own authority; None: those of the system."""
        ...

    @property
    def allow_private(self) -> bool:
        """Whether it may lead to this machine, or into a private network."""
        ...

    def request(self, letter: Letter, now: datetime) -> Request:
        """Make the request that delivers a letter. Raises Unready."""
        ...

    def reply(self, letter: Letter, status: int, headers: dict[str, str], body: bytes) -> Reply:
        """Say what an answer means. `body` is the beginning of it, for an answer that is no 2xx."""
        ...
