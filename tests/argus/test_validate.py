"""`argus validate` as a person and a code host's job run it, on files that are really there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argus import cli, reports
from argus.reports import FORMATS, Report
from reconciler.core.desired import refused_by_mode
from reconciler.findings import Finding, Rule, Severity, judge, why_ignored
from reconciler.names import split_path
from reconciler.spec import Limits, SpecRejected, parse
from reconciler.testing import MemorySource

ROOT = Path(__file__).parents[2]
GOOD = "model_id: {}\nmodel_source: $HOME/common/hf/demo\n"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a spec repository with one good spec, and stand in it."""
    write(tmp_path, "users/alice/qwen.yaml", GOOD.format("qwen"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def validate(capsys: pytest.CaptureFixture[str], *arguments: str, environ: dict[str, str] | None = None) -> Any:
    """Give the exit status and what was printed."""
    status = cli.main(["validate", *arguments], environ or {})
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_repository_without_a_mistake_is_0_and_counted(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(capsys) == (0, "1 spec checked: no problems\n", "")


def test_a_mistake_is_told_with_its_file_line_and_column_and_exit_1(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(repo, "users/bob/llama.yaml", GOOD.format("llama") + "engine_kwargs:\n  sed: 3\n")
    status, said, _ = validate(capsys)
    assert status == 1
    assert said.splitlines()[0].startswith("users/bob/llama.yaml:4:3: error: engine_kwargs.sed is not")
    assert said.splitlines()[-1] == "2 specs checked: 1 error"


def test_the_owner_is_known_from_the_path(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "model_id: own\nmodel_source: /private/users/bob/own\n"
    write(repo, "users/bob/own.yaml", text)
    assert validate(capsys, "users/bob")[0] == 0
    write(repo, "users/alice/own.yaml", text)
    status, said, _ = validate(capsys, "users/alice/own.yaml")
    assert (status, "another user's folder" in said) == (1, True)


def test_bounds_come_from_the_configuration(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(repo, "users/alice/qwen.yaml", GOOD.format("qwen") + "num_replicas: 5\n")
    config = write(repo, "argus-config.yaml", "serving: {max_replicas: 4}\n")
    assert validate(capsys)[0] == 0
    assert validate(capsys, "--config", str(config))[0] == 1
    assert validate(capsys, environ={"ARGUS_CONFIG": str(config)})[0] == 1
    config.write_text("serving: {max_replica: 4}\n")
    assert validate(capsys, "--config", str(config))[0] == 2


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("users/alice/qwen.yml", "a spec ends in .yaml: users/alice/qwen.yaml"),
        ("users/alice/Qwen.yaml", "'Qwen' cannot name a model"),
        ("users/alice/deep/qwen.yaml", "lies too deep"),
        ("users/qwen.yaml", "lies in users/ itself"),
        ("users/Alice/qwen.yaml", "'Alice' is no user id"),
        ("users/alice/notes.txt", "a spec ends in .yaml"),
    ],
)
def test_a_file_that_will_be_ignored_is_a_warning_that_says_why(
    repo: Path, capsys: pytest.CaptureFixture[str], path: str, why: str
) -> None:
    write(repo, path, GOOD.format("qwen"))
    status, said, _ = validate(capsys)
    assert status == 0
    assert f"{path}: warning: ignored: " in said
    assert why in said
    assert validate(capsys, "--strict")[0] == 1


@pytest.mark.parametrize("path", ["users/.gitkeep", "users/alice/.gitkeep", "users/alice/README.md", "README.txt"])
def test_files_for_people_are_no_business_of_the_check(
    repo: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    write(repo, path, "")
    assert validate(capsys, "--strict")[0] == 0


def test_links_and_programs_are_refused_as_git_will_store_them(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "users/alice/link.yaml").symlink_to("qwen.yaml")
    (repo / "users/alice/loop.yaml").symlink_to("loop.yaml")
    write(repo, "users/alice/tool.yaml", GOOD.format("tool")).chmod(0o755)
    status, said, _ = validate(capsys)
    assert status == 1
    assert said.count("git mode 120000") == 2
    assert said.count("git mode 100755") == 1


def test_a_folder_that_is_a_link_is_not_followed(
    repo: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write(outside, "bad.yaml", "a: [")
    (repo / "users/eve").symlink_to(outside)
    (repo / "users/alice/here").symlink_to(repo)
    status, said, _ = validate(capsys)
    assert status == 0
    assert "users/eve: warning: ignored: a link" in said
    assert "bad.yaml" not in said


def test_a_file_of_any_size_is_read_no_further_than_the_limit(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (repo / "users/alice/qwen.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, on no disk
    status, said, _ = validate(capsys)
    assert status == 1
    assert "65536 is the most" in said


def test_a_pipe_holds_nobody_up(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(repo / "users/alice/pipe.yaml")
    assert validate(capsys)[0] == 0


def test_the_root_is_found_from_any_folder_and_paths_are_shown_from_there(
    repo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repo, "users/alice/bad.yaml", "a: [")
    monkeypatch.chdir(repo / "users" / "alice")
    status, said, _ = validate(capsys)
    assert status == 1
    assert said.startswith("bad.yaml:")
    assert "2 specs checked" in said
    monkeypatch.chdir("/")
    status, said, _ = validate(capsys, str(repo))
    assert status == 1


def test_a_user_called_users_does_not_move_the_root_of_a_clone(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(repo, "users/users/own.yaml", GOOD.format("own"))
    (repo / ".git").mkdir()
    assert validate(capsys, "users/users/own.yaml", "users/alice")[:2] == (0, "2 specs checked: no problems\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.yaml"], "there is no"),
        (["--root", "absent"], "is no folder"),
        (["/"], "no spec repository holds"),
        (["--user", "No"], "no user id"),
    ],
)
def test_what_cannot_be_asked_is_exit_2(
    repo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = validate(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("argus validate: ")
    assert said in err


def test_a_file_elsewhere_is_checked_only_for_a_user(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(repo, "drafts/new.yaml", "model_id: x\nmodel_source: $HOME/x\nnonsense: 1\n")
    status, said, _ = validate(capsys, "drafts/new.yaml")
    assert (status, "lies outside of users/" in said) == (0, True)
    status, said, _ = validate(capsys, "drafts/new.yaml", "--user", "alice")
    assert status == 1
    assert said.startswith("drafts/new.yaml:3:1: error: nonsense ")


def test_a_user_whom_codeowners_does_not_name_is_a_warning_once(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("a", "b"):
        write(repo, f"users/alcie/{suffix}.yaml", GOOD.format(suffix))
    write(repo, "CODEOWNERS", "# /users/x/ @x\n*  @team\n")
    assert validate(capsys, "--strict")[0] == 0  # it names no users at all
    write(repo, "CODEOWNERS", "* @team\n\n/users/alice/  @alice\n")
    status, said, _ = validate(capsys)
    assert status == 0
    assert said.count("warning") == 1 + 1  # the finding, and the line that counts
    assert "users/alcie/a.yaml: warning: users/alcie/ has no line in CODEOWNERS" in said
    write(repo, "CODEOWNERS", "/users/*/  @team\n")
    assert validate(capsys, "--strict")[0] == 0


def test_the_check_is_the_reconcilers_own(repo: Path) -> None:
    """Whatever lies there: refused here is refused by the loop, in the same words, and nothing else is."""
    source = MemorySource()
    texts = [GOOD.format("a"), "", "a: [", "model_id: b\nmodel_source: /etc\n", GOOD.format("a") + "num_replicas: 99\n"]
    for number, text in enumerate(texts):
        for mode in ("100644", "100755", "120000"):
            source.commit({f"users/alice/a{number}.yaml": text.encode()}, modes={f"users/alice/a{number}.yaml": mode})
            (file,) = [
                each
                for each in source.read(None).tree.files.values()
                if each.identity.path == f"users/alice/a{number}.yaml"
            ]
            name = split_path(file.identity.path)
            assert name is not None
            loops = refused_by_mode(file) or parse(text.encode(), owner="alice", limits=Limits(), suffix=name.suffix)
            found = judge(file.identity.path, mode, text.encode(), Limits())
            if isinstance(loops, SpecRejected):
                assert found is not None
                assert (found.message, found.line, found.column) == (loops.message, loops.line, loops.column)
            else:
                assert found is None


@given(st.text(st.sampled_from("abAZ./-_ é\n"), max_size=40))
def test_each_path_below_users_is_a_spec_or_has_a_reason(path: str) -> None:
    whole = f"users/{path}"
    hidden = whole.rsplit("/", maxsplit=1)[-1].startswith(".") or whole.lower().endswith(".md")
    assert hidden or (split_path(whole) is not None) != (why_ignored(whole) is not None)


ODD = Finding("users/a,b/x:y%.yaml", Severity.ERROR, Rule.INVALID, "100 % wrong:\r\nhere, and there", "f", 3, 7)
PLAIN = Finding("users/alice/q.yml", Severity.WARNING, Rule.IGNORED, "ignored: why")


def test_workflow_commands_are_escaped_so_that_no_path_or_message_can_add_one() -> None:
    first, second, rest = FORMATS["github"](Report([ODD, PLAIN], 2)).split("\n")
    assert first == (
        "::error file=users/a%2Cb/x%3Ay%25.yaml,line=3,col=7,title=argus spec-invalid"
        "::100 %25 wrong:%0D%0Ahere, and there"
    )
    assert second == "::warning file=users/alice/q.yml,title=argus file-ignored::ignored: why"
    assert rest == ""


def test_gitlabs_report_has_what_its_format_asks_for() -> None:
    one, two = json.loads(FORMATS["gitlab"](Report([ODD, PLAIN], 2)))
    assert one["location"] == {"path": ODD.path, "lines": {"begin": 3}}
    assert (one["severity"], two["severity"]) == ("major", "minor")
    assert one["check_name"] == "argus-spec-invalid"
    assert two["location"]["lines"] == {"begin": 1}
    assert len({one["fingerprint"], two["fingerprint"]}) == 2


def test_sarif_points_at_the_place_and_every_rule_is_described() -> None:
    log = json.loads(FORMATS["sarif"](Report([ODD, PLAIN], 2, "1.2.3")))
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (log["version"], driver["name"], driver["version"]) == ("2.1.0", "argus", "1.2.3")
    assert [rule["id"] for rule in driver["rules"]] == [rule.value for rule in Rule]
    first, second = run["results"]
    where = first["locations"][0]["physicalLocation"]
    assert where["artifactLocation"]["uri"] == "users/a%2Cb/x%3Ay%25.yaml"
    assert where["region"] == {"startLine": 3, "startColumn": 7}
    assert (first["level"], second["level"]) == ("error", "warning")
    assert driver["rules"][second["ruleIndex"]]["id"] == second["ruleId"]
    assert "region" not in second["locations"][0]["physicalLocation"]


def test_json_holds_all_that_is_known(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(repo, "users/alice/bad.yaml", GOOD.format("bad") + "nonsense: 1\n")
    status, said, _ = validate(capsys, "--format", "json")
    found = json.loads(said)
    assert (status, found["specs"]) == (1, 2)
    (finding,) = found["findings"]
    assert (finding["path"], finding["line"], finding["field"]) == ("users/alice/bad.yaml", 3, "nonsense")
    assert finding["rule"] == "spec-invalid"


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_name_that_is_no_text_breaks_no_format(repo: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / os.fsdecode(b"users/alice/\xff\x1b[2J.yaml")).write_text("")
    status, said, _ = validate(capsys, "--format", form)
    assert status == 0
    assert "\x1b" not in said


def test_a_clean_repository_is_valid_in_every_format(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in sorted(FORMATS):
        status, said, _ = validate(capsys, "--format", form)
        assert status == 0
        if form not in {"text", "github"}:
            json.loads(said)
    assert reports.as_github(Report([], 1)) == ""


def test_it_needs_neither_ray_nor_an_engine_nor_flask() -> None:
    code = (
        "import sys; from argus import cli; cli.main(['validate', sys.argv[1]], {}); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[2:])))"
    )
    unwanted = ["ray", "vllm", "torch", "transformers", "flask", "sqlalchemy", "apscheduler", "aiohttp", "git", "httpx"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "specs-template"), *unwanted],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_rules_of_a_repository_are_checked_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "users").mkdir()
    rules = tmp_path / "argus.yaml"
    rules.write_text("suspend:\n  users: {bob: away}\n")
    assert cli.main(["validate", str(tmp_path)], {}) == 0
    rules.write_text("suspend:\n  users: {Bob: away}\n")
    for named in (tmp_path, rules):
        assert cli.main(["validate", "--strict", str(named)], {}) == 1
        assert "argus.yaml:2:11: error: suspend.users.Bob: is no user id" in capsys.readouterr().out
    rules.chmod(0o755)
    assert cli.main(["validate", str(tmp_path)], {}) == 1
    assert "mode 100755" in capsys.readouterr().out
