"""The loop over real git and a real ledger in a file, with git notes; only Serve is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import select

from reconciler.core.cases import CaseId, Verdict
from reconciler.core.entities import Event, Record
from reconciler.loop import Reconciler
from reconciler.names import spec_path
from reconciler.ports import LedgerState
from reconciler.shell.access import Access
from reconciler.shell.ledger import LedgerReader, SqlLedger, VerdictReader, open_ledger, rows
from reconciler.shell.ledger.schema import events
from reconciler.shell.notes import GitNotes
from reconciler.shell.source import GitSource
from tests.loop.world import RULES, World
from tests.repositories import Repository

NO_MODES: Mapping[str, str] = {}


class GitWorld(World):
    """A `World` whose repository and ledger are real. Without a `url` the repository is read in place."""

    def __init__(
        self, folder: Path, total_gpus: int = 8, *, url: str | None = None, access: Access | None = None
    ) -> None:
        self.folder = folder
        self.repository = Repository(folder / "specs.git")
        self.repository.commit({"README.md": b"x"})
        self.url = url or str(self.repository.path)
        self._access = access
        self.patience_s = 20.0
        self.rules = RULES
        self._open()
        super().__init__(total_gpus)

    def new_source(self) -> GitSource:
        """Give the repository as a new process reads it."""
        return GitSource(self.url, home=self.folder / "home", access=self._access, patience_s=self.patience_s)

    def restart(self) -> None:
        """Begin a new reconciler process with the mirror and the ledger that are there."""
        self.git_source = self.new_source()
        self.loop = Reconciler(
            self.git_source,
            self.folders,
            self.runtime,
            self.front,
            SqlLedger(self.engine),
            self.rules,
            lambda: self.now,
            notes=GitNotes(self.url, home=self.folder / "home", access=self._access),
        )

    def _open(self) -> None:
        self.engine = open_ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}", 30)

    def lose_the_ledger(self) -> None:
        self.close()
        for file in self.folder.glob("ledger.sqlite*"):
            file.unlink()
        self._open()
        self.restart()

    def close(self) -> None:
        self.engine.dispose()

    def write(self, user: str, suffix: str, text: str | None, author: str | None = None) -> str:
        return self.push({spec_path(user, suffix): text}, author=author or user)

    def push(
        self,
        files: Mapping[str, str | None],
        trailers: str = "",
        *,
        author: str = "ann",
        modes: Mapping[str, str] = NO_MODES,
    ) -> str:
        content = {path: None if text is None else text.encode() for path, text in files.items()}
        message = f"change\n\n{trailers}\n" if trailers else "change"
        return self.repository.commit(content, author=author, modes=modes, message=message)

    def known(self) -> LedgerState:
        return SqlLedger(self.engine).load()

    def by_path(self) -> dict[str, Record]:
        """Give the models that there are, by the paths of their files."""
        return {record.identity.path: record for record in LedgerReader(self.engine).models(None).values()}

    def all_events(self) -> list[Event]:
        with self.engine.connect() as connection:
            return [
                rows.event_of(text)
                for text in connection.execute(select(events.c.event).order_by(events.c.id)).scalars()
            ]

    def verdicts(self) -> dict[CaseId, Verdict | None]:
        pages = VerdictReader(self.engine).page(None, 1000)
        return {case.id: case.verdict for _, cases in pages for case in cases}

    def changes(self) -> list[CaseId]:
        """Give every change of a spec file on the branch as git has it, oldest first."""
        entries = "\n".join(self.repository.log("%x00%H", "--reverse", "--name-only")).split("\0")
        lines = [entry.split() for entry in entries if entry]
        return [(sha, path) for sha, *paths in lines for path in paths if path.startswith("users/")]
