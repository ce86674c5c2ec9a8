"""Real HTTP servers on the loopback interface for what Argus sends: git providers, and receivers of webhooks.

A provider holds each request to what that provider publishes of the operation (`tests/contracts/provider_apis`), and
answers as it is described there. Either may be told to answer otherwise for a while.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs

from tests.servers import Handler, serving

APIS = Path(__file__).parent / "contracts" / "provider_apis"
PREFIXES = {"github": "", "gitea": "/api/v1", "gitlab": "/api/v4"}
"""Where each provider's API begins. GitLab's description has the version in the path, where we replace it."""

LONGEST = {"github": 140, "gitlab": 255, "gitea": 255}
TOKEN = "the-status-token"


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: Any


@dataclass(frozen=True)
class Answer:
    """What to answer instead. `hang`: nothing at all. `drip`: the body comes byte by byte, without an end."""

    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    hang: bool = False
    drip: bool = False
    cut_off: bool = False


@dataclass
class Receiver:
    """A server: what came, and what it answers next (the normal answer where nothing is scripted)."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    script: deque[Answer] = field(default_factory=deque)
    always: Answer | None = None
    problems: list[str] = field(default_factory=list)
    respond: Callable[[Seen], Answer] = lambda _seen: Answer(204)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    ending: threading.Event = field(default_factory=threading.Event)

    def wait(self, count: int, limit_s: float = 20) -> list[Seen]:
        """Wait until so many requests have come."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.seen) >= count, limit_s), self.seen
            return list(self.seen)

    def take(self, seen: Seen) -> Answer:
        """Note a request and give the answer to it."""
        answer = self.respond(seen)
        with self.arrived:
            self.seen.append(seen)
            self.arrived.notify_all()
            return self.script.popleft() if self.script else self.always or answer


@contextmanager
def receiver(tls: Path | None = None) -> Iterator[Receiver]:
    """Run a server that takes anything; `tls` is a certificate with its key."""
    found = Receiver()

    class Taking(Handler):
        def do_POST(self) -> None:  # noqa: N802  http.server calls it so
            raw = self.body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = found.take(Seen(self.path, headers, raw, _parsed(headers.get("content-type", ""), raw)))
            if answer.hang:
                found.ending.wait(10)
                self.close_connection = True
                return
            if answer.cut_off:
                self.close_connection = True
                return
            body = b"" if answer.body is None else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            if answer.drip:
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                while not found.ending.wait(0.02):
                    self.wfile.write(b"x")
            else:
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

    with serving(Taking, tls) as found.url:
        try:
            yield found
        finally:
            found.ending.set()


@contextmanager
def provider(kind: str, tls: Path | None = None) -> Iterator[Receiver]:
    """Run a server that is GitHub, GitLab or Gitea as far as commit statuses go; `problems` has what is not right."""
    described = json.loads((APIS / f"{kind}.json").read_text())
    path = re.sub(r"^/v3(?=/)", "", described["path"])
    pattern = re.compile(re.escape(PREFIXES[kind]) + re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/?]+)", re.escape(path)) + r"\Z")
    content = described["post"]["requestBody"]["content"]
    described_answer = described["post"]["responses"]["201"]["content"]["application/json"]["schema"]
    checks = {name: _strict(each["schema"]) for name, each in content.items()}
    with receiver(tls) as found:

        def respond(seen: Seen) -> Answer:
            wrong = []
            if not pattern.match(seen.path):
                wrong.append(f"no such path: {seen.path}")
            check = checks.get(seen.headers.get("content-type", ""))
            if check is None:
                wrong.append(f"not one of {list(checks)}: {seen.headers.get('content-type')}")
            else:
                wrong += [
                    f"{'/'.join(map(str, error.instance_path))}: {error.message}"
                    for error in check.iter_errors(seen.body)
                ]
                wrong += (
                    [] if len(seen.body.get("description", "")) <= LONGEST[kind] else ["the description is too long"]
                )
            if not _authorized(kind, seen.headers):
                return Answer(401, body={"message": "Bad credentials"})
            found.problems += wrong
            return (
                Answer(422, body={"message": "; ".join(wrong)})
                if wrong
                else Answer(201, body=_made_up(described_answer))
            )

        found.respond = respond
        yield found


def _authorized(kind: str, headers: dict[str, str]) -> bool:
    name, value = {
        "github": ("authorization", f"Bearer {TOKEN}"),
        "gitea": ("authorization", f"token {TOKEN}"),
        "gitlab": ("private-token", TOKEN),
    }[kind]
    return headers.get(name) == value and bool(headers.get("user-agent"))


def _parsed(kind: str, raw: bytes) -> Any:
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True))
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _strict(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Check a request also for members that nobody described: a provider would drop them without a word."""
    return jsonschema_rs.validator_for({**schema, "additionalProperties": False}, validate_formats=True)


def _made_up(schema: dict[str, Any]) -> Any:
    """Make an answer of a described form."""
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _made_up(each) for name, each in schema.get("properties", {}).items()}
    return {"string": "2026-11-24T12:00:00Z", "integer": 1, "boolean": False, "array": [], "number": 1.0}[kind]
