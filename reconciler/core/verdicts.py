"""What became of each commit: a case for every spec file that it touched, closed by exactly one verdict.

A case is opened by the pass that first sees its commit and closed by that pass or a later one; what is closed is never
opened again. At most one case of a model is open at a time: the one whose change is being worked towards.

What a change *says* decides REJECTED and NO_CHANGE, whatever comes after it on the branch: they are compared with what
was accepted before. What *becomes* of it decides the others. Say that between two passes somebody pushes, on a model
that runs A: B, rubbish, C, C with another comment. The verdicts are SUPERSEDED (by C), REJECTED, open, NO_CHANGE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.core.cases import LONGEST_MESSAGE, Case, CaseId, Stages, Verdict
from reconciler.core.desired import Said, Wanted, Withheld
from reconciler.core.entities import ChangeKind, FileChange, Record, State
from reconciler.core.plan import Action, Hold, Keep, Refuse, Remove, Scale, Settle, Start
from reconciler.spec import SpecRejected


@dataclass(frozen=True, slots=True)
class Ask:
    """A change with what its file says now: None where it is gone."""

    change: FileChange
    says: Said | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass read of the repository: what changed since the last one (oldest first), and what is wanted now.

    `rewritten` says that the branch does not continue what was known (or that nothing was known): then `asks` compare
    two states, and a removal among them is no commit's.
    """

    asks: Sequence[Ask]
    wanted: Mapping[str, Wanted]
    revision: str | None
    rewritten: bool


@dataclass(slots=True)
class _Docket:
    """The cases of one pass: the open ones by model key, and those that were closed on the way."""

    open: dict[str, Case]
    closed: list[Case] = field(default_factory=list)

    def close(self, case: Case | None, verdict: Verdict, message: str | None = None, by: str | None = None) -> None:
        if case is not None:
            self.closed.append(replace(case, verdict=verdict, message=_cut(message), superseded_by=by))

    def supersede(self, model_key: str, by: str | None, message: str | None = None) -> None:
        self.close(self.open.pop(model_key, None), Verdict.SUPERSEDED, message, by)


def judged(
    cases: Iterable[Case],
    seen: Seen,
    *,
    on_record: Collection[CaseId],
    before: Mapping[str, Record],
    actions: Mapping[str, Action],
    records: Mapping[str, Record],
    now: datetime,
    applied_at: datetime,
) -> tuple[Case, ...]:
    """Give the cases that this pass opened, changed or closed, in the order of the branch.

    Args:
        cases: Those that were open before the pass.
        seen: What it read.
        on_record: Cases that exist already, whatever their state: a branch may come back to a commit that was judged.
        before: The ledger's records when the pass began.
        actions: What was decided for each model.
        records: The records after it was applied.
        now: When the pass began.
        applied_at: When Serve had taken what was asked of it.
    """
    known = {case.id: case for case in cases}
    docket = _Docket({case.model_key: case for case in known.values()})
    _open(docket, seen, {*on_record, *known}, before, now)
    for key, case in docket.open.items():
        record, want = records.get(key), seen.wanted.get(key)
        docket.open[key] = _held(case, want, record, now) or _advanced(case, actions.get(key), record, now, applied_at)
    after = {case.id: case for case in (*docket.closed, *docket.open.values())}
    order = [*known, *((ask.change.commit.sha, ask.change.identity.path) for ask in seen.asks)]
    return tuple(after[id_] for id_ in dict.fromkeys(order) if id_ in after and after[id_] != known.get(id_))


def _open(docket: _Docket, seen: Seen, exists: Collection[CaseId], before: Mapping[str, Record], now: datetime) -> None:
    """Open the cases of new changes, and close what the newer ones leave without a future."""
    # What asks for the same again as a change that is held, or takes it back, puts that aside: it is no NO_CHANGE.
    accepted: dict[str, Said | None] = {
        key: record.spec if record.held is None else None for key, record in before.items()
    }
    refused_after: dict[str, str] = {}  # model key -> the commit that brought rubbish on top of its open case
    for ask in seen.asks:
        case = _case(ask.change, now)
        key, sha, is_new = case.model_key, case.commit.sha, case.id not in exists
        current = docket.open.get(key)
        if ask.change.held is not None:
            if is_new:
                docket.close(case, Verdict.HELD, ask.change.held)
        elif ask.says is None:
            if not seen.rewritten:
                docket.supersede(key, sha)
                docket.open |= {key: case} if is_new else {}
        elif isinstance(ask.says, SpecRejected):
            refused_after.setdefault(key, sha)
            if is_new:
                _reject(docket, case, ask.says)
        elif ask.says == accepted.get(key) and (current is None or not current.removes):
            if is_new:
                docket.close(case, Verdict.NO_CHANGE, "it says what was said before")
        else:
            docket.supersede(key, sha)
            docket.open |= {key: case} if is_new else {}
            accepted[key] = ask.says
            refused_after.pop(key, None)
    _drop_what_nobody_wants(docket, seen, accepted, refused_after, before)


