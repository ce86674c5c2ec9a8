"""The configuration as a person meets it: dev.yaml, flags and the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from argus import cli
from reconciler.errors import SettingsError
from reconciler.settings import Settings, load

ROOT = Path(__file__).parents[2]
DEV = ROOT / "dev.yaml"

# Where the embedded configuration says otherwise than the defaults, and why it must.
DIFFERENT = {
    "paths.private_root": "a newcomer has no /private",
    "serving.llm.accelerator_type": "the reference's own example, injected into every LLMConfig",
}


def keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{before}{name}.")
        else:
            yield before + name


def value(raw: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(raw, dict)
        assert part in raw, f"dev.yaml lacks {key}"
        raw = raw[part]
    return raw


def test_dev_yaml_holds_every_key_and_no_other() -> None:
    raw = yaml.safe_load(DEV.read_text())
    for key in keys(Settings):
        value(raw, key)
    load(DEV, {})


def test_every_key_in_dev_yaml_has_a_comment() -> None:
    # A comment stands right above a key, or above a run of keys that it explains together.
    commented = False
    for line in DEV.read_text().splitlines():
        text = line.strip()
        if not text:
            commented = False
        elif text.startswith("#"):
            commented = True
        else:
            is_section = re.fullmatch(r"[a-z_]+:", text) is not None
            assert commented or is_section, f"no comment says what this is: {text}"


def test_dev_yaml_says_otherwise_than_the_defaults_only_where_it_must() -> None:
    dev, plain = load(DEV, {}).model_dump(mode="json"), load(None, {}).model_dump(mode="json")
    assert {key for key in keys(Settings) if value(dev, key) != value(plain, key)} == set(DIFFERENT)


def test_relative_paths_lie_in_the_state_folder(tmp_path: Path) -> None:
    settings = load(DEV, {"ARGUS_HOME": str(tmp_path)})
    assert settings.private_root == tmp_path / "private"
    assert settings.spec_repo_url == str(tmp_path / "specs.git")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("api: {prot: 1}", "unknown key 'api.prot'"),
        ("serving: {llm: {cpu: {thread: 1}}}", "unknown key 'serving.llm.cpu.thread'"),
        ("nonsense: 1", "unknown key 'nonsense'"),
        ("api: {port: 99999}", "key 'api.port'"),
        ("reconcile: {retry_delays_s: []}", "key 'reconcile.retry_delays_s'"),
        ("- a list", "a mapping of keys to values"),
        ("a: [", "cannot read"),
    ],
)
@pytest.mark.parametrize("command", ["up", "down", "api", "reconciler"])
def test_a_wrong_file_is_one_line_that_names_the_key_and_exit_2(
    command: str, text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "argus.yaml"
    file.write_text(text)
    assert cli.main([command, "--config", str(file)], {}) == 2
    said = capsys.readouterr().err
    assert said.startswith("argus: ")
    assert named in said
    assert str(file) in said


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up"], {"ARGUS_CONFIG": str(tmp_path / "absent.yaml")}) == 2
    assert "absent.yaml" in capsys.readouterr().err


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "argus.yaml"
    file.write_text("api: {port: 1001}\nserving: {port: 1002}\nhome: /from-file\n")
    arguments = cli._parser().parse_args(["up", "--api-port", "3001"])
    environ = cli.overlay(arguments, {"ARGUS_API_PORT": "2001", "ARGUS_OPENAI_PORT": "2002"})
    settings = load(file, environ)
    assert (settings.api.port, settings.serving.port, str(settings.home)) == (3001, 2002, "/from-file")


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:s3cret@git.example.org/specs.git",
        "https://s3cret@git.example.org/specs.git",
        "HTTPS://s3cret@git.example.org/specs.git",
        "https://git.example.org/specs.git?private_token=s3cret",
        "ssh://git:s3cret@git.example.org/specs.git",
    ],
)
def test_a_url_with_a_secret_is_refused_with_the_keys_that_are_right(tmp_path: Path, url: str) -> None:
    file = tmp_path / "argus.yaml"
    file.write_text(yaml.safe_dump({"spec_repo": {"url": url}}))
    for path, environ in ((file, {}), (None, {"ARGUS_SPEC_REPO_URL": url})):
        with pytest.raises(SettingsError) as caught:
            load(path, environ)
        message = str(caught.value)
        assert "spec_repo.url" in message
        assert "spec_repo.token_file" in message
        assert "ARGUS_SPEC_REPO_TOKEN" in message
        assert "s3cret" not in message


@pytest.mark.parametrize(
    ("ownership", "key", "right"),
    [
        ("{policy: author_map}", "spec_repo.ownership", "authors"),
        ("{policy: signed}", "spec_repo.ownership", "signers"),
        ("{policy: author_map, authors: {ann@example.org: [Not A User]}}", "spec_repo.ownership.authors", "user id"),
        ("{policy: author_map, authors: {ann: [alice]}}", "spec_repo.ownership.authors", "pattern"),
        ("{since: abc}", "spec_repo.ownership.since", "pattern"),
    ],
)
def test_a_policy_that_lets_nobody_write_is_an_error(tmp_path: Path, ownership: str, key: str, right: str) -> None:
    file = tmp_path / "argus.yaml"
    file.write_text(f"spec_repo: {{ownership: {ownership}}}\n")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert key in str(caught.value)
    assert right in str(caught.value)


def test_a_policy_that_says_who_may_write_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "argus.yaml"
    file.write_text(
        "spec_repo: {ownership: {policy: author_map, authors: {ann@example.org: [alice], root@example.org: ['*']}}}\n"
    )
    assert load(file, {}).spec_repo.ownership.authors == {"ann@example.org": ("alice",), "root@example.org": ("*",)}


@pytest.mark.parametrize(
    "url",
    ["https://git.example.org/specs.git", "ssh://git@git.example.org/specs.git", "git@example.org:team/specs.git"],
)
def test_a_url_without_a_secret_is_taken(url: str) -> None:
    assert load(None, {"ARGUS_SPEC_REPO_URL": url}).spec_repo_url == url


@pytest.mark.parametrize(
    "text", ["spec_repo: https://ann:s3cret@git.example.org/x", "spec_repo: {url: 'https://ann:s3cret@git.example.org"]
)
def test_no_error_shows_a_password_that_stands_in_the_wrong_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "argus.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "argus.yaml", {})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "url", "right"),
    [
        ("token_file", "ssh://git@git.example.org/x", "https://"),
        ("ca_file", None, "https://"),
        ("ssh_key_file", "https://git.example.org/x", "ssh://"),
        ("known_hosts_file", "/srv/specs.git", "ssh://"),
    ],
)
def test_a_secret_that_goes_with_no_such_url_is_an_error(tmp_path: Path, key: str, url: str | None, right: str) -> None:
    (tmp_path / "argus.yaml").write_text(yaml.safe_dump({"spec_repo": {"url": url, key: "file"}}))
    with pytest.raises(SettingsError, match=f"{key} needs a spec_repo.url that begins {right}"):
        load(tmp_path / "argus.yaml", {})


def test_how_long_engines_are_waited_for_makes_no_new_version_of_any_model() -> None:
    patient = Settings.model_validate({"serving": {"llm": {"load_timeout_s": 7200, "hang_timeout_s": 90}}})
    assert patient.platform == Settings().platform
    assert Settings.model_validate({"serving": {"llm": {"device": "gpu"}}}).platform != Settings().platform
