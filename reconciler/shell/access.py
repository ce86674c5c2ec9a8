"""The way into a remote spec repository: a token for https, a key for ssh, and what its server is known by.

Secrets are read again for every command, so that a file that is replaced counts from the next one on. They go to git in
its environment: neither its arguments nor the mirror's configuration hold them, and no error repeats them.
"""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from reconciler.errors import SourceUnreachable
from reconciler.settings import SPEC_REPO_TOKEN, Settings

LONGEST_TOKEN = 8192


@dataclass(frozen=True, slots=True)
class Access:
    """How a remote is reached. `token` (from the environment) counts before `token_file`."""

    username: str = "git"
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str] = os.environ) -> Self:
        """Give the way in that the configuration and the environment name."""
        repo, home = settings.spec_repo, settings.home

        def at_home(path: str | None) -> Path | None:
            return None if path is None else home / path

        return cls(
            username=repo.username,
            token=environ.get(SPEC_REPO_TOKEN) or None,
            token_file=at_home(repo.token_file),
            ca_file=at_home(repo.ca_file),
            ssh_key_file=at_home(repo.ssh_key_file),
            known_hosts_file=at_home(repo.known_hosts_file),
        )

    def config(self) -> dict[str, str]:
        """Give git's configuration for one command that goes to the remote. Raises SourceUnreachable."""
        token = self._token()
        if token is None:
            return {}
        pair = base64.b64encode(f"{self.username}:{token}".encode()).decode()
        # Git would send the header wherever a redirect leads.
        return {"http.extraHeader": f"Authorization: Basic {pair}", "http.followRedirects": "false"}

    def environment(self) -> dict[str, str]:
        """Give the variables that such a command needs besides."""
        found = {}
        if self.ca_file is not None:
            found["GIT_SSL_CAINFO"] = str(self.ca_file)
        if self.token is not None or self.token_file is not None:
            found["GIT_ASKPASS"] = ""  # a token that is refused is an error, not a question
        if self.ssh_key_file is not None or self.known_hosts_file is not None:
            found["GIT_SSH_COMMAND"] = self._ssh()
        return found

    def _token(self) -> str | None:
        if self.token is not None:
            return _checked(self.token, SPEC_REPO_TOKEN)
        if self.token_file is None:
            return None
        try:
            with self.token_file.open(encoding="ascii") as file:
                text = file.read(LONGEST_TOKEN + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise SourceUnreachable(f"spec_repo.token_file cannot be read: {type(error).__name__}") from None
        return _checked(text, "spec_repo.token_file")

    def _ssh(self) -> str:
        """Give the ssh that git starts. It asks nobody anything, and talks only to a server whose key is known."""
        words = ["ssh", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes"]
        if self.ssh_key_file is not None:
            words += ["-oIdentitiesOnly=yes", "-oIdentityAgent=none", f"-oIdentityFile={_quoted(self.ssh_key_file)}"]
        if self.known_hosts_file is not None:
            words += [f"-oUserKnownHostsFile={_quoted(self.known_hosts_file)}", "-oGlobalKnownHostsFile=/dev/null"]
        return shlex.join(words)


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if not token or len(token) > LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise SourceUnreachable(f"{where} holds no token: 1 to {LONGEST_TOKEN} printable ASCII characters in one line")
    return token


def _quoted(path: Path) -> str:
    """Quote a path for ssh's own reader: blanks end a word there, and a percent sign begins a name."""
    return '"' + str(path).replace("%", "%%") + '"'
