"""`argus plan --server` against a real API over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argus import cli
from tests.webapi.client import Api, git, listening


def spec(suffix: str, replicas: int = 1) -> str:
    return f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\nnum_replicas: {replicas}\n"


@pytest.fixture
def server(api: Api) -> Iterator[str]:
    with listening(api) as url:
        yield url


@pytest.fixture
def clone(api: Api) -> Path:
    """Give a clone of what the API serves, standing on a branch with a change."""
    api.push({"users/alice/a.yaml": spec("a"), "users/alice/b.yaml": spec("b"), "users/bob/c.yaml": spec("c")})
    folder = api.folder / "clone"
    git(folder, "checkout", "--quiet", "-b", "topic")
    (folder / "users/alice/a.yaml").write_text(spec("a", replicas=3))
    (folder / "users/alice/b.yaml").unlink()
    (folder / "users/alice/new.yaml").write_text(spec("new"))
    (folder / "users/alice/tool.yaml").write_text(spec("tool"))
    (folder / "users/alice/tool.yaml").chmod(0o755)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")
    return folder


def plan(clone: Path, capsys: pytest.CaptureFixture[str], *arguments: str, **environ: str) -> tuple[int, str, str]:
    status = cli.main(["plan", "--repo", str(clone), "main..topic", *arguments], environ)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_server_plans_a_branch_that_it_has_never_seen(
    api: Api, server: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = plan(clone, capsys, "--server", server, "--format", "json", ARGUS_TOKEN=api.token("alice"))
    assert status == 0, err
    found: Any = json.loads(out)
    assert (found["against"], found["base"]) == ("platform", api.head())
    effects = {each["path"]: each["effect"] for each in found["changes"]}
    # No pass has been made: nothing runs yet, so what is wanted would be started (its folder is empty).
    assert effects["users/alice/tool.yaml"] == "reject"
    assert effects["users/alice/new.yaml"] == "fail"
    assert found["others"] == {"changed": 1, "untouched": 0}


def test_the_token_comes_from_a_file_too_and_all_forms_are_printed(
    api: Api, server: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = api.folder / "token"
    file.write_text(api.token("alice") + "\n")
    for form, start in (("text", "Plan of "), ("markdown", "<!-- argus-plan -->\n")):
        status, out, err = plan(
            clone, capsys, "--token-file", str(file), "--format", form, "--exit-code", ARGUS_SERVER=server
        )
        assert status == 2, err
        assert out.startswith(start)
        assert "against what runs" in out


def test_what_the_server_refuses_is_exit_1_with_its_words_and_without_the_token(
    api: Api, server: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = plan(clone, capsys, "--server", server, ARGUS_TOKEN=api.token("bob"))
    assert (status, out) == (1, "")
    assert "only the admin may plan changes outside of users/bob/" in err
    assert api.token("bob") not in err
    assert plan(clone, capsys, "--server", server)[0] == 1
    assert plan(clone, capsys, "--server", server, "--token-file", "/absent")[0] == 1


def test_a_file_that_the_server_has_otherwise_by_now_is_named(
    api: Api, server: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert api.post(spec("a", replicas=2)).status_code == 202
    status, _, err = plan(clone, capsys, "--server", server, ARGUS_TOKEN=api.token("alice"))
    assert status == 1
    assert "users/alice/a.yaml" in err


def test_a_server_that_is_not_there_is_exit_1(
    api: Api, server: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = plan(clone, capsys, "--server", "http://127.0.0.1:9", ARGUS_TOKEN="x")
    assert status == 1
    assert "the server cannot plan this" in err
