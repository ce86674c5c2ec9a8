"""`argus plan` on real clones: what merging a branch would do, said before anybody merges it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from argus import cli
from argus.plan_text import FORMATS, LONGEST_MESSAGE, MARKER, MOST_ROWS
from tests.repositories import git, loose

ROOT = Path(__file__).parents[2]


def spec(suffix: str, replicas: int = 1, gpus: int = 1, more: str = "") -> str:
    return (
        f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\n"
        f"num_replicas: {replicas}\ngpus_per_replica: {gpus}\n{more}"
    )


BASE = {
    "users/alice/calm.yaml": spec("calm"),
    "users/alice/chat.yaml": spec("chat"),
    "users/alice/code.yaml": spec("code"),
    "users/bob/gone.yaml": spec("gone", gpus=2),
    "users/bob/note.yaml": spec("note"),
}
CHANGE = {
    "users/alice/chat.yaml": spec("chat", replicas=3),
    "users/alice/code.yaml": spec("code", more="engine_kwargs:\n  max_model_len: 8192\n"),
    "users/bob/gone.yaml": None,
    "users/bob/note.yaml": "# for the launch\n" + spec("note"),
    "users/carol/new.yaml": spec("new"),
    "users/carol/wrong.yaml": spec("wrong", more="nonsense: 1\n"),
}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a clone with `main`, and `topic` with the change, and stand in it."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "specs")
    folder = tmp_path / "specs"
    commit(folder, BASE)
    git(folder, "checkout", "--quiet", "-b", "topic")
    commit(folder, CHANGE)
    monkeypatch.chdir(folder)
    return folder


def commit(folder: Path, files: Mapping[str, str | None]) -> str:
    for path, text in files.items():
        file = folder / path
        if text is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["plan", *arguments], {})
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    status, said, trouble = plan(capsys, *arguments, "--format", "json")
    assert status == 0, trouble
    return json.loads(said)


def effects(found: Any) -> dict[str, str]:
    return {each["path"]: each["effect"] for each in found["changes"]}


def test_each_model_of_the_change_is_told_with_what_happens_to_it(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(capsys, "main..topic")
    assert effects(found) == {
        "users/alice/chat.yaml": "scale",
        "users/alice/code.yaml": "roll",
        "users/bob/gone.yaml": "remove",
        "users/bob/note.yaml": "update",
        "users/carol/new.yaml": "create",
        "users/carol/wrong.yaml": "reject",
    }
    assert found["untouched"] == {"count": 1, "paths": ["users/alice/calm.yaml"]}
    assert found["gpus"] == {"before": 6, "after": 7, "total": None}
    assert found["owners"] == [
        {"user_id": "alice", "before": 3, "after": 5},
        {"user_id": "bob", "before": 3, "after": 1},
        {"user_id": "carol", "before": 0, "after": 1},
    ]
    assert found["new_users"] == ["carol"]
    assert (found["base"], found["head"]) == (git(clone, "rev-parse", "main"), git(clone, "rev-parse", "topic"))
    wrong = found["changes"][-1]
    assert (wrong["line"], wrong["field"]) == (5, "nonsense")


def test_a_file_whose_object_is_damaged_is_told_and_everybody_else_is_planned(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = git(clone, "rev-parse", "topic:users/alice/code.yaml")
    loose(clone / ".git", blob).write_bytes(b"")
    found = planned(capsys, "main..topic")
    assert effects(found)["users/alice/code.yaml"] == "block"
    assert blob in next(each["message"] for each in found["changes"] if each["path"] == "users/alice/code.yaml")
    assert effects(found)["users/alice/chat.yaml"] == "scale"
    status, said, _ = plan(capsys, "main..topic")
    assert status == 0
    assert "cannot be done as things are: what runs goes on" in said
    loose(clone / ".git", git(clone, "rev-parse", "main:users/bob/note.yaml")).unlink()
    assert effects(planned(capsys, "main..topic"))["users/bob/note.yaml"] == "start", "nobody can read the base's"


def test_without_a_range_it_is_what_head_brings_to_main(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys) == planned(capsys, "main..topic") == planned(capsys, "main...") == planned(capsys, "main")
    git(clone, "update-ref", "refs/remotes/origin/main", "topic")
    assert planned(capsys)["changes"] == []


def test_capacity_decides_on_downtime_and_waiting_only_where_it_is_known(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def roll(*arguments: str) -> Any:
        return next(each for each in planned(capsys, *arguments)["changes"] if each["effect"] == "roll")["downtime"]

    assert roll() is None
    assert roll("--gpus", "64") is False
    tight = {"users/alice/chat.yaml": None, "users/carol/new.yaml": spec("new", gpus=4)}
    commit(clone, tight)
    found = planned(capsys, "--gpus", "6")
    waits = next(each for each in found["changes"] if each["path"] == "users/carol/new.yaml")
    assert waits["effect"] == "wait"
    assert "needs 4 GPUs" in waits["message"]
    git(clone, "checkout", "--quiet", "-b", "full", "main")
    commit(clone, {"users/alice/code.yaml": spec("code", more="engine_kwargs: {seed: 7}\n")})
    assert roll("main..full", "--gpus", "6") is True


def test_it_is_the_merge_that_is_planned_and_not_a_comparison_of_two_trees(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(clone, "checkout", "--quiet", "main")
    commit(clone, {"users/dave/later.yaml": spec("later"), "users/alice/calm.yaml": spec("calm", replicas=2)})
    found = planned(capsys, "main..topic")
    assert "users/dave/later.yaml" not in effects(found)
    assert found["untouched"]["paths"] == ["users/alice/calm.yaml", "users/dave/later.yaml"]


def test_a_file_changed_on_both_sides_cannot_be_planned_and_is_named(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(clone, "checkout", "--quiet", "main")
    commit(clone, {"users/alice/chat.yaml": spec("chat", replicas=2)})
    status, out, err = plan(capsys, "main..topic")
    assert (status, out) == (1, "")
    assert "users/alice/chat.yaml" in err
    assert "rebase" in err


def test_models_keep_the_names_that_the_branch_has_given_them(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {each["path"]: (each["model_key"], each["model_id"]) for each in planned(capsys)["changes"]}
    assert names["users/carol/new.yaml"] == (None, None)
    key, model_id = names["users/alice/chat.yaml"]
    assert key.startswith("svc-alice-")
    assert model_id.endswith("-chat")


def test_what_the_policy_would_hold_back_is_planned_as_held(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "argus.yaml"
    author = git(clone, "log", "-1", "--format=%ae", "topic")

    def ask(users: str) -> Any:
        config.write_text(f"spec_repo: {{ownership: {{policy: author_map, authors: {{{author}: {users}}}}}}}\n")
        return planned(capsys, "main..topic", "--config", str(config))

    found = ask("[alice, carol]")
    held = {change["path"]: change["message"] for change in found["changes"] if change["effect"] == "withhold"}
    assert list(held) == ["users/bob/gone.yaml"]
    assert "belongs to bob" in held["users/bob/gone.yaml"]
    assert found["policy"] == {"name": "author_map", "notes": []}
    assert {change["written_by"]["email"] for change in found["changes"]} == {author}
    found = ask("['*']")
    assert "withhold" not in {change["effect"] for change in found["changes"]}
    found = planned(capsys, "main..topic")
    assert found["policy"] is None
    assert {change["written_by"] for change in found["changes"]} == {None}, "it plays no part"


def test_exit_code_is_2_only_where_something_would_change_and_it_was_asked_for(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(capsys)[0] == 0
    assert plan(capsys, "--exit-code")[0] == 2
    assert plan(capsys, "main..main", "--exit-code")[0] == 0
    git(clone, "checkout", "--quiet", "-b", "words", "main")
    commit(clone, {"README.md": "# Ours\n"})
    assert plan(capsys, "main..words", "--exit-code")[0] == 0


@pytest.mark.parametrize(
    "named", ["absent..topic", "main..absent", "--upload-pack=touch x..topic", "main..topic^{tree}"]
)
def test_what_is_no_commit_is_exit_1(clone: Path, capsys: pytest.CaptureFixture[str], named: str) -> None:
    status, out, err = plan(capsys, "--format", "text", "--", named)
    assert (status, out) == (1, "")
    assert "is no commit" in err


def test_outside_of_a_repository_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = plan(capsys, "--repo", str(tmp_path))
    assert (status, "--repo" in err) == (1, True)


def test_a_shallow_clone_without_the_fork_is_told_what_to_do(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(clone, "checkout", "--quiet", "main")
    commit(clone, {"users/dave/later.yaml": spec("later")})
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-single-branch", f"file://{clone}", "shallow")
    status, _, err = plan(capsys, "--repo", str(tmp_path / "shallow"), "origin/main..origin/topic")
    assert (status, "fetch all of the history" in err) == (1, True)


def test_bare_repositories_and_work_trees_are_read_alike(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(clone), "bare.git")
    git(clone, "worktree", "add", "--quiet", str(tmp_path / "tree"), "main")
    here = planned(capsys, "main..topic")
    for other in ("bare.git", "tree", "tree/users/alice"):
        assert planned(capsys, "main..topic", "--repo", str(tmp_path / other)) == here


def test_nothing_of_a_change_is_run_and_the_clone_stays_as_it_was(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = f"#!/bin/sh\ntouch {tmp_path}/sprung\n"
    sitecustomize = f"open('{tmp_path}/sprung', 'w')\n"
    commit(clone, {"sitecustomize.py": sitecustomize, ".gitattributes": "* filter=evil diff=evil\n"})
    for name in ("post-checkout", "post-index-change", "reference-transaction"):
        hook = clone / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(trap)
        hook.chmod(0o755)
    (clone / "evil.sh").write_text(trap)
    (clone / "evil.sh").chmod(0o755)
    for key in ("filter.evil.smudge", "diff.evil.textconv", "diff.external", "core.fsmonitor"):
        git(clone, "config", key, str(clone / "evil.sh"))
    assert not (tmp_path / "sprung").exists()
    before = sorted((path, path.stat().st_mtime_ns) for path in (clone / ".git").rglob("*"))
    assert planned(capsys)["changes"]
    assert not (tmp_path / "sprung").exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in (clone / ".git").rglob("*")) == before


def test_the_text_form_reads_like_this(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = plan(capsys, "--gpus", "16")
    base, head = git(clone, "rev-parse", "main")[:12], git(clone, "rev-parse", "topic")[:12]
    first, *lines = said.splitlines()
    assert status == 0
    assert first == (
        f"Plan of {head} on {base}, as if all of that ran: "
        "1 created, 1 updated in place, 1 scaled, 1 rolled, 1 removed, 1 rejected"
    )
    assert lines[:4] == [
        "  ~ alice/chat: scaled from 1 to 3 replicas, nothing restarts [1 → 3 GPUs]",
        "      num_replicas: 1 → 3",
        "  ~ alice/code: rolled: without downtime, new engines start beside the old",
        "      engine_kwargs.max_model_len: its default → 8192",
    ]
    assert "  + carol/new: created, 1 replica; the merge gives it its name [0 → 1 GPUs]" in lines
    assert "GPUs: 6 → 7 of 16" in lines
    assert "Untouched: 1 model (alice/calm)" in lines


def test_the_comment_is_the_same_for_the_same_change_and_begins_with_its_marker(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = plan(capsys, "--format", "markdown")
    assert said.startswith(f"{MARKER}\n### Argus plan: 1 created, ")
    assert plan(capsys, "--format", "markdown")[1] == said
    assert said.count("\n| `") == 6


def change_of(**fields: Any) -> dict[str, Any]:
    return {
        "path": "users/alice/chat.yaml",
        "user_id": "alice",
        "suffix": "chat",
        "model_key": None,
        "model_id": None,
        "effect": "reject",
        "touched": True,
        "downtime": None,
        "replicas": {"before": 0, "after": 0},
        "gpus": {"before": 0, "after": 0},
        "fields": {},
        "message": None,
        "field": None,
        "line": 3,
        "column": 1,
        **fields,
    }


def plan_of(*changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": "1" * 40,
        "head": None,
        "against": "platform",
        "changes": list(changes),
        "untouched": {"count": 0, "paths": []},
        "others": {"changed": 0, "untouched": 0},
        "gpus": {"before": 0, "after": 0, "total": None},
        "owners": [],
        "new_users": [],
    }


def test_what_a_stranger_wrote_is_text_in_a_comment_and_names_nobody() -> None:
    nasty = "not '@admins <img src=x> [a](http://b) `c` | d #1 https://e <!-- argus-plan -->\n::error::x' (text)"
    said = FORMATS["markdown"](plan_of(change_of(message=nasty, fields={"x": {"from": "@all", "to": "<b>"}})))
    row = next(line for line in said.splitlines() if line.startswith("| `"))
    cells = row.strip("| ").split(" | ")
    assert len(cells) == 4
    assert not set("@<[`|#") & set(cells[2].replace("<br>", "").replace("&#", ""))
    assert said.count(MARKER) == 1
    assert "::error" not in said


def test_a_comment_stays_within_what_code_hosts_take() -> None:
    many = [change_of(suffix=f"m{number}", message="<" * 5000) for number in range(MOST_ROWS + 40)]
    said = FORMATS["markdown"](plan_of(*many))
    assert "… and 40 more." in said
    short = [change_of(suffix=f"m{number}", message="w" * 5000) for number in range(MOST_ROWS + 40)]
    assert len(FORMATS["markdown"](plan_of(*short))) < MOST_ROWS * (LONGEST_MESSAGE + 200)


def test_it_needs_neither_ray_nor_an_engine_nor_flask(clone: Path) -> None:
    code = (
        "import sys; from argus import cli; cli.main(['plan', 'main..topic'], {}); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    unwanted = ["ray", "vllm", "torch", "transformers", "flask", "sqlalchemy", "apscheduler", "aiohttp"]
    done = subprocess.run(
        [sys.executable, "-c", code, *unwanted],
        cwd=clone, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
