"""Real git repositories for tests: bare ones that take commits at once, and plain clones as people use them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.entities import WrittenBy
from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.shell.git import Git

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann Author",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Carl Committer",
    "GIT_COMMITTER_EMAIL": "carl@example.org",
}
NO_MODES: Mapping[str, str] = {}


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Run git in `folder` as a person would, without this machine's configuration, and give what it said."""
    return git_bytes(folder, *arguments, stdin=stdin).decode(errors="surrogateescape").strip("\n")


def git_bytes(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Do as `git`, and give exactly what it printed."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
    return done.stdout


def put_git_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have the platform find a shell script where it looks for git."""
    wrapper = folder / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\n{script}\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)


def runs(pid: int) -> bool:
    """Say whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def loose(folder: Path, blob: str) -> Path:
    """Give the file of a loose object, made writable so that a test can break it."""
    path = folder / "objects" / blob[:2] / blob[2:]
    if path.exists():
        path.chmod(0o644)
    return path


class CountingGit(Git):
    """Counts the processes that it starts."""

    started = 0

    def _start(self, arguments: Sequence[str]) -> Any:
        self.started += 1
        return super()._start(arguments)


class Repository:
    """A bare repository with one branch. Commits are at a second of their own each, unless a test says when."""

    def __init__(self, path: Path, branch: str = "main") -> None:
        self.path = path
        self.branch = branch
        self.commits = 0
        git(path.parent, "init", "--quiet", "--bare", f"--initial-branch={branch}", str(path))

    def commit(
        self,
        files: Mapping[str, bytes | None],
        *,
        author: str = "ann",
        at: datetime | None = None,
        source: WrittenBy = "git",
        modes: Mapping[str, str] = NO_MODES,
        message: str = "change",
        trailers: Mapping[str, str] = NO_MODES,
    ) -> str:
        """Put `files` (path to content, None removes) on the branch as one commit, and give its SHA."""
        at = at or EPOCH + timedelta(seconds=self.commits)
        self.commits += 1
        committer = f"{API_NAME} <{API_EMAIL}>" if source == "api" else "Carl <carl@example.org>"
        when = f"{int(at.timestamp())} +0000"
        message += "".join(["\n\n", *(f"{name}: {value}\n" for name, value in trailers.items())]) if trailers else ""
        lines = [
            f"commit refs/heads/{self.branch}\nauthor {author} <{author}@example.org> {when}\n"
            f"committer {committer} {when}\ndata {len(message.encode())}\n{message}\n".encode()
        ]
        if head := self.head():
            lines.append(f"from {head}\n".encode())
        for path, content in files.items():
            if content is None:
                lines.append(f"D {path}\n".encode())
            else:
                mode = modes.get(path, "100644")
                lines.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), path.encode(), len(content), content))
        git(self.path, "fast-import", "--quiet", stdin=b"".join(lines))
        sha = self.head()
        assert sha is not None
        return sha

    def rewind(self, commits: int) -> None:
        """Take the newest commits off the branch, as a forced push does."""
        target = git(self.path, "rev-parse", f"refs/heads/{self.branch}~{commits}")
        git(self.path, "update-ref", f"refs/heads/{self.branch}", target)

    def head(self) -> str | None:
        """Give the branch's newest commit."""
        return git(self.path, "for-each-ref", "--format=%(objectname)", f"refs/heads/{self.branch}") or None

    def log(self, form: str, *arguments: str) -> list[str]:
        """Give one line a commit, newest first."""
        return git(self.path, "log", f"--format={form}", *arguments, f"refs/heads/{self.branch}").splitlines()

    def changed_paths(self, sha: str) -> list[str]:
        """Say which paths a commit changed against its first parent."""
        shown = git(
            self.path, "diff-tree", "-r", "--root", "--no-commit-id", "--name-only", "--diff-merges=first-parent", sha
        )
        return shown.splitlines()

    def show(self, path: str) -> bytes:
        """Give a file's content at the head."""
        return git_bytes(self.path, "show", f"refs/heads/{self.branch}:{path}")

    def check(self) -> None:
        """Have git look at every object."""
        git(self.path, "fsck", "--full", "--strict")
