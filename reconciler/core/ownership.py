"""Whose commits count: `users/<u>/` is written by those who may, and what others bring is held. Pure.

A commit has one person who answers for all that it changed against its first parent (`Standing`); a merge's is whoever
made the merge. What that person may not write does not count: the file stays what the last commit that counts made of
it. Rulings are made once, when a commit is first seen, and remembered (`Rulings`): a key that is taken away later
stops new commits, and leaves what runs as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

from reconciler.core.desired import Withheld
from reconciler.core.entities import Commit, FileChange, Held, HoldKind, Record, State
from reconciler.core.gates import Gate, Pending
from reconciler.core.history import (
    ACCEPT,
    ALLOW_REMOVAL,
    API_EMAIL,
    API_NAME,
    OVERRIDE_FREEZE,
    PathChange,
    RawCommit,
)
from reconciler.names import RULES_FILE, spelt, user_of_path

Policy: TypeAlias = Literal["trust_branch", "author_map", "signed"]

ADMINS = "*"
"""In the place of a user: whoever may write everywhere."""

FORGE = "@forge"
"""Owner of a code host's key: it signs merges for others, and the author's e-mail says for whom."""

PLATFORM = "@platform"
"""Owner of the keys that the API signs its commits with."""

API_ADMIN = "admin"
API_DOMAIN = "@users.argus"
"""The API writes its caller's name into the author's e-mail."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What git says of a commit's signature: the letter of its `%G?`, and the fingerprint of the key (GPG: primary)."""

    status: str
    key: str | None = None

    @property
    def is_good(self) -> bool:
        """Say whether it is a registered key's and was valid when the commit was made."""
        return self.status == "G" and self.key is not None


UNSIGNED = Signature("N")


@dataclass(frozen=True, slots=True)
class Rights:
    """What the configuration says: how commits are judged, and who may write what.

    `authors` holds, by e-mail in lower case, users or `ADMINS`; `keys`, by fingerprint, users, `ADMINS`, `FORGE` or
    `PLATFORM`.
    """

    policy: Policy
    authors: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """Who answers for a commit and what that lets it write. `who` says it in words, `right` what would be right.

    `rules` lets it write `argus.yaml`: the API changes there what its caller may, and no more.
    """

    who: str
    users: frozenset[str] = frozenset()
    right: str = ""
    rules: bool = False

    @property
    def is_admin(self) -> bool:
        """Say whether it may write everywhere."""
        return ADMINS in self.users

    def may_write(self, path: str) -> bool:
        """Say whether a commit of this standing counts at `path`."""
        if not is_owned(path) or self.is_admin:
            return True
        return self.rules if path == RULES_FILE else user_of_path(path) in self.users


Ruling: TypeAlias = tuple[str, str]
"""A commit's full SHA, and a path (`names.spelt`) or a trailer of it that does not count.

Where `Argus-Allow-Removal` counts for the models of some users only, each of them is `Argus-Allow-Removal:<user>`, and
`Argus-Allow-Removal:` alone says that there are none.
"""


@dataclass(frozen=True, slots=True)
class Rulings:
    """What earlier passes ruled: every commit of the branch up to `revision` counts, but for what `held` names."""

    revision: str | None = None
    held: frozenset[Ruling] = frozenset()


def is_owned(path: str) -> bool:
    """Say whether it matters who writes `path`."""
    return path == RULES_FILE or user_of_path(path) is not None


def is_judged(raw: RawCommit) -> bool:
    """Say whether anything hangs on who made a commit."""
    return bool(raw.trailers) or any(is_owned(change.path) for change in raw.changes)


def needs_signature(commit: Commit, policy: Policy) -> bool:
    """Say whether a commit's signature is looked at: under `author_map` only of those that say they are the API's."""
    return policy == "signed" or claims_platform(commit)


def claims_platform(commit: Commit) -> bool:
    """Say whether a commit's committer is the API's. Whoever can push can write that, so it proves nothing."""
    return commit.source == "api"


