"""Verdicts with the real parts around the loop: git repositories, a ledger in a file, git notes. Serve is in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.core.cases import Verdict
from reconciler.loop import Reconciler
from reconciler.shell.ledger import SqlLedger, VerdictReader, open_ledger
from reconciler.shell.notes import REF, GitNotes
from reconciler.shell.source import GitSource
from reconciler.testing import MemoryFolders, MemoryFront, MemoryRuntime
from tests.loop.world import BROKEN, GOOD, RULES, spec
from tests.repositories import Repository, git

PATH = "users/alice/qwen.yaml"


class Platform:
    """The loop over a real repository; each `start` is a new process with the ledger that is there."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.runtime = MemoryRuntime()
        self.runtime.broken.add(BROKEN)
        self.start()

    def start(self) -> None:
        self.engine = open_ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}", 30)
        self.reader = VerdictReader(self.engine)
        self.loop = Reconciler(
            GitSource(self.url, home=self.folder),
            MemoryFolders([GOOD, BROKEN]),
            self.runtime,
            MemoryFront(),
            SqlLedger(self.engine),
            RULES,
            lambda: self.now,
            notes=GitNotes(self.url, home=self.folder),
        )

    def lose_the_ledger(self) -> None:
        self.engine.dispose()
        for file in self.folder.glob("ledger.sqlite*"):
            file.unlink()
        self.start()

    def settle(self) -> None:
        for _ in range(5):
            self.loop.reconcile_once()
            self.runtime.step()
            self.now += timedelta(seconds=1)

    def verdicts(self) -> list[tuple[str, Verdict | None]]:
        return [(case.commit.sha, case.verdict) for _, cases in self.reader.page(None, 100) for case in cases]


@pytest.mark.parametrize("is_remote", [False, True])
def test_the_log_is_the_audit_log_and_outlives_the_ledger(tmp_path: Path, is_remote: bool) -> None:
    (tmp_path / "far").mkdir()
    repository = Repository(tmp_path / "far" / "specs.git")
    repository.commit({"README.md": b"x"})
    platform = Platform(repository.path.as_uri() if is_remote else str(repository.path), tmp_path)
    platform.settle()
    shas = []
    for content in (spec("qwen"), "rubbish: [", spec("qwen", BROKEN), spec("qwen", seed=1), None):
        shas.append(repository.commit({PATH: content.encode() if content else None}))
        platform.settle()
    told = [Verdict.APPLIED, Verdict.REJECTED, Verdict.FAILED, Verdict.APPLIED, Verdict.REMOVED]
    assert platform.verdicts() == list(zip(shas, told, strict=True))[::-1]
    log = git(repository.path, "log", "--notes=argus", "--format=%H %N", "main")
    first_words = [line.split()[1] for line in log.splitlines() if line[:40] in shas]
    assert first_words == told[::-1]

    before, notes = platform.verdicts(), git(repository.path, "rev-parse", REF)
    platform.lose_the_ledger()
    platform.settle()
    assert platform.verdicts() == before
    assert git(repository.path, "rev-parse", REF) == notes
    repository.check()
    platform.engine.dispose()
