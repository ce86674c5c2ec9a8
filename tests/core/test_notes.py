"""The text of notes: what people read first, and what Argus itself reads back, whatever a stranger has written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import notes
from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.entities import ChangeKind, FileChange
from tests.core.values import NOW, commit, identity, later

SHA = "a" * 40
CHANGE = FileChange(ChangeKind.MODIFIED, identity(), commit(SHA), None, None)
OTHER = FileChange(ChangeKind.DELETED, identity("bob"), commit(SHA), None, None)


def case(verdict: Verdict | None = Verdict.APPLIED, of: FileChange = CHANGE, **known: object) -> Case:
    stages = Stages(NOW, later(1), later(2), later(3), later(4))
    made = Case(
        of.commit, of.identity.path, of.identity.model_key, of.identity.user_id, of.kind is ChangeKind.DELETED, stages
    )
    return replace(made, verdict=verdict, **known)  # type: ignore[arg-type]  # fields by their names


def test_people_read_the_worst_first_in_a_line_a_file() -> None:
    gone = case(Verdict.REMOVED, OTHER)
    first, second, empty, *_ = notes.text(
        [gone, case(Verdict.REJECTED, message="no\n\x1b[31mcount", line=3)]
    ).splitlines()
    assert first == "REJECTED users/alice/qwen.yaml -> svc-alice-20260106-123000-qwen: line 3: no [31mcount"
    assert second == "REMOVED users/bob/qwen.yaml -> svc-bob-20260106-123000-qwen: gone since 2026-01-06T12:30:04Z"
    assert empty == ""


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (case(), "serves since 2026-01-06T12:30:04Z"),
        (case(Verdict.SUPERSEDED, superseded_by="b" * 40), "by bbbbbbbbbbbb"),
        (case(Verdict.FAILED, message="no weights; nothing serves"), "no weights; nothing serves"),
        (case(Verdict.NO_CHANGE, message="it says what was said before"), "it says what was said before"),
    ],
)
def test_the_line_says_what_the_verdict_alone_does_not(known: Case, said: str) -> None:
    assert notes.text([known]).splitlines()[0].endswith(f": {said}")


def test_what_is_open_is_in_no_note() -> None:
    assert notes.text([case(), case(None, OTHER)]) == notes.text([case()])


@settings(deadline=None)
@given(
    st.sampled_from(Verdict),
    st.none() | st.text(st.characters(exclude_categories=[]), max_size=50),
    st.none() | st.integers(1, 10**6),
    st.none() | st.just("b" * 40),
)
def test_whatever_was_judged_comes_back_equal(
    verdict: Verdict, message: str | None, line: int | None, by: str | None
) -> None:
    known = [case(verdict, message=message, line=line, column=line, superseded_by=by), case(Verdict.REMOVED, OTHER)]
    text = notes.text(known)
    assert text.encode()
    assert list(notes.restored({SHA: text}, [CHANGE, OTHER])) == known


LINE = json.loads(notes.text([case()]).splitlines()[-1])


@pytest.mark.parametrize(
    "changed",
    [
        {"argus": 2},
        {"path": "users/bob/qwen.yaml"},
        {"path": ["x"]},
        {"verdict": "PRAISED"},
        {"verdict": ["APPLIED"]},
        {"verdict": None},
    ],
)
def test_a_line_that_fits_no_change_of_the_commit_counts_for_nothing(changed: dict[str, object]) -> None:
    assert notes.restored({SHA: json.dumps({**LINE, **changed})}, [CHANGE]) == ()


def test_whose_file_it_is_says_history_and_not_a_note() -> None:
    line = {**LINE, "model_key": "svc-alice-20250101-000000-0000"}
    assert notes.restored({SHA: json.dumps(line)}, [CHANGE]) == (case(),)


def test_a_note_on_a_commit_that_is_not_on_the_branch_counts_for_nothing() -> None:
    assert notes.restored({"b" * 40: notes.text([case()])}, [CHANGE]) == ()


def test_what_a_note_says_wrongly_beside_its_verdict_is_left_out() -> None:
    odd = {"message": 5, "line": -1, "column": True, "superseded_by": "main", "stages": {"seen": "soon", "x": "y"}}
    [found] = notes.restored({SHA: json.dumps({**LINE, **odd})}, [CHANGE])
    assert found == replace(case(), stages=Stages(NOW))
    [found] = notes.restored({SHA: json.dumps({**LINE, "stages": 7})}, [CHANGE])
    assert found.stages == Stages(NOW)


def test_who_and_when_come_from_git_and_not_from_the_note() -> None:
    forged = {**LINE, "commit": {"author": "eve"}, "stages": {"committed": "1999-01-01T00:00:00Z"}}
    [found] = notes.restored({SHA: json.dumps(forged)}, [CHANGE])
    assert (found.commit, found.stages.committed) == (CHANGE.commit, CHANGE.commit.committed_at)


@settings(deadline=None)
@given(st.text() | st.text().map('{"argus": 1, "path": "users/alice/qwen.yaml", '.__add__))
def test_no_text_is_an_error(text: str) -> None:
    assert notes.restored({SHA: text}, [CHANGE]) == ()


def test_no_depth_is_an_error() -> None:
    assert notes.restored({SHA: '{"argus":' + "[" * 100_000}, [CHANGE]) == ()
