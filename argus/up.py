"""`argus up`: the order in which the platform starts and stops.

State folder, leftovers, ports; then the front, Ray, the API, the reconciler and the demo model's building side by side;
then the demo through the API; then watching until somebody says stop. Stopping goes API, reconciler, the front when its
streams have ended (Ray's own with the reconciler, HAProxy after it), Ray, and all the rest.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from argus import commands, demo_model, front, health, home, processes, ray_head
from argus.client import Client
from argus.commands import API, BUILD, RECONCILER, ROUTER
from argus.console import Console
from argus.demo import Demo
from argus.errors import Stopped, UpFailed
from argus.ready import Ready
from argus.remote import api_url
from argus.supervisor import Command, Death, Service, Supervisor, tail
from argus.waiting import Waiting
from reconciler.errors import ArgusError
from reconciler.front import config as haproxy
from reconciler.front.config import BODIES, FRONT, PARTS
from reconciler.names import LAST_SIGNAL, RECONCILER_SOCKET
from reconciler.settings import Settings
from reconciler.shell import embedded_repo
from reconciler.shell.admin_token import VARIABLE, admin_token, token_file
from reconciler.shell.signing_key import signature

TEMPLATE = Path(__file__).parent / "specs_template"
SUPERVISOR = "supervisor"

RECONCILER_GRACE_S = 20.0
RAYLET_LOOK_S = 2.0
RAY_LIMIT_S = 120.0
API_LIMIT_S = 60.0
BUILD_LIMIT_S = 180.0
MODEL_LIMIT_S = 300.0
CHAT_LIMIT_S = 60.0


class Platform:
    """One platform on one state folder. `config` is the configuration file that its processes read too."""

    def __init__(self, settings: Settings, config: Path, environ: Mapping[str, str], console: Console) -> None:
        self._settings = settings
        self._config = config
        self._environ = dict(environ)
        self._console = console
        self._home = settings.home
        self._embedded_ray = settings.ray.address is None
        self._front = haproxy.kind(settings.serving)
        self._waiting = Waiting(self._look)
        self._children: Supervisor
        self._ray_facts: dict[str, Any] = {}
        self._ray_log_from = 0
        self._ray_up = False
        self._next_look_at_raylet = 0.0
        self._adopted = False
        self._ready = False

    def up(self, *, with_demo: bool) -> int:
        """Start, watch, and stop when asked. Gives the exit status. Raises UpFailed where a step cannot succeed."""
        processes.become_subreaper()
        home.prepare(self._home, self._settings.private_root)
        with self._waiting.listening(), home.locked(self._home):
            self._children = Supervisor(self._home, owns_orphans=True)
            if me := processes.find(os.getpid()):
                home.note(self._home, SUPERVISOR, me)
            try:
                self._start(with_demo)
                self._ready = True
                while True:
                    self._waiting.tick()
            except Stopped:
                return 0
            finally:
                self._stop()

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start(self, with_demo: bool) -> None:
        with self._console.step(f"State folder {self._home}"):
            self._prepare_state()
        self._take_over_or_clear_away()
        self._check_ports()
        self._start_front()
        if self._embedded_ray and not self._adopted:
            self._children.start(Service(ray_head.NAME, self._ray_command, grace_s=20))
        self._children.start(Service(API, self._own(API)))
        # It waits for Ray's address in run/ray.json by itself, and has seconds of imports to do before it needs it.
        self._start_reconciler()
        target = self._settings.private_root / "hf" / "demo"
        # A shared /private is not ours to put a demo into.
        with_demo = with_demo and target.is_relative_to(self._home)
        if with_demo and not demo_model.is_built(target):
            build = partial(commands.build, target, self._environ)
            self._children.start(Service(BUILD, build, grace_s=2, restart=False))
        self._wait_for_ray()
        self._wait_for_api()
        token = admin_token(self._settings, self._environ)
        demo = Demo(self._home, self._api_url, self._settings.openai_base_url, token)
        if with_demo and not demo.was_made():
            self._wait_for_build(target)
            with self._console.step("Demo model: asking for it through the API"):
                self._waiting.in_background(demo.make)
        self._wait_for_models(demo)

    def _prepare_state(self) -> None:
        if not self._environ.get(VARIABLE):
            home.keep_secret(token_file(self._home))
        if self._settings.spec_repo.url is None:
            repo = Path(self._settings.spec_repo_url)
            try:
                self._waiting.in_background(
                    partial(
                        embedded_repo.ensure,
                        repo,
                        TEMPLATE,
                        branch=self._settings.spec_repo.branch,
                        sign=signature(self._settings),
                    )
                )
            except ArgusError as error:
                raise UpFailed(str(error)) from None

    def _start_front(self) -> None:
        if self._front == "ray":
            if self._settings.serving.front == "haproxy":
                self._console.say("  !! there is no HAProxy here: Ray Serve's own proxy takes its place")
            return
        if self._embedded_ray and not self._adopted:
            # What was true of the last Ray is not true of the next: its replicas' ports may be anybody's now.
            self._waiting.in_background(partial(front.forget_routes, self._settings))
        for service in front.services(self._settings, self._config, self._environ):
            if self._children.process(service.name) is None:
                self._children.start(service)

    def _take_over_or_clear_away(self) -> None:
        """End what a killed supervisor left, but for a Ray that answers and its front: nobody's stream ends."""
        left = home.noted(self._home, ray_head.NAME)
        spared = []
        if left and processes.is_alive(left[0]):
            process, facts = left
            self._children.adopt(Service(ray_head.NAME, self._ray_command, grace_s=20), process)
            fits = self._embedded_ray and facts.get("wants") == self._ray_wants()
            if fits and ray_head.answers(str(facts.get("address"))):
                self._ray_facts, self._ray_up, self._adopted = facts, True, True
                spared = [process]
                self._console.say(f"  ok Ray still runs (pid {process.pid}), and its models with it")
            else:
                with self._console.step("Stopping the Ray of last time, which does not fit any more"):
                    self._children.end(ray_head.NAME)
                    self._children.drop(ray_head.NAME)
        stays = self._front == "haproxy" and (self._adopted or not self._embedded_ray)
        services = front.services(self._settings, self._config, self._environ)
        spared += front.clear_away(self._settings, self._children, services, keep_haproxy=stays)
        names = (API, RECONCILER, BUILD, *(() if self._adopted else (ray_head.NAME,)))
        for name in names:
            if found := home.noted(self._home, name):
                self._children.remember(found[0])
        self._children.end_everything(spare=spared)
        for name in names:
            home.forget(self._home, name)

    def _check_ports(self) -> None:
        api, serving = self._settings.api, self._settings.serving
        _check_port(api.host, api.port, "the API's", "--api-port or ARGUS_API_PORT")
        in_use = self._children.process(FRONT) or (self._front == "ray" and (self._adopted or not self._embedded_ray))
        if not in_use:
            _check_port(serving.host, serving.port, "the models'", "--openai-port or ARGUS_OPENAI_PORT")

    def _start_reconciler(self) -> None:
        # Ray's own front ends with Ray: its answers are ended before, by the one who can tell Serve to.
        drains = self._front == "ray" and self._embedded_ray
        self._children.start(
            Service(
                RECONCILER,
                self._own(RECONCILER),
                RECONCILER_GRACE_S + (self._settings.serving.stop_grace_s if drains else 0),
                stop=LAST_SIGNAL if drains else signal.SIGTERM,
                probe=health.socket_probe(self._home / "run" / RECONCILER_SOCKET, "/healthz"),
            )
        )

    def _own(self, name: str) -> Callable[[], Command]:
        return partial(commands.own, name, self._settings, self._config, self._environ)

    def _ray_wants(self) -> dict[str, object]:
        """Give what a Ray that runs already must have been started for, to be taken over."""
        serving = self._settings.serving
        ours = {"front": self._front, "host": serving.host, "port": serving.port}
        return {**ours, **self._settings.ray.model_dump(mode="json")}

    def _ray_command(self) -> Command:
        log = self._children.log_path(ray_head.NAME)
        self._ray_log_from = log.stat().st_size if log.exists() else 0
        self._ray_up = False
        made = ray_head.command(self._home, self._settings.ray, self._environ)
        self._ray_facts = {**made.facts, "wants": self._ray_wants()}
        # The address is noted only when the node is up (`_look`): who reads it may connect.
        return replace(made, facts={})

    def _wait_for_ray(self) -> None:
        if not self._embedded_ray:
            self._console.say(f"  ok Ray is at {self._settings.ray.address}")
        if not self._embedded_ray or self._adopted:
            return
        with self._console.step("Ray") as step:
            step.tell("waiting for its head node to come up")
            if not self._waiting.until(lambda: self._ray_up, RAY_LIMIT_S):
                self._fail(f"Ray did not come up in {RAY_LIMIT_S:.0f} s", ray_head.NAME)
            self._console.result(f"at {self._ray_facts['address']}")

    def _wait_for_api(self) -> None:
        ask = partial(Client(self._api_url).get, "/api/v2/healthz", timeout_s=2)
        with self._console.step("API") as step:
            step.tell(f"waiting for {self._api_url}/api/v2/healthz")
            if not self._waiting.until(lambda: self._waiting.attempt(ask) is not None, API_LIMIT_S):
                self._fail(f"the API does not answer in {API_LIMIT_S:.0f} s", API)
            self._console.result(f"at {self._api_url}")

    def _wait_for_build(self, target: Path) -> None:
        if self._children.process(BUILD):
            with self._console.step("Demo model: building it, once"):
                self._waiting.until(lambda: self._children.process(BUILD) is None, BUILD_LIMIT_S)
        if not demo_model.is_built(target):
            self._fail("the demo model could not be built", BUILD)

    def _wait_for_models(self, demo: Demo) -> None:
        """Wait for the demo model's first answer, or for the front where there is no demo; then say what to try."""
        first = None
        if demo.was_made():
            self._waiting.attempt(demo.renew_token)
            with self._console.step("Demo model"):
                first = self._first_answer(demo)
        if first is None:
            with self._console.step("OpenAI API") as step:
                step.tell(f"waiting for {self._settings.openai_base_url}/models")
                if not self._waiting.until(lambda: self._waiting.attempt(demo.served) is not None, MODEL_LIMIT_S):
                    self._fail(f"the models' port does not answer in {MODEL_LIMIT_S:.0f} s", RECONCILER)
        ready = Ready(
            api_url=self._api_url,
            openai_url=self._settings.openai_base_url,
            specs_url=self._settings.spec_repo_url,
            state=self._home,
            token_file=demo.token_file if demo.was_made() else token_file(self._home),
            models=[first[0]] if first else (self._waiting.attempt(demo.served) or []),
            answer=first[1] if first else None,
        )
        for line in ready.lines():
            self._console.say(line)

    def _first_answer(self, demo: Demo) -> tuple[str, str] | None:
        """Give the demo model's name and its answer to Hello; None where its user deleted it, or it takes too long."""
        until = time.monotonic() + MODEL_LIMIT_S
        while time.monotonic() < until:
            asked = self._waiting.attempt(lambda: (demo.model(),))
            model = asked[0] if asked else None
            if asked and model is None:
                self._console.result("its user deleted it, so it stays away")
                return None
            if model:
                name, why = str(model["model_id"]), model["error_summary"]
                self._console.tell(f"{name} is {model['state']}" + (f" ({why})" if why else ""))
                if model["state"] == "RUNNING":
                    self._console.tell(f"saying Hello to {name}")
                    answer = self._waiting.attempt(partial(demo.chat, name, timeout_s=CHAT_LIMIT_S))
                    if answer is not None:
                        self._console.result(f"{name} answers")
                        return name, answer
            self._waiting.rest(0.3)
        log = self._children.log_path(RECONCILER)
        self._console.result(f"it does not answer yet; its events and {log} say why")
        return None

    @property
    def _api_url(self) -> str:
        return api_url(self._settings)

    def _fail(self, problem: str, name: str) -> NoReturn:
        log = self._children.log_path(name)
        raise UpFailed(f"{problem}. The end of {log}:\n{tail(log) or '    (empty)'}")

    # --- watching ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for death in self._children.tick():
            self._tell_of(death)
        ray = self._children.process(ray_head.NAME)
        if (
            ray
            and not self._ray_up
            and ray_head.has_started(self._children.log_path(ray_head.NAME), self._ray_log_from)
        ):
            # The reconciler learns from the note where Ray is: on a full disk it is written at a later look.
            with suppress(OSError):
                home.note(self._home, ray_head.NAME, ray, **self._ray_facts)
                self._ray_up = True
                if self._ready:
                    self._console.say(f"{time.strftime('%H:%M:%S')} Ray is up again")
        if ray and self._ray_up and time.monotonic() >= self._next_look_at_raylet:
            self._next_look_at_raylet = time.monotonic() + RAYLET_LOOK_S
            if not ray_head.has_raylet(ray.pid):
                self._console.say(f"{time.strftime('%H:%M:%S')} Ray has lost its raylet")
                self._children.kill(ray_head.NAME)
        self._console.tick()

    def _tell_of(self, death: Death) -> None:
        if death.name == BUILD:
            return
        if death.name == ray_head.NAME:
            self._ray_up = False
            # A client of the Ray that died never finds into the new one: the reconciler begins afresh, and being
            # killed costs it nothing.
            self._children.kill(RECONCILER)
        self._console.say(f"{time.strftime('%H:%M:%S')} {death}; its log is {self._children.log_path(death.name)}")

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop everything that was started, in order. After a failed start an adopted Ray is left, models and front."""
        if not self._children.has_any():
            home.forget(self._home, SUPERVISOR)
            return
        hurry = self._waiting.is_in_a_hurry
        ray = self._children.process(ray_head.NAME)
        leave_ray = ray is not None and self._adopted and not self._ready and not self._waiting.is_asked_to_stop()
        left = [self._children.process(name) for name in (ray_head.NAME, *PARTS)] if leave_ray else []
        with self._console.step("Stopping") as step:
            for name, words in (
                (BUILD, "the demo model's building"),
                (API, "the API"),
                (RECONCILER, "the reconciler, and with Ray's front the answers that it has begun"),
                (FRONT, "the front, when the answers that it has begun are through"),
                (BODIES, "the front, when the answers that it has begun are through"),
                (ROUTER, "the router"),
            ):
                if not (leave_ray and name in PARTS):
                    step.tell(words)
                    self._children.end(name, hurry)
            if not leave_ray:
                step.tell("Ray and its models")
                self._children.end(ray_head.NAME, hurry)
            self._children.end_everything(hurry, spare=[process for process in left if process])
            if self._embedded_ray and not leave_ray:
                ray_head.remove_folder(self._home)
            home.forget(self._home, SUPERVISOR)
        if leave_ray:
            self._console.say("Ray and its models were left running; `argus down` stops them.")


def _check_port(host: str, port: int, whose: str, flag: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError as error:
            raise UpFailed(
                f"port {port} on {host}, {whose}, cannot be had ({error.strerror}); choose another with {flag}"
            ) from None
