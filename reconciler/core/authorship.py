"""Who wrote the files of a change that is not on the branch yet, and what a policy would hold back of it. Pure.

Said of the commits as they are, as if the branch ended with them. What hangs on a signature that nobody here can look
at is said to be unknown, and never guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.entities import Commit
from reconciler.core.history import ACCEPT, PathChange, RawCommit
from reconciler.core.ownership import ADMINS, Policy, Standing, is_owned, left_held, ruled
from reconciler.names import RULES_FILE, spelt


@dataclass(frozen=True, slots=True)
class Authorship:
    """Who wrote each path last (`writers`), which paths `policy` would hold back and why, and where nobody can tell."""

    policy: Policy
    writers: Mapping[str, Commit] = field(default_factory=dict, hash=False)
    held: Mapping[str, str] = field(default_factory=dict, hash=False)
    unproven: frozenset[str] = frozenset()

    def counting(self, changes: Iterable[PathChange]) -> tuple[PathChange, ...]:
        """Leave out rules that would not count. Specs stay in: a gate holds those back, and says so."""
        return tuple(change for change in changes if change.path != RULES_FILE or RULES_FILE not in self.held)

    def notes(self) -> list[str]:
        """Give what is to be said of no single model, a line each."""
        said = [f"{RULES_FILE} would be held: {self.held[RULES_FILE]}"] if RULES_FILE in self.held else []
        if self.unproven:
            first, more = spelt(min(self.unproven)), len(self.unproven) - 1
            said.append(
                f"the policy {self.policy} asks for signatures, which are not sent with a plan: whether "
                f"{first}{f' and {more} more' if more else ''} would be held is not known here"
            )
        return said


def deciding(commits: Sequence[RawCommit], paths: Collection[str] | None = None) -> list[RawCommit]:
    """Give of commits, oldest first, what decides who answers for `paths` (None: for whatever somebody may own).

    That is the last change of each path, and the acceptances after it: few commits, however long a branch is.
    """
    last = {change.path: raw.commit.sha for raw in commits for change in raw.changes}
    found: list[RawCommit] = []
    written: set[str] = set()
    for raw in commits:
        mine = [change for change in raw.changes if last[change.path] == raw.commit.sha and is_owned(change.path)]
        changes = tuple(change for change in mine if paths is None or change.path in paths)
        written |= {change.path for change in changes}
        accepts = " ".join(path for path in raw.trailers.get(ACCEPT, "").split() if path in written)
        if changes or accepts:
            found.append(replace(raw, changes=changes, trailers={ACCEPT: accepts} if accepts else {}))
    return found


def authorship(
    policy: Policy, commits: Sequence[RawCommit], standings: Mapping[str, Standing], unproven: Collection[str] = ()
) -> Authorship:
    """Say who wrote what `commits`, oldest first, bring.

    Args:
        policy: Whose commits count.
        commits: What would come onto the branch, or as much of it as is `deciding`.
        standings: Who answers for those that are judged, by SHA; for none of them where every commit counts.
        unproven: The SHAs of commits that only their signature could judge, and that is not here.
    """
    writers = {change.path: raw.commit for raw in commits for change in raw.changes}
    if policy == "trust_branch":
        return Authorship(policy, writers)
    judged = ruled(commits, {**standings, **dict.fromkeys(unproven, _UNKNOWN)})
    held = {path: f"{why} (a merge would be its maker's instead)" for path, why in left_held(judged).items()}
    answers: dict[str, str] = {}
    for raw in judged:
        for path in (*(change.path for change in raw.changes), *raw.accepted):
            answers[path] = raw.commit.sha
    open_ = frozenset(path for path, sha in answers.items() if is_owned(path) and sha in unproven)
    return Authorship(policy, writers, held, open_)


_UNKNOWN = Standing("", frozenset({ADMINS}))
"""Holds nothing back: of what it stands for, nothing is said but that it is not known."""
