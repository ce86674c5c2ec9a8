"""`argus suspend`, `resume`, `allow-removal` and `override-freeze`, against the real API under a real HTTP server."""

from __future__ import annotations

import pytest

from argus import cli
from tests.webapi.client import SPEC, Api, git
from tests.webapi.test_brakes import RULES, held


def argus(api: Api, server: str, *words: str, who: str = "admin") -> int:
    environ = {"ARGUS_HOME": str(api.folder), "ARGUS_SERVER": server, "ARGUS_TOKEN": api.token(who)}
    return cli.main(list(words), environ)


def test_a_model_is_suspended_and_resumed_by_its_owner(
    api: Api,
    server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.created(SPEC)
    assert argus(api, server, "suspend", "hello", "--reason", "a benchmark", who="alice") == 0
    assert capsys.readouterr().out == f"hello: suspended by commit {api.head()}\n"
    assert '"alice/hello": "a benchmark"' in api.content(RULES)
    assert argus(api, server, "resume", "alice/hello", who="alice") == 0
    assert capsys.readouterr().out == f"alice/hello: resumed by commit {api.head()}\n"
    assert argus(api, server, "resume", "alice/hello", who="alice") == 0
    assert capsys.readouterr().out == "alice/hello: resumed already, nothing to do\n"
    assert argus(api, server, "suspend", "--all", who="alice") == 1
    assert "403" in capsys.readouterr().err


def test_all_and_a_user_are_the_admins(
    api: Api,
    server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.created(SPEC)
    assert argus(api, server, "suspend", "--all", "--reason", "moving") == 0
    assert argus(api, server, "suspend", "--user", "alice") == 0
    said = capsys.readouterr().out
    assert "all models: suspended by commit" in said
    assert "the models of alice: suspended by commit" in said


def test_held_removals_are_listed_and_then_allowed_by_their_number(
    api: Api,
    server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held(api, "a", "b", "c")
    assert argus(api, server, "allow-removal") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "held: 3 removals of 3 running models"
    assert said[1].startswith("  - users/alice/a.yaml (svc-alice-")
    assert argus(api, server, "allow-removal", "2") == 1
    assert "3 removals of running models are held, not 2" in capsys.readouterr().err
    assert argus(api, server, "allow-removal", "3", "--reason", "they left") == 0
    assert capsys.readouterr().out == f"3 removals are allowed by commit {api.head()}\n"
    assert git(api.folder / "specs.git", "log", "-1", "--format=%(trailers:only)") == "Argus-Allow-Removal: 3"


def test_a_freeze_is_overridden_with_a_reason(
    api: Api,
    server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.created(SPEC)
    assert argus(api, server, "override-freeze", "--reason", "customers cannot log in") == 0
    assert api.head() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        argus(api, server, "override-freeze")
