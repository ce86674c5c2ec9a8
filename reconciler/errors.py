"""Errors named after what happens next.

`Unreachable` ends the pass before anything is planned: what cannot be seen is not absent. `Moved` means that
somebody else was faster: read again and try again. Everything else that goes wrong with one model is a value
(`SpecRejected`, `Unusable`), because one model's trouble never stops the pass for the others.
"""

from __future__ import annotations


class ArgusError(Exception):
    """Base of every error that Argus raises on purpose. `code` is for machines, the message for people."""

    code = "internal"


class Unreachable(ArgusError):
    """Something outside does not answer. The pass ends; what runs goes on; the next pass tries again."""

    code = "unreachable"


class SourceUnreachable(Unreachable):
    """The spec repository does not answer, or not in time."""

    code = "source_unreachable"


class BranchInDoubt(SourceUnreachable):
    """The branch was rewritten, and nobody who may write everywhere stands for that: nothing new counts until then."""

    code = "branch_in_doubt"


class RuntimeUnreachable(Unreachable):
    """Ray or Serve does not answer, or not in time."""

    code = "runtime_unreachable"


class RuntimeLost(RuntimeUnreachable):
    """The connection to Ray is in a state that nothing in this process mends. A new process connects afresh."""

    code = "runtime_lost"


class LedgerUnreachable(Unreachable):
    """The ledger's database does not answer, or not in time."""

    code = "ledger_unreachable"


class LedgerLost(LedgerUnreachable):
    """The ledger is not the one that was opened: deleted, replaced, or set aside because it was broken.

    Nothing in this process mends that; a new one opens, or makes, the ledger that is there then.
    """


class Moved(ArgusError):
    """What was read is no longer what stands there: a compare-and-swap lost. Read again and try again."""

    code = "moved"


class NotLeader(ArgusError):
    """Another reconciler works, or may: what this one had begun is dropped, and it waits for its turn."""

    code = "not_leader"


class SettingsError(ArgusError):
    """The configuration cannot be used. The message names the key, what was given and what would be right."""

    code = "settings"
