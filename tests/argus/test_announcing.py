"""Who is told what, as a person configures it: statuses, notifications, and where their secrets may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from argus import commands
from reconciler.core.announcements import Audience, StatusRules, Subscription
from reconciler.errors import SettingsError
from reconciler.settings import STATUS_TOKEN, Settings, load
from reconciler.shell import outbox
from reconciler.shell.outbox.configured import destinations
from reconciler.shell.outbox.statuses import CommitStatuses
from reconciler.shell.outbox.webhooks import Webhook

GITEA = "spec_repo: {statuses: {provider: gitea, api_url: 'https://git.example.org/api/v1/', repository: team/specs"
HOOK = "notifications: [{name: chat, url: 'https://hooks.example.org/s3cret', secret_file: chat-secret"


def settings(folder: Path, text: str) -> Settings:
    file = folder / "argus.yaml"
    file.write_text(text)
    return load(file, {"ARGUS_HOME": str(folder)})


def test_nobody_is_told_anything_by_default(tmp_path: Path) -> None:
    nothing = settings(tmp_path, "")
    assert outbox.audience(nothing) == Audience()
    assert destinations(nothing, {}) == []


def test_statuses_go_where_the_configuration_says(tmp_path: Path) -> None:
    given = settings(tmp_path, f"{GITEA}, token_file: forge-token, also_per: user}}}}")
    assert outbox.audience(given) == Audience(StatusRules("argus", "user", None))
    assert destinations(given, {STATUS_TOKEN: ""}) == [
        CommitStatuses(
            "gitea", "https://git.example.org/api/v1", "team/specs", "main", token_file=tmp_path / "forge-token"
        )
    ]
    (one,) = destinations(given, {STATUS_TOKEN: "from the environment"})
    assert isinstance(one, CommitStatuses)
    assert one.token == "from the environment"


def test_a_public_address_is_what_statuses_and_notifications_refer_to(tmp_path: Path) -> None:
    public = "api: {public_url: 'https://argus.example.org/'}"
    told = outbox.audience(settings(tmp_path, f"{public}\n{GITEA}}}}}\n{HOOK}}}]"))
    assert told.source == "https://argus.example.org"
    assert told.statuses is not None
    assert told.statuses.target_url == "https://argus.example.org/api/v2/serve/commits/{sha}"
    told = outbox.audience(settings(tmp_path, f"{public}\n{GITEA}, target_url: 'https://x.org/{{sha}}'}}}}"))
    assert told.statuses is not None
    assert told.statuses.target_url == "https://x.org/{sha}"


@pytest.mark.parametrize(
    ("provider", "url"), [("github", "https://api.github.com"), ("gitlab", "https://gitlab.com/api/v4")]
)
def test_the_public_providers_are_known(tmp_path: Path, provider: str, url: str) -> None:
    given = settings(tmp_path, f"spec_repo: {{statuses: {{provider: {provider}, repository: team/specs}}}}")
    (one,) = destinations(given, {})
    assert isinstance(one, CommitStatuses)
    assert one.base_url == url


def test_notifications_go_to_whom_the_configuration_names(tmp_path: Path) -> None:
    given = settings(tmp_path, f"{HOOK}, events: [DEPLOY_FAILED], users: [alice]}}]")
    wanted = Subscription("chat", frozenset({"DEPLOY_FAILED"}), frozenset({"alice"}))
    assert outbox.audience(given).subscriptions == (wanted,)
    assert destinations(given, {}) == [
        Webhook(wanted.destination, given.notifications[0].url, tmp_path / "chat-secret")
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spec_repo: {statuses: {provider: gitea, repository: a/b}}", "right would be https://host/api/v1"),
        ("spec_repo: {statuses: {provider: github, repository: specs}}", "right would be owner/name"),
        ("spec_repo: {statuses: {provider: github}}", "right would be owner/name"),
        (f"{GITEA.replace('https', 'http')}}}}}", "right would be https://, or http:// on this machine itself"),
        (f"{GITEA.replace('https://', 'https://bob:s3cret@')}}}}}", "without user and password"),
        (f"{HOOK.replace('https://', 'https://bob:s3cret@')}}}]", "without user and password"),
        (f"{HOOK.replace('https://', 'file://')}}}]", "right would be http(s)://"),
        (f"{HOOK}, events: [DEPLOYED]}}]", "there is no event 'DEPLOYED'; there are CHANGE_HELD"),
        (f"{HOOK}}}, {HOOK.partition('[')[2]}}}]", "two notifications have the same name"),
        (f"{HOOK.replace('chat,', 'Chat Room,')}}}]", "name"),
    ],
)
def test_a_wrong_setting_is_told_without_a_secret(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, text)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_provider_on_this_machine_may_do_without_tls(tmp_path: Path) -> None:
    (one,) = destinations(
        settings(tmp_path, f"{GITEA.replace('https://git.example.org', 'http://127.0.0.1:3000')}}}}}")
    )
    assert isinstance(one, CommitStatuses)


def test_the_token_for_statuses_goes_to_the_reconciler_alone(tmp_path: Path) -> None:
    environ = {STATUS_TOKEN: "s3cret"}
    given = {
        name: commands.own(name, Settings(home=tmp_path), None, environ).environ
        for name in ("api", "reconciler", "router")
    }
    assert [name for name, kept in given.items() if STATUS_TOKEN in kept] == ["reconciler"]
