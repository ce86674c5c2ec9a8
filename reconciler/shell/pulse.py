"""Whether an engine lives, told by what comes out of it.

An engine that hangs raises no error, ends no process and closes no connection: a kernel that never returns, a worker
that waits for another, a stopped process. All that it shows is silence. Silence may also be rest, a queue, or a prompt
of a million tokens, so silence alone is only the reason to ask.

It knows neither Ray nor vLLM. Sent to the cluster by value: nodes need Ray and vLLM, not Argus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

FAREWELL_S = 1.0
"""How long a replica whose engine is dead stays: for the engine's last words, and for fronts to turn away."""


@dataclass(frozen=True)
class Rhythm:
    """How long is too long, in seconds.

    `limit_s` without any sign of an engine that was asked is death. It is longer than the longest single step of an
    engine that works: 262,144 tokens, the most that a spec may put into one, at 8,000 a second take 33 s.

    `stalled_s` without an answer is death even where the engine's loop still turns. A prompt of a million tokens takes
    minutes and lets nothing else through; a front gives a silent request up after 600 s.
    """

    limit_s: float
    stalled_s: float = 600.0
    look_s: float = 0.5
    silent_s: float = 5.0
    """Silence of an engine that has requests, after which it is asked."""
    idle_s: float = 30.0
    """The same, of one that has none. A token each half minute costs nothing."""


class Engine(Protocol):
    """What is asked of an engine."""

    def has_failed(self) -> bool:
        """Say whether the engine itself knows that it is dead. A cheap look."""
        ...

    def is_asked(self) -> bool:
        """Say whether somebody waits for it."""
        ...

    async def answer(self) -> None:
        """Have it answer the smallest request there is, as a user would. Raises Exception where it refuses."""
        ...

    async def turn(self) -> None:
        """Come back once the engine's loop has gone round: between two steps, whatever its requests wait for."""
        ...


class Pulse:
    """Watches one engine. Everything happens on the event loop that calls `stops`."""

    def __init__(self, engine: Engine, rhythm: Rhythm, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the engine for alive now. `clock` gives seconds."""
        self._engine = engine
        self._rhythm = rhythm
        self._clock = clock
        self._beat = self._turned = clock()
        self._refusal: str | None = None

    def beat(self) -> None:
        """Note that something came out of the engine. Called for each of its steps, so it must stay cheap."""
        self._beat = self._clock()

    async def stops(self) -> str:
        """Wait until the engine is dead, and say why."""
        rhythm = self._rhythm
        while True:
            await asyncio.sleep(rhythm.look_s)
            if self._engine.has_failed():
                return "the engine died"
            patience = rhythm.silent_s if self._engine.is_asked() else rhythm.idle_s
            if self._clock() - self._beat < patience:
                continue
            if (why := await self._examine()) is not None:
                return why

    async def _examine(self) -> str | None:
        """Ask, and wait for any sign of life. Says why the engine is dead; None where it lives."""
        began = self._clock()
        self._turned, self._refusal = began, None
        asking = [asyncio.create_task(self._ask(began)), asyncio.create_task(self._keep_turning())]
        try:
            while self._beat < began:
                await asyncio.wait(asking[:1], timeout=self._rhythm.look_s)
                if self._engine.has_failed():
                    return "the engine died"
                if self._beat < began and (why := self._verdict(began)) is not None:
                    return why
            return None
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _verdict(self, began: float) -> str | None:
        rhythm, now = self._rhythm, self._clock()
        if self._refusal is not None and now - began >= rhythm.limit_s:
            return f"the engine has refused everything for {rhythm.limit_s:g} s: {self._refusal}"
        if now - self._turned >= rhythm.limit_s:
            return f"the engine hangs: it was asked and gave no sign of life for {rhythm.limit_s:g} s"
        if now - began >= rhythm.stalled_s:
            return f"the engine is stuck: it runs, and has answered nobody for {rhythm.stalled_s:g} s"
        return None

    async def _ask(self, began: float) -> None:
        """Ask until something has come. A refusal may be a matter of the moment."""
        while self._beat < began:
            try:
                await self._engine.answer()
            except Exception as error:  # whatever the request failed with, it was no answer
                self._refusal = str(error) or type(error).__name__
                await asyncio.sleep(self._rhythm.look_s)
            else:
                self.beat()

    async def _keep_turning(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # one that cannot be asked this is judged by its answers
                await self._engine.turn()
                self._turned = self._clock()
            await asyncio.sleep(self._rhythm.look_s)


class Keeper:
    """Ends the replica's process once its engine is dead.

    A process that ends is replaced within seconds. A health check that fails would have to fail three times, and then
    wait for streams to end that never will.
    """

    def __init__(self, pulse: Pulse, idle: Callable[[float], Awaitable[None]], end: Callable[[], None]) -> None:
        """Prepare; `start` begins.

        Args:
            pulse: Says when the engine is dead.
            idle: Waits until no request is left, for at most so many seconds.
            end: Ends this process and every one below it. What an engine holds (a GPU's memory) is held by processes
                that outlive their parent, above all those that are stopped.
        """
        self.why: str | None = None
        """Why the engine is dead; None while it lives."""
        self._pulse = pulse
        self._idle = idle
        self._end = end
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._keeping = asyncio.create_task(self._keep(), name="keeper")

    def check(self) -> None:
        """Raise RuntimeError where the engine is dead, or where nobody watches it."""
        if self.why is not None:
            raise RuntimeError(self.why)
        if self._keeping is not None and self._keeping.done():
            raise RuntimeError("nobody watches the engine any more") from (
                None if self._keeping.cancelled() else self._keeping.exception()
            )

    async def _keep(self) -> None:
        self.why = await self._pulse.stops()
        log.error("this replica ends: %s", self.why)
        await self._idle(FAREWELL_S)
        self._end()
