"""A small client of the API and of the OpenAI road, for the demo: it may do what any user may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from argus.errors import ClientError

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Client:
    """Talks to one base URL with one bearer token (or none)."""

    base_url: str
    token: str | None = None

    def get(self, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
        """GET; gives the JSON body. Raises ClientError."""
        return self._ask("GET", path, timeout_s=timeout_s)

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        yaml: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """POST `body` as JSON or `yaml` as YAML; gives the JSON body. Raises ClientError."""
        kind, content = ("application/json", json.dumps(body)) if yaml is None else ("application/yaml", yaml)
        return self._ask("POST", path, content, {"content-type": kind, **(headers or {})}, timeout_s)

    def lines(self, path: str, *, silence_s: float = TIMEOUT_S) -> Iterator[str]:
        """GET; gives the body line by line as it comes. Raises ClientError, also for a silence of `silence_s`."""
        url = self.base_url.rstrip("/") + path
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with (
                httpx.Client(trust_env=False, timeout=httpx.Timeout(TIMEOUT_S, read=silence_s)) as http,
                http.stream("GET", url, headers=headers) as answer,
            ):
                if answer.is_error:
                    answer.read()
                    raise ClientError(f"GET {url}: {answer.status_code} {_message(answer)}", answer.status_code)
                yield from answer.iter_lines()
        except httpx.HTTPError as error:
            raise ClientError(f"GET {url}: {type(error).__name__}: {error}") from None

    def _ask(
        self,
        method: str,
        path: str,
        content: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        headers = dict(headers or {})
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        url = self.base_url.rstrip("/") + path
        try:
            # trust_env=False: a proxy set for the internet must not see the platform's tokens.
            with httpx.Client(trust_env=False, timeout=timeout_s) as http:
                answer = http.request(method, url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ClientError(f"{method} {url}: {type(error).__name__}: {error}") from None
        if answer.is_error:
            raise ClientError(f"{method} {url}: {answer.status_code} {_message(answer)}", answer.status_code)
        try:
            return answer.json()
        except ValueError:
            raise ClientError(f"{method} {url}: the answer is not JSON", answer.status_code) from None


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
