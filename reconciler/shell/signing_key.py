"""The key that the API signs its commits with, kept in the state folder (mode 0600) by whoever first needs it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from reconciler.errors import SourceUnreachable
from reconciler.settings import Settings

_LIMIT_S = 10


class SigningKey:
    """An ssh key (Ed25519). Processes that start at the same time agree on one."""

    def __init__(self, path: Path) -> None:
        """Use the private key at `path`, with its public half in `<path>.pub`; both are made where they are missing."""
        self._path = path

    def sign(self, commit: bytes) -> bytes:
        """Give a commit object with its signature in it. Raises SourceUnreachable.

        The signature is an ssh signature in the namespace `git`, as `git commit -S` makes it.
        """
        self._ensure()
        signature = _ssh_keygen("-Y", "sign", "-n", "git", "-f", str(self._path), stdin=commit)
        headers, blank, message = commit.partition(b"\n\n")
        lines = signature.strip().replace(b"\n", b"\n ")
        return b"".join([headers, b"\ngpgsig ", lines, blank, message])

    def _ensure(self) -> None:
        if self._path.exists():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # whoever is second finds the key of the first
                if not self._path.exists():
                    self._make()
        except OSError as error:
            raise SourceUnreachable(f"the signing key {self._path} cannot be made: {type(error).__name__}") from None

    def _make(self) -> None:
        with tempfile.TemporaryDirectory(prefix=f".{self._path.name}.", dir=self._path.parent) as folder:
            made = Path(folder) / "key"
            _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", "argus", "-f", str(made))
            # The public half first: from when the private one is there, commits are signed with it.
            os.replace(made.with_name("key.pub"), public_half(self._path))
            os.replace(made, self._path)


def signature(settings: Settings) -> Callable[[bytes], bytes] | None:
    """Give what signs the platform's commits (`SigningKey.sign`), where the configuration has commits ruled upon."""
    asked = settings.spec_repo.ownership
    return SigningKey(settings.home / asked.signing_key).sign if asked.policy != "trust_branch" else None


def public_half(path: Path) -> Path:
    """Say where the public half of the key at `path` lies."""
    return path.with_name(f"{path.name}.pub")


def _ssh_keygen(*arguments: str, stdin: bytes = b"") -> bytes:
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments], input=stdin, capture_output=True, check=False, timeout=_LIMIT_S, env=environment
        )
    except subprocess.TimeoutExpired:
        raise SourceUnreachable(f"ssh-keygen did not finish within {_LIMIT_S} s") from None
    except OSError as error:
        raise SourceUnreachable(
            f"the API's commits cannot be signed without ssh-keygen: {type(error).__name__}"
        ) from None
    if done.returncode != 0:
        raise SourceUnreachable("the API's commits cannot be signed: ssh-keygen refuses the signing key")
    return done.stdout