def standing(commit: Commit, rights: Rights, signature: Signature) -> Standing:
    """Say who answers for a commit."""
    owners = rights.keys.get(signature.key or "", frozenset()) if signature.is_good else frozenset()
    if PLATFORM in owners and claims_platform(commit):
        return _caller(commit)
    if claims_platform(commit):
        return Standing(
            f"{_author(commit)}, with the committer {API_NAME} <{API_EMAIL}> but without the platform's signature",
            right="a request to the API, or a commit of one's own",
        )
    if rights.policy == "author_map":
        return _by_mail(commit, rights)
    if FORGE in owners:
        return _by_mail(commit, rights)
    users = owners - {PLATFORM}
    if users:
        return Standing(f"{_author(commit)}, signed with a key of {_listed(users)}", users, _RIGHT_SIGNED)
    return Standing(f"{_author(commit)}, {_flaw(signature)}", right=_RIGHT_SIGNED)


def ruled(commits: Sequence[RawCommit], standings: Mapping[str, Standing]) -> list[RawCommit]:
    """Give commits with what does not count of them. `standings` has those of all that are judged, by SHA."""
    return [_ruled(raw, standings[raw.commit.sha]) if is_judged(raw) else raw for raw in commits]


def recalled(commits: Sequence[RawCommit], rulings: Rulings) -> list[RawCommit]:
    """Give commits that were ruled upon before."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for sha, name in rulings.held:
        named[sha].add(name)
    return [
        _recalled(raw, named[raw.commit.sha]) if raw.trailers or raw.commit.sha in named else raw for raw in commits
    ]


def left_held(commits: Iterable[RawCommit]) -> dict[str, str]:
    """Give the paths that commits, oldest first, leave held, each with the reason."""
    held: dict[str, str] = {}
    for raw in commits:
        for path in (*(change.path for change in raw.changes), *raw.accepted):
            held.pop(path, None)
        held |= {change.path: raw.held[change.path] for change in raw.changes if change.path in raw.held}
    return held


def gate(held: Mapping[str, str]) -> Gate:
    """Give a gate that holds these paths back, for a plan of commits that are not on the branch yet.

    What is on the branch needs none: what does not count there does not happen.
    """

    def ask(changes: Mapping[str, Pending]) -> dict[str, Withheld]:
        paths = {key: change.identity.path for key, change in changes.items()}
        return {key: Withheld(HoldKind.POLICY, held[path]) for key, path in paths.items() if path in held}

    return ask


def unmarked(records: Mapping[str, Record]) -> dict[str, Record]:
    """Give records without the word on what is held: it is shown, and decides nothing."""
    return {key: replace(record, held=None) if _is_marked(record) else record for key, record in records.items()}


def marked(
    records: Mapping[str, Record], held: Iterable[FileChange], before: Mapping[str, Record], now: datetime
) -> dict[str, Record]:
    """Give records that say which newer change of theirs is held. One that a gate holds back says that instead.

    `before` are the records of the last pass: a hold that goes on keeps its time.
    """
    after = dict(records)
    for change in held:
        key, record = change.identity.model_key, records.get(change.identity.model_key)
        if record is None or record.held is not None or change.held is None or record.state in _GONE:
            continue
        had = before[key].held if key in before else None
        goes_on = had is not None and (had.kind, had.commit.sha) == (HoldKind.POLICY, change.commit.sha)
        since = had.since if had is not None and goes_on else now
        after[key] = replace(
            record, held=Held(HoldKind.POLICY, change.held, since, change.commit, removes=change.after is None)
        )
    return after


def _is_marked(record: Record) -> bool:
    return record.held is not None and record.held.kind is HoldKind.POLICY


def _ruled(raw: RawCommit, who: Standing) -> RawCommit:
    held = {change.path: _why(change, who) for change in raw.changes if not who.may_write(change.path)}
    held |= {path: f"{who.who}, may not accept it" for path in _said(raw) if not who.may_write(path)}
    held |= {name: f"{who.who}, is no admin" for name in raw.trailers.keys() & _ADMINS_ONLY if not who.is_admin}
    if ALLOW_REMOVAL in raw.trailers and not who.is_admin:
        held |= {f"{_SPEAKS_FOR}{user}": f"{who.who}, is no admin" for user in who.users or {""}}
    return _with(raw, held)


def _recalled(raw: RawCommit, names: Set[str]) -> RawCommit:
    known = (*(change.path for change in raw.changes), *_said(raw), *raw.trailers)
    held = [name for name in known if spelt(name) in names]
    held += (name for name in names if name.startswith(_SPEAKS_FOR))
    return _with(raw, dict.fromkeys(held, _BEFORE))


def _with(raw: RawCommit, held: Mapping[str, str]) -> RawCommit:
    accepted = tuple(path for path in _said(raw) if path not in held)
    if not held and not accepted:
        return raw
    trailers = {name: value for name, value in raw.trailers.items() if name not in held}
    return replace(raw, held=held, accepted=accepted, trailers=trailers, speaks_for=_speaks_for(held))


def _speaks_for(held: Iterable[str]) -> frozenset[str] | None:
    """Read for whose models the commit may allow removals. None: nothing was ruled on that."""
    users = [name.removeprefix(_SPEAKS_FOR) for name in held if name.startswith(_SPEAKS_FOR)]
    return frozenset(users) - {""} if users else None


def _said(raw: RawCommit) -> list[str]:
    """Give the paths that a commit says it accepts."""
    return [path for path in raw.trailers.get(ACCEPT, "").split() if is_owned(path)]


def _why(change: PathChange, who: Standing) -> str:
    user_id = user_of_path(change.path)
    whose = f"which belongs to {user_id}" if user_id else "which only admins may write"
    did = "removed" if change.after is None else "added" if change.before is None else "changed"
    by = f"a commit by {user_id} or an admin" if user_id else "a commit by an admin"
    return f"{who.who}, {did} {spelt(change.path)}, {whose}; right would be {by}{': ' if who.right else ''}{who.right}"


def _caller(commit: Commit) -> Standing:
    """Read whom the platform acted for: a caller of the API, who may write there, or nobody but itself."""
    if commit.email == API_EMAIL:
        return Standing(f"{API_NAME} itself", frozenset({ADMINS}), rules=True)
    name = commit.email.removesuffix(API_DOMAIN)
    return Standing(f"{name} by the API", frozenset({ADMINS if name == API_ADMIN else name}), rules=True)


def _by_mail(commit: Commit, rights: Rights) -> Standing:
    users = rights.authors.get(commit.email.lower(), frozenset())
    known = f"who may write for {_listed(users)}" if users else "whose e-mail address is not registered"
    return Standing(f"{_author(commit)}, {known}", users, "an author's address that is registered for that")


def _author(commit: Commit) -> str:
    return f"{commit.author} <{commit.email}>"


def _listed(users: frozenset[str]) -> str:
    return "everybody" if ADMINS in users else ", ".join(sorted(users)[:5])


_GONE = {State.DELETING, State.DELETED}
_ADMINS_ONLY = {OVERRIDE_FREEZE}
_SPEAKS_FOR = f"{ALLOW_REMOVAL}:"

_BEFORE = "held when it came"

_RIGHT_SIGNED = "signed (git commit -S) with a key that is registered for that"

_FLAWS = {
    "N": "not signed",
    "B": "with a signature that does not match the commit",
    "X": "signed with a signature that has expired",
    "Y": "signed with a key that has expired",
    "R": "signed with a key that was revoked",
}


def _flaw(signature: Signature) -> str:
    flaw = _FLAWS.get(signature.status)
    if flaw is None:
        flaw = "signed with a key that is not registered, or was not valid then"
    return f"{flaw} ({signature.key})" if signature.key and signature.status != "N" else flaw
