"""What `argus up` does before anything heavy starts, and what its processes are given."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from argus import cli, commands, home, ray_head
from argus.console import Console
from argus.errors import UpFailed
from argus.ready import Ready
from reconciler.errors import SettingsError
from reconciler.settings import RaySettings, Settings, load
from reconciler.shell.admin_token import admin_token, token_file
from tests.processes import free_port

SECRETS = {"ARGUS_ADMIN_TOKEN": "sesame", "ARGUS_LEDGER_URL": "postgresql://u:hunter2@db/argus"}


def settings_at(state: Path, **environ: str) -> Settings:
    return load(cli.EMBEDDED_CONFIG, {"ARGUS_HOME": str(state), **environ})


@pytest.mark.parametrize(
    ("variable", "flag"), [("ARGUS_API_PORT", "--api-port"), ("ARGUS_OPENAI_PORT", "--openai-port")]
)
def test_a_port_that_is_taken_is_one_line_with_the_flag_and_exit_1(variable: str, flag: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"ARGUS_API_PORT": str(free_port()), "ARGUS_OPENAI_PORT": str(free_port())}
        ports[variable] = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "argus", "up", "--home", str(tmp_path / "state")],
            env={**os.environ, **ports},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert f"port {ports[variable]} on 127.0.0.1" in ended.stderr
    assert flag in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_one_state_folder_has_one_platform(tmp_path: Path) -> None:
    home.prepare(tmp_path, tmp_path / "private")
    with home.locked(tmp_path):
        assert home.is_locked(tmp_path)
        with pytest.raises(UpFailed, match="argus down"), home.locked(tmp_path):
            pytest.fail("two hold one state folder")
    assert not home.is_locked(tmp_path)


def test_the_state_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    home.prepare(state, state / "private")
    made = home.keep_secret(token_file(state))
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(token_file(state).stat().st_mode) == 0o600
    assert home.keep_secret(token_file(state)) == made
    assert (state / "private" / "hf").is_dir()


def test_a_shared_private_root_is_left_as_it_is(tmp_path: Path) -> None:
    home.prepare(tmp_path / "state", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_token_from_the_environment_beats_the_file_and_is_never_echoed(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    with pytest.raises(SettingsError, match="ARGUS_ADMIN_TOKEN"):
        admin_token(settings, {})
    token_file(tmp_path).write_text("from-file\n")
    assert admin_token(settings, {}) == "from-file"
    assert admin_token(settings, {"ARGUS_ADMIN_TOKEN": "from-environment"}) == "from-environment"
    with pytest.raises(SettingsError) as refused:
        admin_token(settings, {"ARGUS_ADMIN_TOKEN": "two words"})
    assert "words" not in str(refused.value)


def test_engines_are_given_no_secret_of_the_platforms_and_no_way_to_a_hub(tmp_path: Path) -> None:
    environ = ray_head.environ(tmp_path, {"PATH": "/bin", "RAY_ADDRESS": "elsewhere:1", **SECRETS})
    assert "sesame" not in str(environ)
    assert "hunter2" not in str(environ)
    assert "RAY_ADDRESS" not in environ
    assert environ["HF_HUB_OFFLINE"] == environ["TRANSFORMERS_OFFLINE"] == environ["VLLM_NO_USAGE_STATS"] == "1"
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"] == "1", "a stuck replica is drained for ten minutes"


def test_each_process_is_given_only_its_own_keys(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    config = tmp_path / "dev.yaml"
    api = commands.own("api", settings, config, SECRETS).environ
    reconciler = commands.own("reconciler", settings, config, SECRETS).environ
    assert "sesame" in api.values()
    assert not any(key.startswith("RAY_") for key in api)
    assert "sesame" not in reconciler.values()
    assert reconciler["RAY_AUTH_TOKEN_PATH"] == str(ray_head.token_file(tmp_path))
    assert "sesame" not in commands.build(tmp_path, SECRETS).environ.values()


def test_rays_sockets_have_paths_that_the_kernel_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    at = ray_head.folder(tmp_path / ("deep" * 30))
    longest = at / "r" / "session_2026-11-22_19-40-17_258384_4194304" / "sockets" / "plasma_store.1"
    assert len(os.fsencode(longest)) <= ray_head.LONGEST_SOCKET_PATH


def test_rays_folder_must_be_ones_own(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UpFailed, match="belongs to somebody else"):
        ray_head.make_folder(tmp_path / "link")
    ray_head.make_folder(tmp_path / "own")
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_ray_is_started_on_loopback_without_dashboard_and_on_the_same_port_again(tmp_path: Path) -> None:
    home.prepare(tmp_path, tmp_path / "private")
    first = ray_head.command(tmp_path, RaySettings(num_gpus=3), {})
    second = ray_head.command(tmp_path, RaySettings(num_gpus=3), {})
    ray_head.remove_folder(tmp_path)
    assert first.facts == second.facts
    assert {"--node-ip-address=127.0.0.1", "--include-dashboard=false", "--num-gpus=3"} <= set(first.argv)


def test_without_a_terminal_progress_is_plain_lines() -> None:
    out = io.StringIO()
    console = Console(out)
    with console.step("Ray"):
        console.tick()
        console.result("at 127.0.0.1:1")
    assert out.getvalue().splitlines()[0] == "  .. Ray"
    assert out.getvalue().splitlines()[1].startswith("  ok Ray: at 127.0.0.1:1 (")


def test_a_reader_who_has_gone_away_does_not_stop_the_platform() -> None:
    out = io.StringIO()
    out.close()
    with pytest.raises(ValueError, match="closed"):
        out.write("")
    from argus.console import write

    write(out, "nobody reads this")


def test_the_last_words_name_what_to_try(tmp_path: Path) -> None:
    ready = Ready(
        api_url="http://127.0.0.1:8080",
        openai_url="http://127.0.0.1:8000/v1",
        specs_url="/state/specs.git",
        state=Path("/state"),
        token_file=Path("/state/demo-token"),
        models=["demo-202611221305-hello"],
        answer="Hello!",
    )
    text = "\n".join(ready.lines())
    assert "Argus is ready." in text
    assert '{"model": "demo-202611221305-hello", "messages"' in text
    assert "git clone /state/specs.git" in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"], {}) == 0
    assert capsys.readouterr().out.startswith("argus ")
