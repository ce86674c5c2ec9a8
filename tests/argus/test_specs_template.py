"""What a new spec repository starts with: it passes its own checks, and all of it gets where it is needed."""

from __future__ import annotations

import glob
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its types are a package of their own
import pytest
import yaml

from argus import cli, schema
from argus.up import TEMPLATE
from reconciler import rules
from reconciler.core.holds import NO_RULES, HoldRules
from reconciler.rules import RulesRefused
from reconciler.shell.embedded_repo import ensure
from reconciler.spec import Limits, ServingSpec, parse
from tests.repositories import git
from webapi.openapi import SPEC_EXAMPLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "specs-template"
EXAMPLE = FOLDER / "examples" / "you" / "hello.yaml"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
ACTIONS = [".github/workflows/argus.yaml", ".gitea/workflows/argus.yaml"]


def workflow(name: str) -> Any:
    """Read a workflow; YAML 1.1, in which PyYAML reads, takes the key `on` for a boolean."""
    return yaml.safe_load((FOLDER / name).read_text().replace("\non:", "\n'on':"))


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_the_template_passes_argus_validate(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "--strict", str(FOLDER)], {}) == 0
    assert cli.main(["validate", "--strict", "--user", "you", str(EXAMPLE)], {}) == 0
    assert "1 spec checked: no problems" in capsys.readouterr().out


def test_the_example_is_a_spec_where_the_readme_tells_to_copy_it() -> None:
    said = parse(EXAMPLE.read_bytes(), owner="alice", limits=Limits(), suffix=EXAMPLE.stem)
    assert isinstance(said, ServingSpec)
    assert "cp examples/you/hello.yaml users/" in (FOLDER / "README.md").read_text()


def test_the_schema_in_the_template_is_the_one_of_this_version() -> None:
    """`make schema` writes it anew."""
    assert (FOLDER / schema.FILE).read_text() == schema.text()


def test_the_schema_of_the_rules_in_the_template_is_the_one_of_this_version() -> None:
    assert (FOLDER / schema.RULES_FILE).read_text() == schema.rules_text()


def test_the_rules_in_the_template_say_nothing_until_they_are_uncommented() -> None:
    text = (FOLDER / "argus.yaml").read_text()
    assert rules.parse(text.encode()) == NO_RULES
    first = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.splitlines()[0])
    assert first is not None
    assert first[1] == schema.RULES_FILE
    lines = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"# (?:suspend:|freeze:| {2})", line)]
    said = rules.parse("\n".join(lines).encode())
    assert isinstance(said, HoldRules)
    assert (len(said.users), len(said.models), len(said.freezes)) == (1, 1, 1)
    jsonschema.Draft202012Validator(schema.rules_document()).validate(yaml.safe_load("\n".join(lines)))


def test_the_schema_of_the_rules_refuses_what_validate_refuses() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.rules_document())
    check = jsonschema.Draft202012Validator(schema.rules_document())
    for text in (
        "suspnd: {}",
        "suspend: {all: 3}",
        "suspend: {users: {Bob: x}}",
        "suspend: {users: [Bob]}",
        "suspend: {models: {alice: x}}",
        "freeze: [{cron: 0 18 * * fri}]",
        "freeze: [{cron: 0 18 * fri, duration: 1h}]",
        "freeze: [{cron: 0 18 * * fri, duration: soon}]",
        "freeze: [{cron: 0 18 * * fri, duration: ''}]",
        "freeze: {}",
    ):
        assert not check.is_valid(yaml.safe_load(text)), text
        assert isinstance(rules.parse(text.encode()), RulesRefused), text


def test_argus_schema_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"], {}) == 0
    assert json.loads(capsys.readouterr().out) == schema.document()
    assert cli.main(["schema", "rules"], {}) == 0
    assert json.loads(capsys.readouterr().out) == schema.rules_document()


def test_the_schema_accepts_specs_and_refuses_mistakes_as_an_editor_would_show_them() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.document())
    check = jsonschema.Draft202012Validator(schema.document())
    for text in (EXAMPLE.read_text(), SPEC_EXAMPLE):
        check.validate(yaml.safe_load(text))
    good = yaml.safe_load(EXAMPLE.read_text())
    for wrong in (
        {"model_id": "Hello"},
        {"num_replicas": 0},
        {"num_replicas": "two"},
        {"nonsense": 1},
        {"engine_kwargs": {"sed": 1}},
        {"engine_kwargs": {"gpu_memory_utilization": 2}},
    ):
        assert not check.is_valid({**good, **wrong}), wrong


