"""Clients that stream from a model all the time, and remember how each request went."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass

TOKENS = 100
LONGEST_ANSWER_S = 90.0
PAUSE_AFTER_FAILURE_S = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """How one request went for one client. Times are `time.monotonic()`, seconds.

    `first` is when the answer's first piece came, None where none did. `problem` is None where the answer came whole.
    `gap` is the longest time between two of its pieces, which ended at `gap_at`.
    """

    client: int
    began: float
    first: float | None
    ended: float
    problem: str | None
    gap: float
    gap_at: float


class Audience:
    """So many clients of one model, each with one request at a time, on a thread of their own."""

    def __init__(self, port: int, model: str, clients: int) -> None:
        self.requests: list[Request] = []
        self._port = port
        self._content = _request(port, model)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen(clients)), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let every client end its request."""
        self._closing.set()
        self._thread.join(LONGEST_ANSWER_S + 10)

    async def _listen(self, clients: int) -> None:
        await asyncio.gather(*(self._client(number) for number in range(clients)))

    async def _client(self, number: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._closing.is_set():
            answer = _Answer(number, time.monotonic())
            try:
                async with asyncio.timeout(LONGEST_ANSWER_S):
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self._port)
                    reader, writer = connection
                    writer.write(self._content)
                    problem = await answer.read(reader)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            self.requests.append(answer.result(problem))
            if problem is not None:
                if connection is not None:
                    connection[1].close()
                connection = None
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        if connection is not None:
            connection[1].close()


class _Answer:
    """One answer as it comes in."""

    def __init__(self, client: int, began: float) -> None:
        self._client, self._began, self._last = client, began, 0.0
        self._first: float | None = None
        self._gap, self._gap_at = 0.0, began

    async def read(self, reader: asyncio.StreamReader) -> str | None:
        """Read it to its end, and say what is wrong with it."""
        head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode()
        if status != "200":
            return f"{status} {(await _body(head, reader))[:300]!r}"
        text = b""
        while (size := int(await reader.readline(), 16)) > 0:
            piece = await reader.readexactly(size + 2)
            now = time.monotonic()
            if self._first is None:
                self._first = now
            elif now - self._last > self._gap:
                self._gap, self._gap_at = now - self._last, now
            self._last = now
            text += piece[:-2]
        await reader.readexactly(2)
        if b'"finish_reason":"length"' not in text:
            return f"the stream does not end as it should: {text[-300:]!r}"
        return None

    def result(self, problem: str | None) -> Request:
        return Request(self._client, self._began, self._first, time.monotonic(), problem, self._gap, self._gap_at)


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(length)) if length.strip() else b""


def _request(port: int, model: str) -> bytes:
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
