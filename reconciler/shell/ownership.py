"""Commits as the policy sees them (`core.ownership`), with the facts that git, files and the ledger give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import yaml
from pydantic import TypeAdapter, ValidationError

from reconciler.core import ownership
from reconciler.core.authorship import Authorship, authorship, deciding
from reconciler.core.history import RawCommit
from reconciler.core.ownership import UNSIGNED, Policy, Rights, Rulings, Standing
from reconciler.errors import SourceUnreachable
from reconciler.settings import Authors, Settings
from reconciler.shell.signatures import Signatures
from reconciler.shell.signers import SignerFolder
from reconciler.shell.signing_key import public_half

MOST_AUTHORS = 4 * 1024 * 1024
"""Bytes of `authors_file` that are read."""

_AUTHORS: TypeAdapter[Authors] = TypeAdapter(Authors)

Recall = Callable[[], Rulings]
"""Gives what earlier passes ruled. Raises LedgerUnreachable."""


class Ownership:
    """Rules upon commits of one repository when they are first read. Used by one thread at a time."""

    def __init__(
        self,
        policy: Policy,
        signatures: Signatures,
        signers: SignerFolder,
        *,
        authors: Mapping[str, Sequence[str]],
        authors_file: Path | None = None,
        since: str | None = None,
        recall: Recall = Rulings,
    ) -> None:
        """Rule as `policy` says. Commits up to `since` all count; `recall` tells what was ruled before."""
        self.since = since
        self.recall = recall
        self._policy = policy
        self._signatures = signatures
        self._signers = signers
        self._authors = authors
        self._authors_file = authors_file

    @classmethod
    def from_settings(cls, settings: Settings, folder: Path, recall: Recall = Rulings) -> Self | None:
        """Give what the configuration asks for on the bare repository `folder`; None where it trusts the branch."""
        asked, home = settings.spec_repo.ownership, settings.home
        if asked.policy == "trust_branch":
            return None
        keys = [public_half(home / asked.signing_key), *(home / name for name in asked.platform_keys)]
        registered = home / asked.signers if asked.signers is not None and asked.policy == "signed" else None
        return cls(
            asked.policy,
            Signatures(folder, settings.spec_repo.timeout_s),
            SignerFolder(registered, keys),
            authors=asked.authors,
            authors_file=home / asked.authors_file if asked.authors_file is not None else None,
            since=asked.since,
            recall=recall,
        )

    def rule(self, commits: Sequence[RawCommit]) -> list[RawCommit]:
        """Give commits with what does not count of them. Raises SourceUnreachable."""
        return ownership.ruled(commits, self.standings([raw for raw in commits if ownership.is_judged(raw)]))

    def standings(self, commits: Sequence[RawCommit]) -> dict[str, Standing]:
        """Say who answers for each commit, by its SHA. Raises SourceUnreachable where that cannot be found out."""
        if not commits:
            return {}
        signers = self._signers.read()
        rights = Rights(self._policy, self._known_authors(), signers.owners)
        asked = [raw.commit.sha for raw in commits if ownership.needs_signature(raw.commit, self._policy)]
        signatures = self._signatures.of(asked, signers)
        return {
            raw.commit.sha: ownership.standing(raw.commit, rights, signatures.get(raw.commit.sha, UNSIGNED))
            for raw in commits
        }

    def _known_authors(self) -> dict[str, frozenset[str]]:
        known: dict[str, frozenset[str]] = {}
        for found in (self._authors, _read(self._authors_file) if self._authors_file is not None else {}):
            for email, users in found.items():
                known[email.lower()] = known.get(email.lower(), frozenset()) | frozenset(users)
        return known


def foreseen(settings: Settings, folder: Path, commits: Sequence[RawCommit], *, are_here: bool = True) -> Authorship:
    """Say who wrote what commits bring that are not on the branch, and what the policy would hold back of it.

    `are_here` says that the repository in `folder` has them; of those that somebody only tells of, no signature can be
    looked at. Raises SourceUnreachable.
    """
    asked, judged = settings.spec_repo.ownership.policy, deciding(commits)
    policy = Ownership.from_settings(settings, folder)
    if policy is None:
        return authorship(asked, judged, {})
    unproven = {raw.commit.sha for raw in judged if not are_here and ownership.needs_signature(raw.commit, asked)}
    known = policy.standings([raw for raw in judged if raw.commit.sha not in unproven])
    return authorship(asked, judged, known, unproven)


def _read(path: Path) -> Authors:
    """Read a file that maps e-mail addresses to users. Raises SourceUnreachable, which does not repeat its content."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_AUTHORS + 1)
        if len(content) > MOST_AUTHORS:
            raise SourceUnreachable(f"{path} is larger than {MOST_AUTHORS} bytes")
        return _AUTHORS.validate_python(yaml.safe_load(content) or {})
    except OSError as error:
        raise SourceUnreachable(f"spec_repo.ownership.authors_file: {path}: {type(error).__name__}") from None
    except (yaml.YAMLError, ValidationError):
        raise SourceUnreachable(
            f"spec_repo.ownership.authors_file: {path} cannot be used; right would be a mapping such as "
            'ann@example.org: [alice], with "*" for whoever may write everywhere'
        ) from None
