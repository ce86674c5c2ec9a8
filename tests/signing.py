"""Real ssh and GPG keys for tests, and commits signed with them as people sign theirs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repositories import ENVIRONMENT

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")


def run(*words: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program and give what it printed."""
    done = subprocess.run(
        words, cwd=folder, capture_output=True, check=False, text=True, env={**ENVIRONMENT, **(environment or {})}
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()


class SshKey:
    """An Ed25519 key without a passphrase."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.path), folder=folder)

    @property
    def public(self) -> str:
        """Its public half, as a line."""
        return self.path.with_name(f"{self.path.name}.pub").read_text(encoding="ascii").strip()

    @property
    def git_options(self) -> list[str]:
        """What git needs to sign with it."""
        return ["-c", "gpg.format=ssh", "-c", f"user.signingKey={self.path}", "-c", "commit.gpgSign=true"]

    environment: dict[str, str] = {}  # noqa: RUF012  the same for all


class GpgKey:
    """An Ed25519 key in a GNUPGHOME of its own. `close` ends the agent that gpg starts for it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.home, self.address = folder, address
        self.environment = {"GNUPGHOME": str(folder)}
        folder.mkdir(mode=0o700)
        self._gpg("--passphrase", "", "--quick-generate-key", address, "ed25519", "sign", "never")

    @property
    def public(self) -> str:
        """Its public half, armoured."""
        return self._gpg("--armor", "--export")

    @property
    def git_options(self) -> list[str]:
        """What git needs to sign with it."""
        return ["-c", "gpg.format=openpgp", "-c", f"user.signingKey={self.address}", "-c", "commit.gpgSign=true"]

    def revoke(self) -> None:
        """Revoke it with the certificate that gpg made on the day of its birth."""
        [certificate] = (self.home / "openpgp-revocs.d").glob("*.rev")
        certificate.write_text(certificate.read_text(encoding="utf-8").replace(":-----", "-----"), encoding="utf-8")
        self._gpg("--import", str(certificate))

    def close(self) -> None:
        """End the agent."""
        run("gpgconf", "--kill", "all", folder=self.home, environment=self.environment)

    def _gpg(self, *arguments: str) -> str:
        return run("gpg", "--batch", "--quiet", "--yes", *arguments, folder=self.home, environment=self.environment)


class Clone:
    """A work tree whose commits are made by different people, pushed to a bare repository at once."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder = folder
        run("git", "clone", "--quiet", str(origin), str(folder), folder=folder.parent)
        run("git", "checkout", "--quiet", "-B", "main", folder=folder)

    def commit(
        self,
        files: dict[str, str | None],
        *,
        author: str = "ann",
        email: str | None = None,
        key: SshKey | GpgKey | None = None,
        message: str = "change",
        committer: tuple[str, str] = ("Carl", "carl@example.org"),
    ) -> str:
        """Commit files (None removes one), push, and give the SHA."""
        for path, text in files.items():
            file = self.folder / path
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
        who = {
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": email or f"{author}@example.org",
            "GIT_COMMITTER_NAME": committer[0],
            "GIT_COMMITTER_EMAIL": committer[1],
            **(key.environment if key else {}),
        }
        options = key.git_options if key else []
        run("git", "add", "--all", folder=self.folder)
        run("git", *options, "commit", "--quiet", "--allow-empty", "-m", message, folder=self.folder, environment=who)
        return self.push()

    def push(self, *options: str) -> str:
        """Push the head, and give its SHA."""
        run("git", "push", "--quiet", *options, "origin", "HEAD:main", folder=self.folder)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git in the work tree."""
        return run("git", *arguments, folder=self.folder)
