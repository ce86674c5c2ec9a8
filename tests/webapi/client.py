"""The API as the tests speak to it, and what stands behind it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from flask import Flask
from werkzeug.datastructures import Headers
from werkzeug.serving import make_server

from reconciler.core.cases import Case
from reconciler.core.entities import Event, Record
from reconciler.ports import Advance, PlatformStatus
from reconciler.settings import Settings
from reconciler.shell.ledger import open_ledger
from webapi.app import assemble
from webapi.parts import Parts

ADMIN_TOKEN = "the-admin-token"
HOOK_SECRET = "the-secret-of-a-webhook"
SPEC = "model_id: hello\nmodel_source: $HOME/common/hf/demo\n"
MODELS = "/api/v2/serve/models"


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody who is not the platform."""
    who = ["-c", "user.name=Carol", "-c", "user.email=carol@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def opened(settings: Settings) -> Iterator[Api]:
    """Open an API with nothing in it: a real bare repository and a real ledger in the home of `settings`."""
    git(settings.home, "init", "--quiet", "--bare", "specs.git")
    (settings.private_root / "hf/demo").mkdir(parents=True)
    engine = open_ledger(settings.ledger_url, settings.ledger.timeout_s)
    try:
        parts = Parts.from_settings(settings, engine, ADMIN_TOKEN)
        yield Api(assemble(parts), parts, settings.home)
    finally:
        engine.dispose()


class Answer(Protocol):
    """A response whose JSON may be looked into without asking first whether there is any."""

    status_code: int
    json: Any
    text: str
    data: bytes
    mimetype: str
    headers: Headers


@dataclass
class Api:
    """The API as its clients see it, and what stands behind it."""

    app: Flask
    parts: Parts
    folder: Path
    tokens: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, who: str | None = "alice", **arguments: Any) -> Answer:
        """Send a request as a user (made on the way), as `admin`, or as nobody (None)."""
        headers = dict(arguments.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.token(who)}"
        with self.app.test_client() as client:
            return cast("Answer", client.open(path, method=method, headers=headers, **arguments))

    def token(self, who: str) -> str:
        """Give a user's token."""
        if who == "admin":
            return ADMIN_TOKEN
        if who not in self.tokens:
            now = datetime.now(UTC)
            self.parts.accounts.create_user(who, now)
            self.tokens[who] = self.parts.accounts.issue_token(who, now, timedelta(days=1)).token
        return self.tokens[who]

    def post(self, spec: str | bytes = SPEC, who: str | None = "alice", query: str = "", **arguments: Any) -> Answer:
        """Write a model."""
        arguments.setdefault("content_type", "application/yaml")
        return self.call("POST", MODELS + query, who, data=spec, **arguments)

    def created(self, spec: str = SPEC, who: str = "alice") -> str:
        """Write a model and give its key."""
        answer = self.post(spec, who)
        assert answer.status_code == 202, answer.json
        return str(answer.json["model_key"])

    def patch(self, key: str, body: Any, who: str = "alice") -> Answer:
        """Change a model."""
        return self.call("PATCH", f"{MODELS}/{key}", who, json=body)

    def get(self, path: str, who: str | None = "alice") -> Any:
        """Read something that is there."""
        answer = self.call("GET", path, who)
        assert answer.status_code == 200, answer.json
        return answer.json

    def log(self) -> list[str]:
        """Give the branch's commits, newest first, as `author|committer|subject`."""
        return git(self.folder / "specs.git", "log", "--format=%an|%cn|%s", "main").splitlines()

    def head(self) -> str:
        """Give the branch's head."""
        return git(self.folder / "specs.git", "rev-parse", "main")

    def content(self, path: str) -> str:
        """Give a file's text in the repository, to the byte."""
        found = self.parts.store.text(path)
        assert found is not None
        return found.decode()

    def push(self, files: dict[str, str | None]) -> str:
        """Push a commit as somebody with a plain clone; None deletes a file. Gives the commit's SHA."""
        clone = self.folder / "clone"
        if not clone.exists():
            git(self.folder, "clone", "--quiet", str(self.folder / "specs.git"), "clone")
        git(clone, "fetch", "--quiet", "origin")
        if "origin/main" in git(clone, "branch", "--remotes"):
            git(clone, "checkout", "--quiet", "-B", "main", "origin/main")
        for path, text in files.items():
            if text is None:
                (clone / path).unlink()
            else:
                (clone / path).parent.mkdir(parents=True, exist_ok=True)
                (clone / path).write_bytes(text.encode())
        git(clone, "add", "--all")
        git(clone, "commit", "--quiet", "--message", "by hand")
        git(clone, "push", "--quiet", "origin", "HEAD:main")
        return git(clone, "rev-parse", "HEAD")

    def record(
        self,
        *records: Record,
        events: tuple[Event, ...] = (),
        cases: tuple[Case, ...] = (),
        status: PlatformStatus | None = None,
    ) -> None:
        """Write into the ledger what a pass of the reconciler would."""
        base = self.parts.ledger.load().base
        self.parts.ledger.record(base, Advance(self.head(), records, events, status=status, cases=cases))


@contextmanager
def listening(api: Api) -> Iterator[str]:
    """Serve an API over real HTTP. Gives its address."""
    server = make_server("127.0.0.1", 0, api.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
