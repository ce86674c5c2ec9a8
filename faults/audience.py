"""Clients that stream from a model all the time, and remember how each request went.

They are a process and a session of their own (`python -m faults.audience PORT MODEL CLIENTS`), so that what an act
computes does not show as a gap between two tokens. It prints a line of JSON a request, and ends when its standard input
does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import asdict

from faults.report import Request
from faults.teller import Teller

TOKENS = 100
LONGEST_ANSWER_S = 90.0
PAUSE_AFTER_FAILURE_S = 0.2


class Audience:
    """So many clients of one model, each with one request at a time."""

    def __init__(self, port: int, model: str, clients: int) -> None:
        self.requests: list[Request] = []
        self._clients = clients
        self._process = Teller(__name__, port, model, clients, take=lambda said: self.requests.append(Request(**said)))

    def settle(self) -> None:
        """Wait until each client has ended every request that it had begun by now."""
        now = time.monotonic()
        deadline = now + LONGEST_ANSWER_S + 10
        while time.monotonic() < deadline:
            over = {one.client for one in list(self.requests) if one.ended > now}
            if len(over) == self._clients:
                return
            time.sleep(0.1)

    def close(self) -> None:
        """Let every client end its request."""
        self._process.close(LONGEST_ANSWER_S + 10)


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
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
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


async def _client(number: int, port: int, content: bytes, closing: asyncio.Event) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not closing.is_set():
        answer = _Answer(number, time.monotonic())
        try:
            async with asyncio.timeout(LONGEST_ANSWER_S):
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = connection
                writer.write(content)
                problem = await answer.read(reader)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps(asdict(answer.result(problem))), flush=True)
        if problem is not None:
            if connection is not None:
                connection[1].close()
            connection = None
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
    if connection is not None:
        connection[1].close()


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


async def _all(port: int, model: str, clients: int) -> None:
    closing = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(closing.set)), daemon=True).start()
    content = _request(port, model)
    await asyncio.gather(*(_client(number, port, content, closing) for number in range(clients)))


if __name__ == "__main__":
    asyncio.run(_all(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
