"""Waiting for a remote: never longer than one wants to, and not at all for one that has just failed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import SourceUnreachable
from reconciler.shell.fetching import LONGEST_PAUSE_S, Fetcher, pause_s


class Remote:
    """Counts who comes. It fails with `error`, and answers only while `open`."""

    def __init__(self) -> None:
        self.came = 0
        self.error: Exception | None = None
        self.began = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def fetch(self) -> None:
        self.came += 1
        self.began.set()
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def remote() -> Remote:
    return Remote()


def test_each_who_asks_for_the_newest_has_a_fetch_that_began_after_he_asked(remote: Remote) -> None:
    fetcher = Fetcher(remote.fetch)
    remote.open.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(fetcher.bring, patience_s=60)
        assert remote.began.wait(60)
        later = [pool.submit(fetcher.bring, patience_s=60) for _ in range(3)]
        remote.open.set()
        for each in (first, *later):
            each.result()
    assert remote.came >= 2, "what the first one fetched may be older than what the others ask for"


def test_what_is_young_enough_is_not_fetched_again(remote: Remote) -> None:
    fetcher = Fetcher(remote.fetch)
    for _ in range(3):
        fetcher.bring(patience_s=60, max_age_s=3600)
    assert remote.came == 1
    fetcher.forget()
    fetcher.bring(patience_s=60, max_age_s=3600)
    assert remote.came == 2


def test_nobody_waits_longer_than_he_wants_and_what_comes_late_still_counts(remote: Remote) -> None:
    fetcher = Fetcher(remote.fetch)
    remote.open.clear()
    for _ in range(2):
        with pytest.raises(SourceUnreachable, match="has not ended"):
            fetcher.bring(patience_s=0.05)
    assert remote.came == 1, "nobody comes twice at a time"
    remote.open.set()
    fetcher.bring(patience_s=60, max_age_s=3600)
    assert fetcher.trouble is None


@pytest.mark.parametrize("error", [SourceUnreachable("git fetch failed: gone"), OSError("disk"), ValueError("x")])
def test_a_remote_that_has_just_failed_is_left_alone_but_for_those_who_know_better(
    remote: Remote, error: Exception
) -> None:
    fetcher = Fetcher(remote.fetch)
    remote.error = error
    for _ in range(3):
        with pytest.raises(SourceUnreachable, match="git fetch failed"):
            fetcher.bring(patience_s=60, longest_pause_s=0)
    assert remote.came == 3
    for _ in range(3):
        with pytest.raises(SourceUnreachable, match="git fetch failed"):
            fetcher.bring(patience_s=60)  # the third pause is 2 to 4 s
    assert remote.came == 3
    assert fetcher.trouble is not None
    remote.error = None
    fetcher.bring(patience_s=60, longest_pause_s=0)
    assert fetcher.trouble is None
    fetcher.bring(patience_s=60)
    assert remote.came == 5, "a success ends the pauses"


@given(st.integers(1, 10_000))
def test_pauses_grow_up_to_a_limit(failures: int) -> None:
    assert pause_s(failures) <= pause_s(failures + 1) <= LONGEST_PAUSE_S
    assert [pause_s(number) for number in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_who_has_not_begun_to_wait_is_told_that_others_wait_in_vain(remote: Remote) -> None:
    now = Clock()
    fetcher = Fetcher(remote.fetch, clock=now)
    remote.open.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetcher.bring, patience_s=60)
        assert remote.began.wait(60)
        fetcher.refuse_if_stuck()
        now.seconds += 10
        with pytest.raises(SourceUnreachable, match="under way for 10 s"):
            fetcher.refuse_if_stuck()
        with pytest.raises(SourceUnreachable, match="under way for 10 s"):
            fetcher.bring(patience_s=60)
        remote.open.set()
        first.result()


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds
