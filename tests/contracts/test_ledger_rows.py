"""Values survive being rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.entities import (
    Commit,
    Deployment,
    Event,
    EventType,
    Failure,
    Health,
    Identity,
    Record,
    State,
    Waiting,
    Workload,
)
from reconciler.engine_args import EngineKwargs
from reconciler.ports import Advance, PlatformStatus
from reconciler.shell.ledger import LedgerReader, SqlLedger, rows
from reconciler.spec import Problem, ServingSpec, SpecRejected
from tests.contracts.ledgers import NOON, SHA, commit, happened, record, status

# Any text that Python's git and JSON readers may produce: control characters, NUL, and the lone surrogates with which
# bytes that are no UTF-8 are carried.
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\ud800\udcff\n'\"")).filter(
    # A high surrogate right before a low one is a character already, spelt in a way that nothing here produces.
    lambda drawn: "\ud800\udcff" not in drawn
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-3, minutes=-30))])
times = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=zones)  # noqa: DTZ001  hypothesis adds zones
shas = st.text("0123456789abcdef", min_size=40, max_size=40)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
counts = st.integers(0, 10_000)
numbers = st.integers() | st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, json_values, max_size=3)
commits = st.builds(Commit, shas, texts, times, st.sampled_from(["api", "git"]), texts)
identities = st.builds(Identity, names, names, names, names, names, times)
workloads = st.builds(Workload, names, names, names, times, texts, texts, counts, counts, objects)
specs = st.builds(
    ServingSpec,
    model_id=names,
    model_source=st.just("/private/hf/demo") | st.just("org/name@main"),
    num_replicas=st.integers(1, 64),
    gpus_per_replica=st.integers(1, 8),
    engine_kwargs=st.sampled_from(
        [
            {},
            {"max_model_len": 4096, "dtype": "float16", "gpu_memory_utilization": 0.9, "enforce_eager": True},
            {"limit_mm_per_prompt": {"image": 2}, "override_generation_config": {"temperature": 0.5}},
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}},
        ]
    ).map(EngineKwargs.model_validate),
)
optional_count = st.none() | counts
rejections = st.builds(
    SpecRejected,
    problem=st.sampled_from(Problem),
    message=texts,
    field=st.none() | texts,
    line=optional_count,
    column=optional_count,
)
phases = st.sampled_from(["scheduling", "loading", "warming_up"])
deployments = st.builds(
    Deployment,
    *(names, st.none() | texts, st.sampled_from(Health), counts, counts, counts, counts, texts, st.none() | phases),
)
records = st.builds(
    Record,
    identity=identities,
    blob=shas,
    commit=commits,
    state=st.sampled_from(State),
    updated_at=times,
    spec=st.none() | specs,
    rejection=st.none() | rejections,
    applied=st.none() | workloads,
    applied_commit=st.none() | commits,
    serving=st.none() | workloads,
    serving_commit=st.none() | commits,
    failure=st.none() | st.builds(Failure, texts, counts, times, texts, st.none() | shas),
    error_summary=st.none() | texts,
    deployment=st.none() | deployments,
    asked_at=st.none() | times,
    since=st.none() | times,
    load_estimate_s=st.none() | counts,
    waiting=st.none() | st.builds(Waiting, counts, counts, st.none() | counts),
)


class TestRows:
    """Values survive being rows."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn=records)
    def test_any_record_comes_back_equal(self, drawn: Record) -> None:
        row = rows.record_row(drawn)
        assert rows.record_of(row["record"]) == drawn
        assert row["record"].isascii()

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            Event,
            st.sampled_from(EventType),
            names,
            names,
            times,
            shas,
            texts,
            st.sampled_from(["api", "git"]),
            objects,
        )
    )
    def test_any_event_comes_back_equal(self, drawn: Event) -> None:
        assert rows.event_of(rows.event_row(drawn)["event"]) == drawn

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            Case,
            commits,
            texts,
            names,
            names,
            st.booleans(),
            st.builds(Stages, times, st.none() | times, st.none() | times, st.none() | times, st.none() | times),
            st.none() | st.sampled_from(Verdict),
            st.none() | texts,
            optional_count,
            optional_count,
            st.none() | shas,
        )
    )
    def test_any_case_comes_back_equal(self, drawn: Case) -> None:
        row = rows.case_row(drawn)
        assert rows.case_of(row["document"]) == drawn
        assert row["document"].isascii()

    @settings(max_examples=30, deadline=None)
    @given(
        drawn=st.builds(
            PlatformStatus,
            times,
            st.none() | shas,
            st.none() | texts,
            texts,
            st.floats(0, 1e6),
            st.floats(0, 1e6),
            st.none() | texts,
            st.none() | texts,
        )
    )
    def test_any_status_comes_back_equal(self, drawn: PlatformStatus) -> None:
        assert rows.status_of(rows.status_row(drawn)["status"]) == drawn

    def test_a_database_gives_back_what_a_stranger_wrote(self, engine: Engine) -> None:
        nasty = "nul \x00, not UTF-8 \udcff, a smile 😀, and '; DROP TABLE models; --"
        written = replace(record(), error_summary=nasty, commit=replace(commit(), author=nasty, subject=nasty))
        ledger = SqlLedger(engine)
        said = replace(happened(), author=nasty, payload={nasty: nasty})
        ledger.record(ledger.load().base, Advance(SHA, [written], [said], status=replace(status(), app_message=nasty)))
        reader = LedgerReader(engine)
        assert reader.model("svc-alice-a") == written
        assert reader.events("svc-alice-a", 1)[0][1] == said
        assert reader.status() == replace(status(), app_message=nasty)

    def test_a_field_that_came_later_gets_its_default_and_one_that_is_gone_is_dropped(self) -> None:
        old = rows.record_row(record())["record"].replace('"error_summary":null', '"once_there":1')
        assert rows.record_of(old) == record()

    def test_a_spec_that_newer_rules_refuse_is_still_read(self) -> None:
        old = rows.record_row(record())["record"].replace('"num_replicas":1', '"num_replicas":0')
        spec = rows.record_of(old).spec
        assert spec is not None
        assert spec.num_replicas == 0
        assert spec.engine_kwargs == EngineKwargs()

    def test_times_are_utc(self) -> None:
        tokyo = timezone(timedelta(hours=9))
        back = rows.record_of(rows.record_row(replace(record(), updated_at=NOON.astimezone(tokyo)))["record"])
        assert back.updated_at == NOON
        assert back.updated_at.utcoffset() == timedelta(0)

    def test_a_time_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="timezone"):
            rows.record_row(replace(record(), updated_at=NOON.replace(tzinfo=None)))
