"""`argus plan` on a pull request prints what the merge then does, up to its end: real git, a real ledger.

`test_preview` holds the same of single passes, over many more histories, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from argus.planning import Asked, offline
from reconciler.core.desired import Said, is_read, understood
from reconciler.core.effects import Effect
from reconciler.core.entities import EventType, Record, State
from reconciler.core.plandata import data
from reconciler.core.preview import foresee, merged
from reconciler.locating import locate
from reconciler.settings import Settings
from reconciler.shell.git import Git
from reconciler.shell.revisions import brought, history_at
from tests.loop.git_world import GitWorld
from tests.loop.test_preview import Write, writes
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, RULES, spec
from tests.repositories import git

USERS = ("alice", "bob", "carl")
GOOD_ONES = st.builds(
    lambda source, replicas, gpus, seed, strategy: spec("a", source, replicas, gpus, seed=seed, strategy=strategy),
    st.sampled_from([GOOD, GOOD, GOOD, OTHER]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([None, None, 1]),
    st.sampled_from([None, None, None, "surge", "recreate"]),
)
BROKEN_ONES = st.builds(lambda seed: spec("a", BROKEN, seed=seed), st.integers(1, 3))
TEXTS = st.one_of(GOOD_ONES, GOOD_ONES, GOOD_ONES, GOOD_ONES, BROKEN_ONES, st.none())
EDITS = [TEXTS.map(lambda text, user=user: Write(user, "a", text)) for user in USERS]  # type: ignore[misc]
"""Changes of models that are there, mostly good ones: `writes` alone seldom meets one that runs."""
CHANGES = st.lists(st.one_of(*EDITS, *EDITS, writes()), min_size=1, max_size=3, unique_by=lambda write: write.user)
HISTORY = st.lists(st.tuples(CHANGES, st.sampled_from([4, 8, 32])), min_size=3, max_size=6)
LONGER_THAN_ANY_RETRY_S = 61
MOST_PASSES = 8


@dataclass
class Film:
    """What was seen of each model, by path, while the loop went on: who answered at each moment."""

    answers: dict[str, list[frozenset[int]]] = field(default_factory=dict)

    def take(self, world: GitWorld, paths: Mapping[str, str]) -> None:
        for path, key in paths.items():
            self.answers.setdefault(path, []).append(world.runtime.pids(key))


def branch(world: GitWorld, change: list[Write]) -> str:
    """Make a pull request: a branch from main with the change."""
    git(world.repository.path, "update-ref", "refs/heads/topic", "refs/heads/main")
    world.repository.branch = "topic"
    files = {write.path: None if write.text is None else write.text.encode() for write in change}
    there = set(git(world.repository.path, "ls-tree", "-r", "--name-only", "topic").splitlines())
    files = {path: content for path, content in files.items() if content is not None or path in there}
    modes = {write.path: write.mode for write in change}
    sha = world.repository.commit(files, modes={path: mode for path, mode in modes.items() if mode != "160000"})
    world.repository.branch = "main"
    return sha


def merge(world: GitWorld) -> None:
    git(world.repository.path, "update-ref", "refs/heads/main", "refs/heads/topic")


def planned(world: GitWorld) -> dict[str, Any]:
    """Plan the pull request against what runs, with the parts of which `argus plan --server` is made."""
    known = world.known()
    reader = Git(world.repository.path, 30)
    base, head = (git(world.repository.path, "rev-parse", name) for name in ("main", "topic"))
    target = merged(history_at(reader, base).tree, brought(reader, base, head), world.now)
    content = reader.blobs({file.blob for file in target.files.values() if is_read(file)}, RULES.limits.max_bytes)
    parsed: dict[str, Said] = {key: understood(file, content, RULES.limits) for key, file in target.files.items()}
    found = foresee(
        tree=target,
        parsed=parsed,
        records=known.records,
        locate=lambda want, records: locate(world.folders, want, records, world.now, RULES.platform),
        cluster=world.runtime.observe().cluster,
        now=world.now,
        platform=RULES.platform,
        load_times=known.load_times,
    )
    return data(found, base=base, head=head, against="platform")


def promises(plan: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        tuple(each[name] for name in ("path", "effect", "downtime", "replicas", "gpus")) for each in plan["changes"]
    ]


def is_as_a_clone_sees_it(world: GitWorld, change: list[Write]) -> bool:
    """Say whether all of the base runs and all folders are there: without a server, a plan takes that for granted."""
    fine = all(
        (each.state, each.failure, each.rejection, each.waiting) == (State.RUNNING, None, None, None)
        for each in world.by_path().values()
    )
    return fine and not any(MISSING in (write.text or "") for write in change)


def settle(world: GitWorld) -> None:
    """Go on until nothing moves, and nothing that failed is about to be tried again."""
    world.settle()
    world.wait(LONGER_THAN_ANY_RETRY_S)
    world.settle()


def run_to_the_end(world: GitWorld) -> Film:
    film = Film()
    seen: tuple[object, object] | None = None
    for _ in range(MOST_PASSES):
        world.loop.reconcile_once()
        paths = {path: record.identity.model_key for path, record in world.by_path().items()}
        film.take(world, paths)
        world.runtime.step()
        film.take(world, paths)
        world.wait(1)
        now = ({key: each.state for key, each in world.by_path().items()}, world.runtime.observe())
        if now == seen:
            break
        seen = now
    return film


@dataclass(frozen=True)
class Came:
    """What came of the merge for one path."""

    before: Record | None
    after: Record | None
    types: list[EventType]
    had: frozenset[int]
    moments: list[frozenset[int]]
    """Who answered, moment by moment."""

    @property
    def starts(self) -> list[EventType]:
        return [each for each in self.types if each in {EventType.DEPLOY_STARTED, EventType.SCALE_STARTED}]

    @property
    def runs(self) -> bool:
        return self.after is not None and self.after.state is State.RUNNING and self.after.failure is None

    def kept(self, effect: Effect, promise: Mapping[str, Any]) -> bool:
        """Say whether a promise was kept, and nothing else done."""
        number = promise["replicas"]["after"] if promise else 0
        match effect:
            case Effect.REMOVE:
                gone = self.after is None or (self.before is not None and self.after.identity != self.before.identity)
                return gone and EventType.DELETED in self.types
            case Effect.CREATE | Effect.START:
                return self.starts[:1] == [EventType.DEPLOY_STARTED] and (not self.runs or len(self._last) == number)
            case Effect.SCALE:
                grew_or_shrank = self._last <= self.had or self._last >= self.had
                return self.starts[:1] == [EventType.SCALE_STARTED] and len(self._last) == number and grew_or_shrank
            case Effect.ROLL:
                fewest = min(len(moment) for moment in self.moments)
                stayed_up = fewest >= min(len(self.had), number)
                as_said = stayed_up if not promise["downtime"] else (not self.had or fewest < len(self.had))
                is_new = not (self._last & self.had) if self.runs else True
                return self.starts[:1] == [EventType.DEPLOY_STARTED] and as_said and is_new
            case _:
                # Whatever runs goes on. Who waited, or waits now, may get the room that others leave on the way.
                waited = effect is Effect.WAIT or (self.before is not None and self.before.waiting is not None)
                is_told = _TOLD.get(effect, EventType.DEPLOY_FAILED) in self.types or effect not in _TOLD
                is_quiet = effect is not Effect.NONE or not set(self.types) - {EventType.DEPLOY_FAILED}
                still = not self.starts and is_quiet and all(moment == self.had for moment in self.moments)
                return is_told and (waited or still)

    @property
    def _last(self) -> frozenset[int]:
        return self.moments[-1]


_TOLD = {
    Effect.REJECT: EventType.SPEC_REJECTED,
    Effect.FAIL: EventType.DEPLOY_FAILED,
    Effect.BLOCK: EventType.DEPLOY_FAILED,
    Effect.UPDATE: EventType.UPDATE_REQUESTED,
}


def check(world: GitWorld, plan: Mapping[str, Any]) -> None:
    """Merge, and hold against the plan all that comes of it."""
    before, told = world.by_path(), len(world.all_events())
    had = {path: world.runtime.pids(record.identity.model_key) for path, record in before.items()}
    merge(world)
    film = run_to_the_end(world)
    after = world.by_path()
    paths = {record.identity.model_key: path for path, record in (*before.items(), *after.items())}
    happened: dict[str, list[EventType]] = {}
    for each in world.all_events()[told:]:
        happened.setdefault(paths[each.model_key], []).append(each.event_type)
    promised = {each["path"]: each for each in plan["changes"]}
    for path in promised.keys() | before.keys() | after.keys():
        promise = promised.get(path, {})
        effect = Effect(promise.get("effect", Effect.NONE))
        event(f"effect {effect}")
        came = Came(
            before.get(path),
            after.get(path),
            happened.get(path, []),
            had.get(path, frozenset()),
            film.answers.get(path, [frozenset()]),
        )
        assert came.kept(effect, promise), (path, promise, came)


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(history=HISTORY)
def test_what_a_plan_promises_is_what_comes_of_the_merge_and_nothing_else(
    history: list[tuple[list[Write], int]],
) -> None:
    with TemporaryDirectory() as folder:
        world = GitWorld(Path(folder), total_gpus=8)
        for change, gpus in history:
            world.runtime.total_gpus = max(gpus, world.runtime.total_gpus - world.runtime._free())
            settle(world)
            branch(world, change)
            found = planned(world)
            if is_as_a_clone_sees_it(world, change):
                event("planned offline too")
                asked = Asked(world.repository.path, "main..topic", world.runtime.total_gpus)
                assert promises(offline(asked, Settings(home=world.folder))) == promises(found)
            check(world, found)
        world.close()
