"""Verdicts with the real parts around the loop: git repositories, a ledger in a file, git notes. Serve is in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.cases import Verdict
from reconciler.shell.notes import REF
from tests.loop.git_world import GitWorld
from tests.loop.world import BROKEN, spec
from tests.repositories import git


@pytest.mark.parametrize("is_remote", [False, True])
def test_the_log_is_the_audit_log_and_outlives_the_ledger(tmp_path: Path, is_remote: bool) -> None:
    world = GitWorld(tmp_path, url=(tmp_path / "specs.git").as_uri() if is_remote else None)
    repository = world.repository
    world.settle(4)
    shas = []
    for content in (spec("qwen"), "rubbish: [", spec("qwen", BROKEN), spec("qwen", seed=1), None):
        shas.append(world.write("alice", "qwen", content))
        world.settle(4)
    told = [Verdict.APPLIED, Verdict.REJECTED, Verdict.FAILED, Verdict.APPLIED, Verdict.REMOVED]
    verdicts = [(sha, verdict) for (sha, _), verdict in world.verdicts().items()]
    assert verdicts == list(zip(shas, told, strict=True))[::-1]
    log = git(repository.path, "log", "--notes=argus", "--format=%H %N", "main")
    first_words = [line.split()[1] for line in log.splitlines() if line[:40] in shas]
    assert first_words == told[::-1]

    before, notes = world.verdicts(), git(repository.path, "rev-parse", REF)
    world.lose_the_ledger()
    world.settle(4)
    assert list(world.verdicts().items()) == list(before.items())
    assert git(repository.path, "rev-parse", REF) == notes
    repository.check()
    world.close()
