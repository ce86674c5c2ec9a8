"""What the embedded repository takes from people who push, and what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.shell.embedded_repo import PUSHED, ensure
from tests.repositories import git


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    template = tmp_path / "template"
    template.mkdir()
    (template / "README.md").write_text("x")
    ensure(tmp_path / "specs.git", template)
    return tmp_path / "specs.git"


def clone(upstream: Path, name: str) -> Path:
    folder = upstream.parent / name
    git(upstream.parent, "clone", "--quiet", str(upstream), str(folder))
    return folder


def commit(folder: Path, name: str) -> None:
    (folder / name).write_text(name)
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", f"Add {name}")


def push(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), "push", *flags, "origin", "HEAD:main"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_plain_push_lands(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    commit(ann, "a")
    commit(ann, "b")
    assert push(ann).returncode == 0


def test_a_merged_feature_branch_lands(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    git(ann, "switch", "--quiet", "-c", "feature")
    commit(ann, "a")
    git(ann, "switch", "--quiet", "main")
    git(ann, "merge", "--quiet", "--no-ff", "--no-edit", "feature")
    assert push(ann).returncode == 0


def test_main_merged_into_a_fork_of_it_is_refused_with_the_way_out(upstream: Path) -> None:
    ann, bob = clone(upstream, "ann"), clone(upstream, "bob")
    commit(ann, "a")
    assert push(ann).returncode == 0
    commit(bob, "b")
    git(bob, "pull", "--quiet", "--no-rebase", "--no-edit", "origin", "main")
    refused = push(bob)
    assert refused.returncode != 0
    assert "git pull --rebase" in refused.stderr
    git(bob, "reset", "--quiet", "--hard", "HEAD^1")
    git(bob, "pull", "--quiet", "--rebase", "origin", "main")
    assert push(bob).returncode == 0


def test_history_may_be_rewritten_by_force(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    commit(ann, "a")
    assert push(ann).returncode == 0
    git(ann, "commit", "--quiet", "--amend", "-m", "again")
    assert push(ann, "--force").returncode == 0


def test_a_push_is_announced_at_once_and_says_where_to_look(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    commit(ann, "a")
    done = push(ann)
    head = git(ann, "rev-parse", "HEAD")
    assert (upstream / PUSHED).read_text() == f"{head}\n"
    assert f"argus commits --wait {head[:12]}\n" in done.stderr.replace(" " * 8 + "\n", "\n")


def test_a_push_to_another_branch_is_not_announced(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    commit(ann, "a")
    done = subprocess.run(
        ["git", "-C", str(ann), "push", "origin", "HEAD:topic"], capture_output=True, text=True, check=True
    )
    assert (upstream / PUSHED).read_text() == ""
    assert "argus commits" not in done.stderr


def test_a_push_lands_where_it_cannot_be_announced(upstream: Path) -> None:
    ann = clone(upstream, "ann")
    commit(ann, "a")
    (upstream / PUSHED).unlink()
    (upstream / PUSHED).mkdir()
    done = push(ann)
    assert done.returncode == 0
    assert "directory" not in done.stderr


def test_a_repository_from_before_gets_the_hook_and_a_hook_of_ones_own_stays(upstream: Path) -> None:
    hook, template = upstream / "hooks" / "post-receive", upstream.parent / "template"
    text = hook.read_text()
    for older in (None, text.replace("argus commits", "argus something")):
        hook.unlink()
        if older is not None:
            hook.write_text(older)
        assert not ensure(upstream, template)
        assert hook.read_text() == text
        assert hook.stat().st_mode & 0o111
    hook.write_text("#!/bin/sh\necho mine\n")
    ensure(upstream, template)
    assert hook.read_text() == "#!/bin/sh\necho mine\n"
