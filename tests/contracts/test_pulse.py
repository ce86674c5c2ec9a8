"""An engine that hangs is found, and one that is merely busy is left alone.

Time is counted in looks at the clock: each is a second later than the one before, so nothing here depends on how fast
the machine is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from reconciler.shell.pulse import Keeper, Pulse, Rhythm

RHYTHM = Rhythm(limit_s=60, stalled_s=600, look_s=0.0005, silent_s=5, idle_s=30)
LIMIT_S = 20.0


class Toy:
    """An engine that answers, and whose loop turns, unless told otherwise."""

    def __init__(self) -> None:
        self.failed = self.stopped = self.slow = False
        self.asked = False
        self.refusals = 0
        self.questions = self.turns = 0
        seconds = itertools.count()
        self.pulse = Pulse(self, RHYTHM, lambda: float(next(seconds)))

    def has_failed(self) -> bool:
        return self.failed

    def is_asked(self) -> bool:
        return self.asked

    async def answer(self) -> None:
        self.questions += 1
        if self.stopped or self.slow:
            await asyncio.Event().wait()
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("out of memory")

    async def turn(self) -> None:
        if self.stopped:
            await asyncio.Event().wait()
        self.turns += 1


def why(toy: Toy) -> str:
    return asyncio.run(asyncio.wait_for(toy.pulse.stops(), LIMIT_S))


def lives(toy: Toy, until: Callable[[], bool]) -> None:
    """Watch until something has come about, and see that the engine was not taken for dead."""

    async def watch() -> None:
        stops = asyncio.create_task(toy.pulse.stops())
        while not until():  # noqa: ASYNC110  limited
            await asyncio.sleep(0.001)
        assert not stops.done(), stops.result()
        stops.cancel()

    asyncio.run(asyncio.wait_for(watch(), LIMIT_S))


def test_an_engine_that_has_died_is_dead_at_once() -> None:
    toy = Toy()
    toy.failed = True
    assert why(toy) == "the engine died"
    assert toy.questions == 0


def test_an_engine_that_hangs_while_it_works_is_found() -> None:
    toy = Toy()
    toy.stopped = toy.asked = True
    assert "no sign of life for 60 s" in why(toy)


def test_an_engine_that_hangs_while_nobody_asks_is_found() -> None:
    toy = Toy()
    toy.stopped = True
    assert "no sign of life for 60 s" in why(toy)


def test_an_engine_that_dies_while_it_is_asked_is_not_waited_for() -> None:
    toy = Toy()
    toy.stopped = True

    async def turn() -> None:
        toy.failed = True
        await asyncio.Event().wait()

    toy.turn = turn  # type: ignore[method-assign]  # this engine dies under the question
    assert why(toy) == "the engine died"


def test_an_engine_at_rest_is_asked_again_and_again_and_lives() -> None:
    toy = Toy()
    lives(toy, lambda: toy.questions >= 5)


def test_an_engine_whose_tokens_flow_is_never_asked() -> None:
    toy = Toy()
    toy.asked = True
    looks = itertools.count()

    def is_asked() -> bool:
        toy.pulse.beat()  # a token has come since the last look
        return next(looks) >= 0

    toy.is_asked = is_asked  # type: ignore[method-assign]
    lives(toy, lambda: next(looks) > 200)
    assert toy.questions == 0


def test_a_prompt_that_takes_minutes_is_not_a_hang() -> None:
    toy = Toy()
    toy.slow = toy.asked = True

    async def turn() -> None:
        toy.turns += 1
        if toy.turns > 100:
            toy.pulse.beat()

    toy.turn = turn  # type: ignore[method-assign]
    lives(toy, lambda: toy.turns > 300)


def test_an_engine_that_turns_and_never_answers_is_given_up_later() -> None:
    toy = Toy()
    toy.slow = toy.asked = True
    assert "answered nobody for 600 s" in why(toy)
    assert toy.turns > 60


def test_an_engine_that_refuses_for_a_moment_lives() -> None:
    toy = Toy()
    toy.refusals = 3
    lives(toy, lambda: toy.questions >= 10)


def test_an_engine_that_refuses_everything_is_dead_in_its_own_words() -> None:
    toy = Toy()
    toy.refusals = 1_000_000
    assert why(toy) == "the engine has refused everything for 60 s: out of memory"


def test_a_loop_that_cannot_be_looked_at_is_judged_by_its_answers() -> None:
    toy = Toy()

    async def turn() -> None:
        raise NotImplementedError

    toy.turn = turn  # type: ignore[method-assign]
    lives(toy, lambda: toy.questions >= 5)
    toy.slow = True
    assert "no sign of life" in why(toy)


def test_a_replica_ends_when_its_engine_has_and_says_why_until_then() -> None:
    async def watch() -> None:
        toy, steps = Toy(), []
        ended = asyncio.Event()

        async def idle(limit_s: float) -> None:
            with pytest.raises(RuntimeError, match="the engine died"):
                keeper.check()
            steps.append("requests have ended")

        def end() -> None:
            steps.append("the process has ended")
            ended.set()

        keeper = Keeper(toy.pulse, idle, end)
        keeper.start()
        keeper.check()
        toy.failed = True
        await ended.wait()
        assert steps == ["requests have ended", "the process has ended"]

    asyncio.run(asyncio.wait_for(watch(), LIMIT_S))


def test_a_watch_that_ends_by_itself_is_no_health() -> None:
    async def watch() -> None:
        toy = Toy()

        def has_failed() -> bool:
            raise AttributeError("another release of the engine has no such thing")

        toy.has_failed = has_failed  # type: ignore[method-assign]
        keeper = Keeper(toy.pulse, asyncio.sleep, lambda: None)
        keeper.start()

        async def keep_checking() -> None:
            while True:
                keeper.check()
                await asyncio.sleep(0.001)

        with pytest.raises(RuntimeError, match="nobody watches the engine any more"):
            await keep_checking()

    asyncio.run(asyncio.wait_for(watch(), LIMIT_S))
