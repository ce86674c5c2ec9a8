"""What the handlers work with: one value, made at start (`app.create_app`) or by a test, kept in the Flask app."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flask import Flask, current_app

from reconciler.errors import ArgusError
from reconciler.settings import Settings
from reconciler.shell import wake
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import Accounts, EngineLog, LedgerReader, Outbox, SqlLedger, VerdictReader
from webapi.store import SpecStore

log = logging.getLogger(__name__)

_NAME = "argus"


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of one API process."""

    settings: Settings
    store: SpecStore
    folders: DiskModelFolders
    reader: LedgerReader
    verdicts: VerdictReader
    accounts: Accounts
    ledger: SqlLedger
    engine_log: EngineLog
    outbox: Outbox
    admin_token: str

    def nudge(self) -> None:
        """Ask the reconciler for a pass at once. If that fails, its interval finds the commit a little later."""
        try:
            self.ledger.nudge()
            wake.ring(self.settings.home)
        except ArgusError as error:
            log.warning("the reconciler could not be nudged: %s", error)


def keep(app: Flask, platform: Parts) -> None:
    """Make `platform` what the handlers of `app` work with."""
    app.extensions[_NAME] = platform


def parts() -> Parts:
    """Give what the current request's handlers work with."""
    found: Parts = current_app.extensions[_NAME]
    return found