def _drop_what_nobody_wants(
    docket: _Docket,
    seen: Seen,
    accepted: Mapping[str, Said | None],
    refused_after: Mapping[str, str],
    before: Mapping[str, Record],
) -> None:
    for key, case in list(docket.open.items()):
        want = seen.wanted.get(key)
        held = before[key].held if key in before else None
        if case.removes:
            if want is not None and not want.is_gone:
                docket.supersede(key, (want.newer or want.file.commit).sha)
        elif want is None:
            paths = {other.file.identity.path: other.file.commit.sha for other in seen.wanted.values()}
            docket.supersede(key, paths.get(case.path, seen.revision), "the branch was rewritten without this commit")
        elif isinstance(want.spec, SpecRejected) and want.file.commit.sha == case.commit.sha:
            _reject(docket, docket.open.pop(key), want.spec)  # nobody could read it before, or the bounds are others
        elif want.effective != accepted.get(key) and key in refused_after:
            # Accepted, and overtaken by rubbish before any pass held at it: so none will ever work towards it.
            docket.supersede(key, refused_after[key])
        elif held is not None and held.commit.sha == case.commit.sha != (want.newer or want.file.commit).sha:
            docket.supersede(key, seen.revision, "the branch was rewritten without this commit")


def _case(change: FileChange, now: datetime) -> Case:
    return Case(
        commit=change.commit,
        path=change.identity.path,
        model_key=change.identity.model_key,
        user_id=change.identity.user_id,
        removes=change.kind is ChangeKind.DELETED,
        stages=Stages(committed=change.commit.committed_at, seen=now),
    )


def _reject(docket: _Docket, case: Case, why: SpecRejected) -> None:
    docket.close(replace(case, line=why.line, column=why.column), Verdict.REJECTED, why.message)


def _advanced(case: Case, action: Action | None, record: Record | None, now: datetime, applied_at: datetime) -> Case:
    """Bring an open case up to what was decided and observed."""
    case = replace(case, message=None, stages=replace(case.stages, planned=case.stages.planned or now))
    if case.removes:
        return _removed(case, action, record, now, applied_at)
    if record is None:
        return case
    match action:
        case Keep(workload) if record.state is State.RUNNING and record.serving == workload:
            applied = case.stages.applied or now
            return replace(case, verdict=Verdict.APPLIED, stages=replace(case.stages, applied=applied, ready=now))
        case Keep() | Start() | Scale():
            return replace(case, stages=replace(case.stages, applied=case.stages.applied or applied_at))
        case Settle() | Refuse() | Hold():
            return replace(case, verdict=Verdict.FAILED, message=_why_failed(record))
        case _:
            return case  # it waits: for room, or for whatever else a plan may know


def _held(case: Case, want: Wanted | None, record: Record | None, now: datetime) -> Case | None:
    """Say what keeps a case from counting for now, None where nothing does: it stays open."""
    if want is None or not isinstance(want.spec, Withheld):
        return None
    if record is not None and record.spec is not None and case.commit.sha == record.commit.sha:
        return None  # it is what was accepted
    stages = replace(case.stages, planned=case.stages.planned or now)
    return replace(case, message=_cut(want.spec.message), stages=stages)


def _removed(case: Case, action: Action | None, record: Record | None, now: datetime, applied_at: datetime) -> Case:
    if record is None or record.state is State.DELETED:
        applied = case.stages.applied or now
        return replace(case, verdict=Verdict.REMOVED, stages=replace(case.stages, applied=applied, ready=now))
    if isinstance(action, Remove):
        return replace(case, stages=replace(case.stages, applied=case.stages.applied or applied_at))
    return case


def _why_failed(record: Record) -> str | None:
    reason = record.failure.message if record.failure else record.error_summary
    serving = record.serving_commit if record.serving is not None else None
    rest = f"commit {serving.sha[:12]} still serves" if serving else "nothing serves"
    return _cut(f"{reason or 'the version did not start'}; {rest}")


def _cut(message: str | None) -> str | None:
    return message[:LONGEST_MESSAGE] if message is not None else None
