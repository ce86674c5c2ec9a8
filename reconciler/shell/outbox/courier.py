"""The courier: takes what is due from the outbox and delivers it, on a thread of its own beside the loop.

It works while its reconciler leads. Each destination has so many requests at a time and rests as a whole after a
failure, so that one that is slow or down takes nothing from the others; while it is failing it gets one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ParamSpec, TypeVar

from reconciler.core.delivery import Dead, Fate, Letter, Patience, Reply, fate, is_its_fault, rest_s, told
from reconciler.errors import ArgusError
from reconciler.shell.ledger import Outbox
from reconciler.shell.outbox.destination import Destination, Unready
from reconciler.shell.outbox.sending import Sender

log = logging.getLogger(__name__)

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

EVERY_S = 0.5
TIDY_S = 60.0
AWAY_S = 5.0
"""How long the ledger is left alone when it does not answer."""

MARGIN_S = 5.0
"""How much longer a letter is claimed than a request may take, at most: settling it takes a moment, too."""

ENDING_S = 2.0
"""How long requests that are on their way may take when the process is to end."""


@dataclass(slots=True)
class _Stand:
    """How it is going with one destination."""

    destination: Destination
    sender: Sender | None = None
    underway: int = 0
    failures: int = 0
    rests_until: datetime | None = None
    trouble: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def room(self, most: int, now: datetime) -> int:
        """Say how many more requests it gets."""
        if self.rests_until is not None and now < self.rests_until:
            return 0
        return (1 if self.failures else most) - self.underway


class Courier:
    """The thread. `start` begins, `close` ends it."""

    def __init__(
        self,
        outbox: Outbox,
        destinations: Sequence[Destination],
        *,
        is_wanted: Callable[[], bool] = lambda: True,
        timeout_s: float = 15.0,
        concurrency: int = 2,
        patience: Patience | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare to deliver to these destinations.

        Args:
            outbox: Where letters are taken from.
            destinations: Where they may go. What is for any other is given up.
            is_wanted: Asked before each round: whether this process is the one that works.
            timeout_s: How long one request may take in all.
            concurrency: Requests at a time, to each destination.
            patience: When a letter is given up.
            clock: The time, as a timezone-aware UTC datetime.
        """
        self._outbox = outbox
        self._stands = {each.name: _Stand(each) for each in destinations}
        self._is_wanted = is_wanted
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._patience = patience or Patience()
        self._clock = clock
        self._trouble = ""
        # Of its own: names are looked up on the event loop's threads, and may take them all for a while.
        self._ledger_threads = ThreadPoolExecutor(2, thread_name_prefix="outbox-ledger")
        self._closing = threading.Event()
        self._stirred: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def close(self, limit_s: float = ENDING_S + 3) -> None:
        """End the thread, waiting for at most `limit_s`. What it was about to deliver is delivered by the next one."""
        self._closing.set()
        self._stirred()
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def _run(self) -> None:
        asyncio.run(self._deliver_all())

    async def _deliver_all(self) -> None:
        stir, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stirred = lambda: _call(loop, stir.set)
        next_tidy = 0.0
        while not self._closing.is_set():
            pause_s = EVERY_S
            stir.clear()
            try:
                if self._is_wanted():
                    if time.monotonic() >= next_tidy:
                        await self._ledger(self._outbox.tidy, list(self._stands), self._clock())
                        next_tidy = time.monotonic() + TIDY_S
                    await self._round()
                self._trouble = ""
            except ArgusError as error:
                pause_s = AWAY_S
                self._say(str(error))
            except Exception:  # this thread must not end: nothing would be delivered any more
                pause_s = AWAY_S
                log.exception("the outbox cannot be delivered")
            with suppress(TimeoutError):
                await asyncio.wait_for(stir.wait(), pause_s)
        await self._end()

    async def _round(self) -> None:
        """Take what is due and begin to deliver it."""
        now = self._clock()
        room = {name: free for name, stand in self._stands.items() if (free := stand.room(self._concurrency, now)) > 0}
        if not room:
            return
        until = now + timedelta(seconds=self._timeout_s + min(MARGIN_S, self._timeout_s))
        for letter in await self._ledger(self._outbox.claim, room, now, until):
            stand = self._stands[letter.destination]
            stand.underway += 1
            task = asyncio.create_task(self._deliver(stand, letter))
            stand.tasks.add(task)
            task.add_done_callback(stand.tasks.discard)

    async def _deliver(self, stand: _Stand, letter: Letter) -> None:
        try:
            reply = await self._attempt(stand, letter)
            now = self._clock()
            self._rest(stand, reply, now)
            outcome = fate(letter, reply, now, random.random(), self._patience)
            self._tell(stand, letter, reply, outcome)
            await self._ledger(self._outbox.settle, letter, outcome, now)
        except ArgusError as error:  # it stays claimed, and is delivered again when that runs out
            self._say(str(error))
        finally:
            stand.underway -= 1
            self._stirred()  # there is room for the next one

    async def _attempt(self, stand: _Stand, letter: Letter) -> Reply:
        try:
            if stand.sender is None:
                stand.sender = Sender(stand.destination)
            request = stand.destination.request(letter, self._clock())
            return await stand.sender.send(letter, request, self._timeout_s)
        except Unready as error:
            return Reply(None, str(error))
        except Exception as error:  # a letter that nobody can send must not be tried for ever
            log.exception("%s cannot be sent to %s", letter.id, stand.destination.name)
            return Reply(None, f"internal error: {type(error).__name__}")

    def _rest(self, stand: _Stand, reply: Reply, now: datetime) -> None:
        stand.failures = stand.failures + 1 if is_its_fault(reply) else 0
        until = now + timedelta(seconds=rest_s(reply, stand.failures, now, random.random()))
        stand.rests_until = max(stand.rests_until or until, until)

    def _tell(self, stand: _Stand, letter: Letter, reply: Reply, outcome: Fate) -> None:
        """Say in the log when a destination begins to fail or has recovered, and what is given up."""
        trouble = "" if reply.is_good else f"{reply.status} {reply.said}"
        if trouble != stand.trouble:
            stand.trouble = trouble
            if trouble:
                log.warning("%s does not take what it is sent: %s", stand.destination.name, told(reply))
            else:
                log.info("%s takes what it is sent again", stand.destination.name)
        if isinstance(outcome, Dead):
            log.warning("%s: %s is given up: %s", stand.destination.name, letter.id, outcome.reason)

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("the outbox is not delivered: %s", trouble)

    async def _ledger(self, call: Callable[_Given, _Found], *arguments: _Given.args, **named: _Given.kwargs) -> _Found:
        """Ask the ledger on another thread: it may take its time, and answers that come meanwhile must not wait."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._ledger_threads, partial(call, *arguments, **named))

    async def _end(self) -> None:
        tasks = [task for stand in self._stands.values() for task in stand.tasks]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=ENDING_S)
            for task in late:
                task.cancel()
        for stand in self._stands.values():
            if stand.sender is not None:
                await stand.sender.close()
        self._ledger_threads.shutdown(wait=False)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # it has ended meanwhile
        loop.call_soon_threadsafe(callback)