def test_the_modeline_leads_from_a_models_place_to_the_schema() -> None:
    first = EXAMPLE.read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert found is not None
    for place in (EXAMPLE, FOLDER / "users" / "alice" / "hello.yaml"):
        assert (place.parent / found[1]).resolve() == (FOLDER / schema.FILE).resolve()


def test_a_new_embedded_repository_holds_every_file_hidden_ones_too(tmp_path: Path) -> None:
    ensure(tmp_path / "specs.git", TEMPLATE)
    assert git(tmp_path / "specs.git", "ls-tree", "-r", "--name-only", "main").splitlines() == FILES
    assert {".gitlab-ci.yml", "CODEOWNERS", *ACTIONS} <= set(FILES)


def test_an_installed_package_holds_every_file_hidden_ones_too() -> None:
    """Setuptools' patterns pass hidden names by unless they are named, as Python's own do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["argus"]
    packed = {path for pattern in patterns for path in glob.glob(pattern, root_dir=ROOT / "argus", recursive=True)}
    assert {f"specs_template/{path}" for path in FILES} <= packed


@pytest.mark.parametrize("name", ACTIONS)
def test_a_strangers_pull_request_gets_a_strangers_rights(name: str) -> None:
    read = workflow(name)
    assert set(read["on"]) == {"pull_request"}
    allowed = [read.get("permissions", {}), *(job.get("permissions", {}) for job in read["jobs"].values())]
    assert all(set(each) <= {"contents", "pull-requests"} for each in allowed)
    assert all(each.get("contents", "read") == "read" for each in allowed)
    assert all(
        step["with"]["persist-credentials"] is False for step in steps(name) if "checkout" in step.get("uses", "")
    )
    # The token goes to the one step that comments, and not for a fork.
    holders = [step for step in steps(name) if "token" in json.dumps(step.get("env", {})).lower()]
    assert [step["run"].split()[:2] for step in holders] == [["argus", "comment"]]
    assert "head.repo.full_name == github.repository" in holders[0]["if"]


@pytest.mark.parametrize("name", ACTIONS)
def test_nothing_that_a_stranger_writes_becomes_part_of_a_command(name: str) -> None:
    for step in steps(name):
        assert "${{" not in step.get("run", "")
        given = re.findall(r"\$\{\{ *([^}]*?) *\}\}", json.dumps(step.get("env", {})))
        of_the_event = {"github.event.pull_request.base.sha", "github.event.pull_request.head.sha"}
        assert set(given) <= {*of_the_event, "github.token", "vars.ARGUS_GPUS"}


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_are_pinned_and_of_the_code_hosts_own(name: str) -> None:
    used = [step["uses"] for step in steps(name) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", each) for each in used)


def test_in_gitlab_only_names_of_the_project_itself_are_part_of_a_command() -> None:
    read = yaml.safe_load((FOLDER / ".gitlab-ci.yml").read_text())
    lines = [line for job in read.values() for part in ("before_script", "script") for line in job.get(part, [])]
    used = set(re.findall(r"\$\{?([A-Z_0-9]+)", "\n".join(lines)))
    assert used == {
        "ARGUS_GITLAB_TOKEN", "ARGUS_GPUS", "ARGUS_PACKAGE", "CI_COMMIT_SHA", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME"
    }  # fmt: skip


@pytest.mark.parametrize("name", [*ACTIONS, ".gitlab-ci.yml"])
def test_each_workflow_runs_commands_that_there_are(name: str) -> None:
    text = (FOLDER / name).read_text()
    asked = re.findall(
        r"^\s*(?:- |run: )?(?:if .* then )?(argus (?:validate|plan|comment)[^;|>\n]*)", text, re.MULTILINE
    )
    assert {each.split()[1] for each in asked} == {"validate", "plan", "comment"}
    for command in asked:
        words = re.sub(r"\$\{ARGUS_GPUS:\+(--gpus) \"\$ARGUS_GPUS\"\}", r"\1 8", command).replace('"', "").split()
        cli._parser().parse_args(words[1:])


def test_pre_commit_runs_validate_on_specs_and_rules() -> None:
    config = yaml.safe_load((FOLDER / ".pre-commit-config.yaml").read_text())
    (manifest,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    for hook in (config["repos"][0]["hooks"][0], manifest):
        assert (hook["id"], hook["entry"], hook["files"]) == (
            "argus-validate",
            "argus validate",
            r"^(users/|argus\.yaml$)",
        )
