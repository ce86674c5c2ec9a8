"""Load on an OpenAI endpoint from many clients at once, at as little cost as Python allows.

Each client keeps one connection and sends its next request when the last answer is through. Answers are not parsed
beyond what tells their end, so that on a small machine the server is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Result:
    """What one run showed. Times in seconds; `first` from the request to the first event of its answer."""

    seconds: float
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def first_ms(self) -> float:
        """The median time to the first event, in milliseconds."""
        return statistics.median(self.first) * 1000 if self.first else float("nan")


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, until: float, result: Result, done: asyncio.Future[None]) -> None:
        self._request, self._until, self._result, self._done = request, until, result, done
        self._transport: asyncio.Transport
        self._data = b""
        self._sent = 0.0
        self._body = 0
        self._first = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._data, self._body, self._first = b"", 0, False
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._body:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body = end + 4
        if not self._first and len(self._data) > self._body:
            self._first = True
            self._result.first.append(time.perf_counter() - self._sent)
        if self._is_whole():
            self._finish()

    def _is_whole(self) -> bool:
        head = self._data[: self._body].lower()
        if b"transfer-encoding: chunked" in head:
            return self._data.endswith(b"0\r\n\r\n")
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        return len(self._data) - self._body >= int(length)

    def _finish(self) -> None:
        status = self._data[9:12]
        now = time.perf_counter()
        if status != b"200":
            self._result.failures.append(self._data[:300].decode(errors="replace"))
        elif now <= self._until:
            self._result.requests += 1
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self._result.failures.append(f"the connection was lost: {error}")
        if not self._done.done():
            self._done.set_result(None)


def request(port: int, model: str, tokens: int, *, stream: bool, path: str = "/v1/chat/completions") -> bytes:
    """Give a chat request of exactly `tokens` answered tokens, as it goes over the wire."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Hello, who are you?"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": stream,
        }
    ).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _run(port: int, content: bytes, clients: int, seconds: float) -> Result:
    loop = asyncio.get_running_loop()
    result = Result(seconds)
    until = time.perf_counter() + seconds
    waiting = []
    for _ in range(clients):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda done=done: _Client(content, until, result, done), "127.0.0.1", port)
        waiting.append(done)
    await asyncio.wait_for(asyncio.gather(*waiting), seconds + 120)
    return result


def run(port: int, content: bytes, clients: int, seconds: float) -> Result:
    """Let `clients` send `content` again and again for `seconds`. Counts answers that are through by then."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_run(port, content, clients, seconds))
    return uvloop.run(_run(port, content, clients, seconds))
