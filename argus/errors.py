"""How a command of the front door ends other than well."""

from __future__ import annotations


class UpFailed(Exception):
    """A step cannot succeed. The message is for the person at the terminal; the command ends with exit code 1."""


class Stopped(Exception):
    """Somebody asked the platform to stop (SIGTERM, SIGINT) while a step was waiting."""


class ClientError(Exception):
    """Nobody answered, or the answer was an error. `status` is HTTP's, None without an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
