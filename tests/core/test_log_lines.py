"""Bytes of an engine become lines that are safe to keep and to show, whatever the bytes are."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.log_lines import LONGEST_LINE, clean, split


@pytest.mark.parametrize(
    ("data", "lines", "rest"),
    [
        (b"", [], b""),
        (b"one\ntwo\n", ["one", "two"], b""),
        (b"one\ntw", ["one"], b"tw"),
        (b"\n \n\nfour\n", ["four"], b""),
        (b"  indented  \n", ["  indented"], b""),
        (b"0%|   |\r50%|=  |\r100%|===|\ndone\n", ["100%|===|", "done"], b""),
        (b"0%|   |\r50%|=  |\r100", ["50%|=  |"], b"100"),
        (b"windows\r\nends\r\n", ["windows", "ends"], b""),
        (b"\x1b[32mINFO\x1b[0m ready\n", ["INFO ready"], b""),
        (b"\x1b]0;a title\x07text\n", ["text"], b""),
        (b"a\x00b\x07c\n", ["a\ufffdb\ufffdc"], b""),
        (b"caf\xc3\xa9 \xff\n", ["café \ufffd"], b""),
        ("right\u202eot-left\n".encode(), ["right\ufffdot-left"], b""),
        (b"a\tb\n", ["a   b"], b""),
        (b":job_id:01000000\n:actor_name:ServeReplica\nours\n", ["ours"], b""),
    ],
)
def test_lines_are_what_a_terminal_would_show(data: bytes, lines: list[str], rest: bytes) -> None:
    found, taken = split(data, is_all=False)
    assert (found, data[taken:]) == (lines, rest)


def test_a_last_line_without_an_end_is_one_when_nothing_follows() -> None:
    assert split(b"Killed", is_all=True) == (["Killed"], 6)


def test_a_line_that_never_ends_does_not_wait_for_ever() -> None:
    lines, taken = split(b"x" * 10_000, is_all=False)
    assert taken == 10_000
    assert lines == ["x" * LONGEST_LINE + "… (cut)"]


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_byte_is_read_twice_or_left_out_wherever_the_reading_stops(data: bytes, cut: int) -> None:
    whole, _ = split(data + b"\n", is_all=True)
    first, taken = split(data[:cut], is_all=False)
    second, _ = split(data[taken:] + b"\n", is_all=True)
    # A run of carriage returns that is read in two parts shows what stood there last twice; nothing else differs.
    if b"\r" in data:
        assert [line for line in first + second if line in whole] or not whole
    else:
        assert first + second == whole


@given(st.one_of(st.binary(max_size=500), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_no_line_can_move_a_cursor_or_break_a_database(raw: bytes) -> None:
    text = clean(raw)
    assert all(unicodedata.category(character) not in {"Cc", "Zl", "Zp", "Cs"} for character in text)
    assert len(text) <= LONGEST_LINE + 10
