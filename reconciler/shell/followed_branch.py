"""The branch in memory: its history, kept up with the copy on this disk, and ruled upon commit by commit."""

from __future__ import annotations

from reconciler.core.history import History, RawCommit
from reconciler.core.identity import Carried
from reconciler.core.ownership import Rulings, recalled
from reconciler.errors import BranchInDoubt, Moved, SourceUnreachable
from reconciler.shell.commit_log import LOG, parse_log
from reconciler.shell.ownership import Ownership
from reconciler.shell.spec_copy import SpecCopy


class FollowedBranch:
    """The history of one branch, for one thread at a time.

    To follow costs what is new: no process where the branch did not move, one where it did. It is walked anew where the
    branch no longer continues what was read. Where nobody vouches for a branch that was rewritten, the history stays
    at what counts, and `doubt` says why.
    """

    def __init__(self, copy: SpecCopy, ownership: Ownership | None) -> None:
        """Follow the branch of `copy`. `ownership` rules upon commits; without it all of them count."""
        self._copy = copy
        self._ownership = ownership
        self._doubt: _Doubt | None = None
        self._agreed: str | None = None
        self._carried: Carried | None = None
        self._history = History()

    @property
    def history(self) -> History:
        """What is known of the branch. Another one takes its place where it is walked anew."""
        return self._history

    @property
    def carried(self) -> Carried | None:
        """The identities that history is read with."""
        return self._carried

    @property
    def doubt(self) -> str | None:
        """Why the branch as it stands does not count; None where it does."""
        return self._doubt.why if self._doubt is not None else None

    def carry(self, carried: Carried | None) -> None:
        """Read history with these identities from now on (`core.identity.Carried`)."""
        if carried != self._carried:
            self._carried, self._history = carried, History(carried=carried)

    def advance(self) -> None:
        """Make the history end at the head of the copy on this disk. Raises SourceUnreachable."""
        self._copy.healing(self._follow_head)

    def advance_to_copy(self, trouble: str, since: str | None = None) -> None:
        """Do the same for a copy that may not be the newest, because of `trouble`.

        Raises SourceUnreachable where it is of no use: a copy that `since` is not on may be older than what the asker
        knows, and to go back there would undo things.
        """
        try:
            self.advance()
        except SourceUnreachable:
            raise SourceUnreachable(trouble) from None
        if self._history.head is None or (since is not None and not self._history.holds(since)):
            raise SourceUnreachable(trouble)

    def recall(self, revision: str | None) -> Rulings | None:
        """Give what the loop ruled, for `agree`; None where nothing can differ. Raises LedgerUnreachable."""
        return None if self._ownership is None or revision in {None, self._agreed} else self._ownership.recall()

    def agree(self, revision: str | None, rulings: Rulings) -> bool:
        """Rule as the loop did up to `revision`. Gives True where this side ruled otherwise."""
        self._agreed, history = revision, self._history
        if rulings.revision is None or not history.holds(rulings.revision):
            return False
        mine = {each for each in history.rulings if history.precedes(each[0], rulings.revision)}
        if mine == {each for each in rulings.held if history.holds(each[0])}:
            return False
        self._history = History(carried=self._carried)  # folded anew by the next read
        return True

    def _follow_head(self) -> None:
        head = self._copy.git.head(self._copy.branch)
        if self._doubt is not None and self._doubt.head != head:
            self._doubt = None
        if head == self._history.head or (self._doubt is not None and self._history.head is not None):
            return
        if head is None:
            self._history = History(carried=self._carried)
            return
        try:
            if self._history.head is not None:
                self._extend(self._history, head)
                return
        except _NotContinued:
            pass
        self._begin_anew(head)

    def _begin_anew(self, head: str) -> None:
        rebuilt = History(carried=self._carried)
        try:
            self._extend(rebuilt, head)
        except _Doubt as doubt:
            if self._history.head is None:
                try:
                    self._extend(rebuilt, doubt.known)  # what a forced push drops stays in the repository for a while
                except (_NotContinued, SourceUnreachable):
                    raise BranchInDoubt(doubt.why) from None
                self._history = rebuilt
            self._doubt = doubt
        else:
            self._history = rebuilt

    def _extend(self, history: History, head: str) -> None:
        raw = parse_log(self._log(history.head, head))
        if not raw or raw[-1].commit.sha != head:
            raise SourceUnreachable("git log gave an answer that cannot be read")
        if history.head is not None and raw[0].parent != history.head:
            raise _NotContinued
        raw = self._ruled(raw) if history.head is not None else self._ruled_anew(raw)
        try:
            history.extend(raw)
        except ValueError as error:
            self._history = History(carried=self._carried)
            raise SourceUnreachable(f"the history of branch {self._copy.branch} cannot be read: {error}") from None

    def _ruled(self, commits: list[RawCommit]) -> list[RawCommit]:
        return commits if self._ownership is None else self._ownership.rule(commits)

    def _ruled_anew(self, commits: list[RawCommit]) -> list[RawCommit]:
        """Rule upon a whole branch: as before up to where that was done, anew beyond. Raises _Doubt."""
        if self._ownership is None:
            return commits
        rulings = self._ownership.recall()
        places = {raw.commit.sha: place for place, raw in enumerate(commits)}
        known = [places.get(sha, -1) for sha in (rulings.revision, self._ownership.since) if sha is not None]
        if rulings.revision is not None and rulings.revision not in places:
            known.append(places[self._voucher(commits, rulings.revision)])
        done = max(known, default=-1) + 1
        return [*recalled(commits[:done], rulings), *self._ruled(commits[done:])]

    def _voucher(self, commits: list[RawCommit], known: str) -> str:
        """Give the newest commit by an admin of those that a rewritten branch has and `known` does not. Raises _Doubt.

        One that `known` has vouches for nothing: whoever winds the branch back to it did not make it.
        """
        head = commits[-1].commit.sha
        listed = self._copy.git.attempt("rev-list", "--first-parent", "--end-of-options", head, f"^{known}", "--")
        new = set(listed.out.decode(errors="replace").split())
        mine = [raw for raw in commits if raw.commit.sha in new or listed.status != 0]
        standings = self._ownership.standings(mine) if self._ownership is not None else {}
        for raw in reversed(mine):
            if standings[raw.commit.sha].is_admin:
                return raw.commit.sha
        raise _Doubt(head, known)

    def _log(self, old: str | None, head: str) -> bytes:
        """List the branch's commits after `old` up to `head`, oldest first, with what each changed."""
        outcome = self._copy.git.attempt(*LOG, "--end-of-options", head, *([f"^{old}"] if old else []), "--")
        if outcome.status == 0 and outcome.out:
            return outcome.out
        if old is not None:  # a rewritten branch: nothing is new on it, or its old commits are gone for good
            raise _NotContinued
        raise SourceUnreachable(f"git log failed: {outcome.complaint}")


class _NotContinued(Moved):
    """The branch's head does not descend, by first parents, from what was read before."""


class _Doubt(Moved):
    """The branch was rewritten, and nobody who may write everywhere stands for that. `known` is what counts instead."""

    def __init__(self, head: str, known: str) -> None:
        self.head = head
        self.known = known
        self.why = (
            f"the branch was rewritten from {known[:12]} to {head[:12]}, and nobody who may write everywhere stands "
            f"for that, so {known[:12]} counts; right would be an admin's commit on top (which takes all that is there "
            "as it stands), or the old branch again"
        )
        super().__init__(self.why)
