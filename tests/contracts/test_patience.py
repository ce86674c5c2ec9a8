"""A git that hangs is asked by one at a time, so that it does not hold up everybody."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.shell.git import Git
from reconciler.shell.patience import Patience
from reconciler.shell.source import GitSource
from tests.contracts.toy_replica import wait_for
from tests.repositories import Repository, put_git_on_path
from webapi.store import SpecStore


def silent(patience: Patience) -> None:
    with pytest.raises(SourceUnreachable, match="git log did not finish within 30 s"), patience.asking("log"):
        raise TimeoutError


def test_many_ask_at_once_as_long_as_there_are_answers() -> None:
    patience = Patience("git", 30)
    with patience.asking("log"), patience.asking("log"):
        patience.refuse_if_tried()


def test_after_a_silence_one_tries_and_the_others_are_refused_until_there_is_an_answer() -> None:
    now = [0.0]
    patience = Patience("git", 30, lambda: now[0])
    silent(patience)
    patience.refuse_if_tried()
    now[0] = 42.0
    with patience.asking("log"):
        with pytest.raises(SourceUnreachable, match="git has not answered for 42 s"):
            patience.refuse_if_tried()
        with pytest.raises(SourceUnreachable, match="42 s"), patience.asking("show"):
            raise AssertionError("it is asked")
    with patience.asking("log"), patience.asking("log"):
        patience.refuse_if_tried()


def test_a_trial_that_fails_leaves_room_for_the_next() -> None:
    patience = Patience("git", 30)
    for _ in range(3):
        silent(patience)


def test_a_complaint_is_an_answer() -> None:
    patience = Patience("git", 30)
    silent(patience)
    with pytest.raises(SourceUnreachable, match="broken"), patience.asking("log"):
        raise SourceUnreachable("broken")
    with patience.asking("log"), patience.asking("log"):
        pass


def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str = "*") -> tuple[Path, Path]:
    """Have git commands hang that match a pattern of the shell's, while there is a file; note each in another."""
    switch, calls, real = tmp_path / "hangs", tmp_path / "calls", shutil.which("git")
    script = f'''[ -e "{switch}" ] || exec "{real}" "$@"
        case "$*" in {which}) echo >> "{calls}"; exec sleep 3600;; esac
        exec "{real}" "$@"'''
    put_git_on_path(tmp_path, monkeypatch, script)
    calls.touch()
    return switch, calls


@pytest.mark.parametrize("trial", ["read", "write"])
def test_reads_and_writes_are_refused_at_once_while_another_finds_out_whether_git_still_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: str
) -> None:
    switch, calls = hanging(tmp_path, monkeypatch)
    repository = Repository(tmp_path / "specs.git")
    repository.commit({"README.md": b"x"})
    source = GitSource(str(repository.path), home=tmp_path, timeout_s=3)
    store = SpecStore(source)

    def write() -> None:
        store.write("users/ann/a.yaml", lambda _: b"new", author="ann", subject="write")

    def read() -> None:
        source.tree()

    switch.touch()
    with pytest.raises(SourceUnreachable, match="did not finish"):
        write()
    seen = len(calls.read_text())
    with ThreadPoolExecutor(1) as pool:
        tried = pool.submit({"read": read, "write": write}[trial])
        wait_for(lambda: len(calls.read_text()) > seen, "the trial has begun", 30)
        for meanwhile in (read, write):
            with pytest.raises(SourceUnreachable, match="git has not answered for"):
                meanwhile()
        assert not tried.done(), "the refusal did not wait for the trial"
        assert isinstance(tried.exception(30), SourceUnreachable)
    switch.unlink()
    write()
    assert repository.changed_paths("main") == ["users/ann/a.yaml"]


def test_a_remote_that_hangs_keeps_nobody_from_the_repository_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch, calls = hanging(tmp_path, monkeypatch, "*fetch*")
    repository = Repository(tmp_path / "specs.git")
    head = repository.commit({"README.md": b"x"})
    here = Git(repository.path, 0.5)
    switch.touch()
    with pytest.raises(SourceUnreachable, match="git fetch did not finish"):
        here.attempt("fetch", "elsewhere")

    def fetch() -> None:
        with suppress(SourceUnreachable):
            here.attempt("fetch", "elsewhere")

    fetching = threading.Thread(target=fetch)
    fetching.start()
    wait_for(lambda: len(calls.read_text()) == 2, "git fetch hangs again", 30)
    here.patience.refuse_if_tried()
    assert here.head("main") == head
    fetching.join()
