"""How long it takes from `git push` to the moment in which Serve has been told, with the whole platform and real Ray.

    .venv/bin/python bench/push_to_serve.py [--pushes 50] [--only embedded|remote] [--keep FOLDER]

Two platforms, one after the other: one pushes into the embedded repository by its path, the other into a remote one
(`file://`), where a signed webhook is sent when the push has returned, as a git host does it. Each is what `make run`
starts, with its demo model answering.

Every push makes the reconciler call `serve.run`, and none of them loads an engine: they scale a model between two and
three replicas where the CPUs that Ray is told of are taken by the first one and the demo. Serve holds the others as
waiting for their place, and takes back one that waits first (which keeps its GPU for Serve's grace of 16 s). Between
two pushes lies a random second.

The times are those that the API shows of each commit (`stages`): `seen` is the start of the pass that read it, and
`applied` when Serve had taken the call, so that the figures are upper bounds. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from data_plane import child, until
from first_chat import free_port

from argus.up import TEMPLATE
from reconciler.shell.embedded_repo import ensure

SECRET = "the-secret-of-the-benchmark"  # noqa: S105  of a platform that lives for minutes
MODEL = "users/bench/scaled.yaml"
SPEC = """\
model_id: scaled
model_source: /private/hf/demo
num_replicas: {replicas}
engine_kwargs:
  max_model_len: 256
"""
CONFIG = """\
paths: {{private_root: private}}
ray: {{num_gpus: 64, num_cpus: 1}}
serving: {{llm: {{drain_timeout_s: 1}}}}
api: {{hooks: {{secret_files: [hook-secret]}}}}
spec_repo: {{url: {url}}}
"""


@dataclass(frozen=True)
class Push:
    """One push: how long it took itself, and when after it began and returned what happened, in seconds."""

    took: float
    seen: float
    applied: float

    @property
    def from_start(self) -> float:
        """From the push's start until Serve was told."""
        return self.took + self.applied


@dataclass(frozen=True)
class Platform:
    """A platform that runs, and a clone of its repository."""

    api: httpx.Client
    clone: Path
    announce: Callable[[str], None]

    def write(self, replicas: int) -> str:
        """Commit another number of replicas, and give the commit."""
        path = self.clone / MODEL
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SPEC.format(replicas=replicas))
        git(self.clone, "add", "-A")
        git(self.clone, "commit", "-q", "-m", f"Scale to {replicas}")
        return git(self.clone, "rev-parse", "HEAD")

    def push(self) -> None:
        """Push what was committed."""
        git(self.clone, "push", "-q", "origin", "HEAD:main")

    def commit(self, sha: str) -> dict[str, Any] | None:
        """Give what the API knows of a commit."""
        answer = self.api.get(f"/serve/commits/{sha}")
        return None if answer.status_code == 404 else dict(answer.raise_for_status().json())

    def state(self, suffix: str) -> str:
        """Give a model's state, or nothing where it is not known yet."""
        items = self.api.get("/serve/models", params={"all": "true"}).raise_for_status().json()["items"]
        return next((str(item["state"]) for item in items if item["model_id_suffix"] == suffix), "")


def git(folder: Path, *arguments: str) -> str:
    """Run git as a person with a clone."""
    who = ["-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def platform(folder: Path, *, remote: bool) -> Iterator[Platform]:
    """Run `argus up` with its demo, and wait until it answers and the model that is scaled has its one engine."""
    folder.mkdir(parents=True)
    home, config, log = folder / "home", folder / "argus.yaml", folder / "argus.log"
    home.mkdir(mode=0o700)
    (home / "hook-secret").write_text(SECRET)
    repository = folder / "remote.git" if remote else home / "specs.git"
    if remote:
        ensure(repository, TEMPLATE)
    config.write_text(CONFIG.format(url=f"file://{repository}" if remote else "null"))
    port = free_port()
    argv = [sys.executable, "-m", "argus", "up", "--config", str(config), "--home", str(home)]
    argv += ["--api-port", str(port), "--openai-port", str(free_port())]
    with child(argv, log, ARGUS_METRICS_PORT=str(free_port())):
        until(lambda: "is ready" in log.read_text(), "argus up")
        headers = {"Authorization": f"Bearer {(home / 'admin-token').read_text().strip()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2", headers=headers, timeout=30) as api:
            api.post("/users", json={"user_id": "bench"}).raise_for_status()
            git(folder, "clone", "-q", str(repository), "clone")

            def announce(sha: str) -> None:
                if not remote:
                    return
                body = json.dumps({"ref": "refs/heads/main", "after": sha}).encode()
                digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                signed = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={digest}"}
                httpx.post(f"{api.base_url}hooks/git", content=body, headers=signed).raise_for_status()

            found = Platform(api, folder / "clone", announce)
            sha = found.write(1)
            found.push()
            found.announce(sha)
            until(lambda: found.state("scaled") == "RUNNING", "the first engine of the scaled model")
            yield found


def measure(on: Platform, pushes: int) -> list[Push]:
    """Push and look up what the API says of each."""
    found = []
    for number in range(pushes + 1):
        time.sleep(random.uniform(0.3, 1.3))
        sha = on.write(2 + number % 2)
        began = time.time()
        on.push()
        returned = time.time()
        on.announce(sha)
        stages: dict[str, str | None] = {}
        deadline = time.monotonic() + 60
        while not stages.get("applied"):
            assert time.monotonic() < deadline, f"{sha} was not applied within a minute: {stages}"
            time.sleep(0.2)
            commit = on.commit(sha)
            stages = commit["stages"] if commit else {}
        seen, applied = (datetime.fromisoformat(str(stages[name])).timestamp() for name in ("seen", "applied"))
        if number:  # the first one warms up
            found.append(Push(returned - began, seen - returned, applied - returned))
    return found


def percentile(values: list[float], share: float) -> float:
    """Give the value that this share of all is not above (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def show(title: str, found: list[Push]) -> None:
    """Print one table."""
    print(f"\n{title}: {len(found)} pushes, load average {os.getloadavg()[0]:.1f}\n")
    print("| ms | median | p90 | p99 | longest |")
    print("| --- | --- | --- | --- | --- |")
    for what, values in (
        ("`git push` itself", [each.took for each in found]),
        ("from the push's return to the start of the pass", [each.seen for each in found]),
        ("from there until Serve was told", [each.applied - each.seen for each in found]),
        ("**from the push's return until Serve was told**", [each.applied for each in found]),
        ("from the push's start until Serve was told", [each.from_start for each in found]),
    ):
        figures = (percentile(values, share) * 1000 for share in (0.5, 0.9, 0.99, 1.0))
        print(f"| {what} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |", flush=True)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pushes", type=int, default=50)
    parser.add_argument("--only", choices=["embedded", "remote"])
    parser.add_argument("--keep", type=Path, help="keep the platforms' state folders and logs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        for name, title in (("embedded", "The embedded repository"), ("remote", "A remote repository and its webhook")):
            if given.only in {None, name}:
                with platform(folder / name, remote=name == "remote") as found:
                    show(title, measure(found, given.pushes))


if __name__ == "__main__":
    main()
