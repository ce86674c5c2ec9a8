"""What a pass tells the outside: which statuses change, and what subscribers hear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.announcements import (
    KINDS,
    LONGEST_DESCRIPTION,
    MOST_PARTS,
    OUTLOOKS,
    STATUSES,
    VERDICT_GIVEN,
    Announcement,
    Audience,
    Outlook,
    StatusRules,
    Subscription,
    cut,
    notifications,
    statuses,
)
from reconciler.core.cases import Case, Stages, Verdict, worst
from reconciler.core.entities import PLATFORM, Event, EventType
from tests.core.values import NOW, commit, identity, later

RULES = StatusRules(target_url="https://argus.example.org/api/v2/serve/commits/{sha}")
SHA = "5" * 40


def case(verdict: Verdict | None = None, suffix: str = "qwen", user: str = "alice", **known: Any) -> Case:
    """Give a case of the commit `SHA`."""
    who = identity(user, suffix)
    return Case(commit(SHA), who.path, who.model_key, user, False, Stages(NOW, seen=NOW), verdict, **known)


def told(*after: Case, before: Sequence[Case] = (), rules: StatusRules = RULES) -> dict[str, tuple[str, str]]:
    """Give what is posted of the commit: state and description by context."""
    found = statuses(rules, {SHA: before} if before else {}, {SHA: after})
    return {each.body["context"]: (each.body["state"], each.body["description"]) for each in found}


def event(kind: EventType = EventType.DEPLOY_FAILED, user: str = "alice", **payload: Any) -> Event:
    key = identity(user).model_key if user else PLATFORM
    return Event(kind, key, user, NOW, SHA, "Alice", "git", payload)


class TestStatuses:
    """One status for each commit, and finer ones where they are asked for."""

    def test_a_commit_that_is_seen_is_pending_and_its_verdict_comes_once(self) -> None:
        begun, done = case(), case(Verdict.APPLIED)
        assert told(begun)["argus"][0] == "pending"
        advanced = replace(begun, stages=replace(begun.stages, planned=later(1), applied=later(2)))
        assert told(advanced, before=[begun]) == {}
        assert told(done, before=[advanced])["argus"][0] == "success"
        assert told(done, before=[done]) == {}

    def test_a_commit_whose_verdict_comes_with_the_first_pass_was_never_pending(self) -> None:
        assert told(case(Verdict.REJECTED, message="no", line=3)) == {
            "argus": ("failure", "REJECTED alice/qwen: line 3: no")
        }

    @pytest.mark.parametrize(
        ("verdict", "state"),
        [
            (Verdict.APPLIED, "success"),
            (Verdict.NO_CHANGE, "success"),
            (Verdict.REMOVED, "success"),
            (Verdict.SUPERSEDED, "success"),
            (Verdict.REJECTED, "failure"),
            (Verdict.HELD, "failure"),
            (Verdict.FAILED, "error"),
        ],
    )
    def test_every_verdict_is_posted(self, verdict: Verdict, state: str) -> None:
        assert set(OUTLOOKS) == set(Verdict)
        assert told(case(verdict), before=[case()])["argus"][0] == state

    def test_who_was_overtaken_reads_by_whom(self) -> None:
        overtaken = case(Verdict.SUPERSEDED, superseded_by="abcdef0123456789" + "0" * 24)
        assert told(overtaken) == {"argus": ("success", "SUPERSEDED alice/qwen: commit abcdef012345 took its place")}

    def test_a_commit_waits_for_its_last_file_and_is_what_its_worst_file_is(self) -> None:
        good, open_ = case(Verdict.APPLIED), case(None, "x")
        bad = case(Verdict.FAILED, "llama", message="out of memory")
        assert told(good, bad, open_, before=[case(), bad, open_]) == {}
        said = told(good, bad, case(Verdict.NO_CHANGE, "x"), before=[good, bad, open_])
        assert said == {"argus": ("error", "FAILED 1 of 3 files, alice/llama: out of memory")}

    def test_each_user_or_file_may_have_one_of_its_own(self) -> None:
        cases = [case(Verdict.APPLIED), case(Verdict.REJECTED, "llama", message="no"), case(None, user="bob")]
        states = {context: state for context, (state, _) in told(*cases, rules=replace(RULES, also_per="user")).items()}
        assert states == {"argus": "pending", "argus/alice": "failure", "argus/bob": "pending"}
        states = {context: state for context, (state, _) in told(*cases, rules=replace(RULES, also_per="file")).items()}
        assert states == {
            "argus": "pending",
            "argus/alice/qwen": "success",
            "argus/alice/llama": "failure",
            "argus/bob/qwen": "pending",
        }

    def test_a_commit_of_very_many_files_has_one_status(self) -> None:
        many = [case(Verdict.APPLIED, f"m{number}") for number in range(MOST_PARTS + 1)]
        assert set(told(*many, rules=replace(RULES, also_per="file"))) == {"argus"}

    def test_nothing_is_posted_where_nothing_is_configured(self) -> None:
        assert statuses(None, {}, {SHA: [case()]}) == ()

    def test_a_later_status_has_the_id_of_the_earlier_one_and_no_other_has(self) -> None:
        (pending,) = statuses(RULES, {}, {SHA: [case()]})
        (done,) = statuses(RULES, {SHA: [case()]}, {SHA: [case(Verdict.APPLIED)]})
        (other,) = statuses(RULES, {}, {"6" * 40: [case()]})
        assert pending.id == done.id != other.id
        assert pending.destination == STATUSES
        assert pending.body["target_url"] == f"https://argus.example.org/api/v2/serve/commits/{SHA}"

    @given(
        st.lists(st.tuples(st.sampled_from([None, *Verdict]), st.text(max_size=400)), min_size=1, max_size=5),
        st.sampled_from([None, "user", "file"]),
    )
    def test_any_commit_has_statuses_in_one_short_line(self, files: list[tuple[Verdict | None, str]], per: Any) -> None:
        cases = [case(verdict, f"m{number}", message=text) for number, (verdict, text) in enumerate(files)]
        found = statuses(replace(RULES, also_per=per), {}, {SHA: cases})
        whole = next(each for each in found if each.body["context"] == "argus")
        verdict = worst(each.verdict for each in cases)
        assert whole.body["state"] == (OUTLOOKS[verdict] if verdict else Outlook.PENDING)
        for each in found:
            assert each.body["description"].isprintable()
            assert 0 < len(each.body["description"]) <= LONGEST_DESCRIPTION
            json.dumps(each.body)


@given(st.text(), st.integers(1, 300))
def test_a_text_that_is_cut_is_never_longer_than_it_may_be(text: str, longest: int) -> None:
    found = cut(text, longest)
    assert len(found) <= longest
    assert found == text or found.endswith("…")


class TestNotifications:
    """CloudEvents for whoever asked for them."""

    def hear(
        self, *subscriptions: Subscription, events: Sequence[Event] = (), cases: Sequence[Case] = ()
    ) -> tuple[Announcement, ...]:
        return notifications(Audience(None, subscriptions, "https://argus.example.org"), events, cases, later(9))

    def test_an_event_and_a_verdict_in_the_form_of_cloudevents(self) -> None:
        failed, judged = self.hear(
            Subscription("chat"), events=[event(message="no room")], cases=[case(Verdict.APPLIED), case(None, "x")]
        )
        assert failed.destination == judged.destination == "hook:chat"
        assert {**failed.body, "id": ""} == {
            "specversion": "1.0",
            "id": "",
            "source": "https://argus.example.org",
            "type": "io.argus.deploy_failed",
            "subject": identity().model_key,
            "time": NOW.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {
                "event_type": "DEPLOY_FAILED",
                "model_key": identity().model_key,
                "user_id": "alice",
                "created_at": NOW.isoformat().replace("+00:00", "Z"),
                "commit": SHA,
                "author": "Alice",
                "source": "git",
                "payload": {"message": "no room"},
            },
        }
        assert (judged.body["type"], judged.body["data"]["verdict"]) == ("io.argus.verdict_given", "APPLIED")
        assert datetime.fromisoformat(judged.body["time"]) == later(9)

    def test_each_hears_of_the_kinds_and_users_that_it_asked_for(self) -> None:
        wanted = [
            Subscription("all"),
            Subscription("failures", kinds=frozenset({"DEPLOY_FAILED"})),
            Subscription("bobs", users=frozenset({"bob"})),
            Subscription("verdicts", frozenset({VERDICT_GIVEN}), frozenset({"alice"})),
        ]
        events = [event(), event(EventType.RECOVERED, "bob"), event(EventType.HISTORY_REWRITTEN, "")]
        heard: dict[str, list[str]] = {}
        for each in self.hear(*wanted, events=events, cases=[case(Verdict.HELD), case(Verdict.HELD, user="bob")]):
            heard.setdefault(each.destination, []).append(each.body["type"].removeprefix("io.argus."))
        assert heard == {
            "hook:all": ["deploy_failed", "recovered", "history_rewritten", "verdict_given", "verdict_given"],
            "hook:failures": ["deploy_failed"],
            "hook:bobs": ["recovered", "verdict_given"],
            "hook:verdicts": ["verdict_given"],
        }

    def test_what_is_about_the_platform_has_no_subject(self) -> None:
        (rewritten,) = self.hear(Subscription("all"), events=[event(EventType.HISTORY_REWRITTEN, "")])
        assert "subject" not in rewritten.body
        assert rewritten.body["data"]["model_key"] is None

    def test_one_event_has_one_id_whoever_hears_it_and_each_event_has_its_own(self) -> None:
        twice = [event(), event()]
        heard = self.hear(Subscription("a"), Subscription("b"), events=twice, cases=[case(Verdict.APPLIED)])
        assert len({each.body["id"] for each in heard}) == 3
        assert len({each.id for each in heard}) == 6
        assert heard == self.hear(Subscription("a"), Subscription("b"), events=twice, cases=[case(Verdict.APPLIED)])

    def test_every_kind_of_event_can_be_asked_for(self) -> None:
        assert {*(kind.value for kind in EventType), VERDICT_GIVEN} == KINDS
