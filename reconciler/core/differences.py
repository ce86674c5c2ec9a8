"""What may differ in Serve from what was asked of it, as values. When it is drift says `core.drift`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What may differ."""

    GONE = "gone"
    """A model's deployment is not there."""
    VERSION = "version"
    """A model's deployment is of another version."""
    REPLICAS = "replicas"
    """A model's deployment has another number of replicas."""
    UNKNOWN = "unknown"
    """The application holds a deployment that is no model's."""
    APPLICATION = "application"
    """The application is not there."""
    ROOT = "root"
    """The application's root is another one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `subject` is the deployment's name (a model's key), PLATFORM for the application."""

    subject: str
    kind: Kind
    asked: str | int | None = None
    found: str | int | None = None

    @property
    def words(self) -> str:
        """Say it."""
        match self.kind:
            case Kind.GONE:
                return "its deployment was deleted in Serve by somebody else"
            case Kind.VERSION:
                return f"its version was changed in Serve by somebody else, from {self.asked} to {self.found}"
            case Kind.REPLICAS:
                return f"it was scaled in Serve by somebody else, from {self.asked} to {self.found} replicas"
            case Kind.UNKNOWN:
                return f"the application holds a deployment that no file wants: {self.subject}"
            case Kind.APPLICATION:
                return "the application was deleted in Serve by somebody else"
            case Kind.ROOT:
                return "the application's root was changed in Serve by somebody else"
