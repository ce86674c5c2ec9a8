"""Who signed a commit, as git itself finds out: asked in batches, once a commit, with a time limit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reconciler.core.ownership import Signature
from reconciler.errors import SourceUnreachable
from reconciler.shell.git import Git
from reconciler.shell.signers import Signers

AT_A_TIME = 64
"""Commits that one git process verifies; each takes it one or two processes more."""

SIDE_BY_SIDE = 4
MOST_REMEMBERED = 20_000

_FIELDS = ("%H", "%G?", "%GF", "%GP")
_LOG = ("log", "--no-walk=unsorted", "--stdin", "-z", "--no-show-signature", "--no-notes", "--no-color",
        "--format=" + "%x00".join(_FIELDS))  # fmt: skip


class Signatures:
    """What is known of the signatures in one repository. What was found is kept: a pass that is cut short goes on."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        """Look into the bare repository `folder`. `timeout_s` limits each batch."""
        self._folder = folder
        self._timeout_s = timeout_s
        self._found: dict[str, Signature] = {}
        self._by: Signers | None = None

    def of(self, commits: Iterable[str], signers: Signers) -> dict[str, Signature]:
        """Verify commits, by their SHAs, with the keys of `signers`. Raises SourceUnreachable."""
        if signers is not self._by or len(self._found) > MOST_REMEMBERED:
            self._found, self._by = {}, signers
        wanted = list(dict.fromkeys(commits))
        new = [sha for sha in wanted if sha not in self._found]
        git = self._git(signers)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            batches = [new[start : start + AT_A_TIME] for start in range(0, len(new), AT_A_TIME)]
            for found in pool.map(lambda some: _verify(git, some), batches):
                self._found |= found
        return {sha: self._found[sha] for sha in wanted}

    def _git(self, signers: Signers) -> Git:
        config = {
            "gpg.program": "gpg",
            "gpg.openpgp.program": "gpg",
            "gpg.ssh.program": "ssh-keygen",
            "gpg.x509.program": "false",  # S/MIME would trust whom this machine's system trusts
            "gpg.ssh.allowedSignersFile": str(signers.allowed),
            "gpg.ssh.revocationFile": os.devnull,
        }
        home = signers.gpg_home or signers.allowed.parent
        return Git(self._folder, self._timeout_s, config, environment={"GNUPGHOME": str(home), "LC_ALL": "C"})


def _verify(git: Git, commits: Sequence[str]) -> dict[str, Signature]:
    out = git.run(*_LOG, stdin="".join(f"{sha}\n" for sha in commits).encode())
    tokens = out.decode(errors="replace").split("\0")
    tokens.pop()  # what follows the last NUL: nothing
    found = {}
    for sha, status, key, primary in zip(*[iter(tokens)] * len(_FIELDS), strict=False):
        found[sha] = Signature(status, primary or key or None)
    if found.keys() != set(commits):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    return found
