"""Whatever happens to the branch, its server and the ledger: each commit has its verdict, and what runs is right.

Real git, a real ledger in a file, git notes; only Serve is in memory.
"""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from reconciler.core.cases import Verdict
from reconciler.core.entities import PLATFORM, EventType, State
from reconciler.names import spec_path
from reconciler.shell.access import Access
from reconciler.shell.ledger import LedgerReader
from reconciler.shell.source import GitSource
from tests.loop.git_world import GitWorld
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, spec
from tests.remotes import accept_pushes, https_remote
from tests.repositories import ENVIRONMENT, git
from webapi.store import Overtaken, SpecStore

USERS = ("alice", "bob", "carl")
LONGER_THAN_ANY_PAUSE_S = 1000
TOKEN = "t0ken"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitWorld]:
    made = GitWorld(tmp_path, total_gpus=64)
    yield made
    made.close()


def settle(world: GitWorld) -> None:
    world.git_source.hurry()
    for _ in range(2):
        world.settle(4)
        world.wait(LONGER_THAN_ANY_PAUSE_S)
    world.settle(4)


def be_patient(world: GitWorld, seconds: float) -> None:
    """Begin a process that waits so long for the server before it goes by what it knows."""
    world.patience_s = seconds
    world.restart()


def any_text(dice: random.Random, suffix: str) -> str | None:
    kind = dice.choice(["good", "good", "good", "broken", "missing", "rubbish", "again", "gone"])
    texts = {
        "good": spec(suffix, dice.choice([GOOD, OTHER]), dice.choice([1, 2]), seed=dice.choice([None, 1, 2])),
        "broken": spec(suffix, BROKEN),
        "missing": spec(suffix, MISSING),
        "rubbish": dice.choice(["", "a: [", "model_id: other\n", "model_id: &x a\n"]),
        "again": f"# {dice.random()}\n{spec(suffix)}",
    }
    return texts.get(kind)


def final(world: GitWorld, last: dict[str, str | None], good: dict[str, str]) -> None:
    """Say that each file's model is as its last text wants it, where that can be."""
    models = world.by_path()
    assert models.keys() == {path for path, text in last.items() if text is not None}
    for path, text in last.items():
        if text is not None and text == good.get(path):
            record = models[path]
            assert (record.state, record.error_summary) == (State.RUNNING, None)
            assert record.spec is not None
            assert len(world.runtime.pids(record.identity.model_key)) == record.spec.num_replicas
            assert f"model_source: {record.spec.model_source}" in text


def test_a_hundred_commits_pushed_in_bursts_while_passes_run_have_one_verdict_for_each_file(world: GitWorld) -> None:
    dice = random.Random(5)
    paths = [(user, suffix) for user in USERS for suffix in "ab"]
    last: dict[str, str | None] = {}
    good: dict[str, str] = {}

    def push() -> None:
        for _ in range(20):  # 5 bursts of 20 commits, of one to three files
            files = {}
            for user, suffix in dice.sample(paths, dice.choice([1, 1, 2, 3])):
                path, text = spec_path(user, suffix), any_text(dice, suffix)
                if text is None and last.get(path) is None:
                    text = spec(suffix)
                files[path] = last[path] = text
                if text is not None and ("/good" in text or "/other" in text):
                    good[path] = text
            world.push(files, author=dice.choice(USERS))

    for _ in range(5):
        burst = threading.Thread(target=push)
        burst.start()
        while burst.is_alive():
            world.step()
        burst.join()
    settle(world)
    changes, found = world.changes(), world.verdicts()
    assert len({sha for sha, _ in changes}) >= 95, "a commit that repeats a file changes nothing"
    assert found.keys() == set(changes)
    assert None not in found.values()
    assert set(found.values()) >= {Verdict.SUPERSEDED, Verdict.REJECTED, Verdict.NO_CHANGE, Verdict.APPLIED}
    final(world, last, good)
    log = git(world.repository.path, "log", "--notes=argus", "--format=%H %N%x00", "main")
    noted = {entry.split()[0] for entry in log.split("\0") if len(entry.split()) > 1}
    assert noted == {sha for sha, _ in changes}


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_deleted_at_any_point_is_rebuilt_with_names_states_and_verdicts(world: GitWorld, seed: int) -> None:
    dice = random.Random(seed)
    told: dict[tuple[str, str], Verdict] = {}
    last: dict[str, str | None] = {}
    good: dict[str, str] = {}
    for number in range(12):
        user, suffix = dice.choice(USERS), dice.choice("ab")
        path, text = spec_path(user, suffix), any_text(dice, suffix)
        if text is None and last.get(path) is None:
            text = spec(suffix)
        last[path] = text
        if text is not None and ("/good" in text or "/other" in text):
            good[path] = text
        world.write(user, suffix, text)
        for _ in range(dice.randrange(4)):
            world.step()
        if number % 3 == 2:
            models, answering = world.by_path(), answers(world)
            told |= {case: verdict for case, verdict in world.verdicts().items() if verdict is not None}
            applies = world.runtime.applies
            world.lose_the_ledger()
            world.loop.reconcile_once()
            after = world.by_path()
            for each, record in after.items():
                if each in models and models[each].state is not State.DELETING:
                    assert record.identity == models[each].identity
            assert {key: pids for key, pids in answers(world).items() if key in answering} == answering
            found = world.verdicts()
            assert {case: found.get(case) for case in told} == told
            assert world.runtime.applies <= applies + 1
    settle(world)
    final(world, last, good)
    assert None not in world.verdicts().values()


def answers(world: GitWorld) -> dict[str, frozenset[int]]:
    return {each.model_key: world.runtime.pids(each.model_key) for each in world.runtime.held()}


HOLDS = {
    "suspended": "suspend:\n  models: {alice/a: a benchmark}\n",
    "frozen": 'freeze:\n  - {cron: "0 0 * * *", duration: 24h, reason: the whole week}\n',
}
CHANGES = {
    "another model": spec("a", OTHER),
    "more replicas": spec("a", replicas=2),
    "rubbish": "a: [",
    "gone": None,
}


@pytest.mark.parametrize(
    ("hold", "rewrite"),
    [("suspended", False), ("frozen", False), ("suspended", True)],
    ids=["suspended", "frozen", "rewritten"],
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_held_when_the_ledger_is_lost_stays_held(
    world: GitWorld, hold: str, change: str, rewrite: bool
) -> None:
    sha = world.write("alice", "a", spec("a"))
    settle(world)
    before = world.by_path()[spec_path("alice", "a")]
    processes = answers(world)
    world.push({"argus.yaml": HOLDS[hold]})
    world.write("alice", "a", CHANGES[change])
    world.step()
    if rewrite:
        rebase(world)
    applies = world.runtime.applies
    for _ in range(2):
        world.lose_the_ledger()
        world.settle(2)
        record = world.by_path()[spec_path("alice", "a")]
        assert (record.identity, record.state, record.spec) == (before.identity, State.RUNNING, before.spec)
        assert (record.held is not None) == (change != "rubbish"), "what is refused is no gate's business"
        assert (record.serving_commit is not None and record.serving_commit.sha == sha) != rewrite
        assert answers(world) == processes
        assert world.runtime.applies == applies
    world.push({"argus.yaml": None})
    settle(world)
    after = answers(world)
    assert (after == processes) == (change == "rubbish")
    assert after.keys() == (set() if change == "gone" else processes.keys())


def rebase(world: GitWorld) -> None:
    """Write every commit anew, as a secret is taken out of a history: the same files, other SHAs."""
    shas = git(world.repository.path, "rev-list", "--reverse", "main").split()
    parent: list[str] = []
    for sha in shas:
        parent = ["-p", git(world.repository.path, "commit-tree", "-m", "anew", *parent, f"{sha}^{{tree}}")]
    git(world.repository.path, "update-ref", "refs/heads/main", parent[1])


@pytest.mark.parametrize("change", [None, spec("a", OTHER)], ids=["unchanged", "changed"])
def test_a_ledger_that_is_lost_with_the_history_leaves_running_models_their_names(
    world: GitWorld, change: str | None
) -> None:
    world.write("alice", "a", spec("a"))
    world.write("bob", "b", spec("b", replicas=2))
    settle(world)
    processes = answers(world)
    if change is not None:
        world.write("alice", "a", change)
    rebase(world)
    names = {file.identity.model_key for file in world.git_source.read(None).tree.files.values()}
    assert not names & processes.keys(), "the premise: by history alone everybody would be somebody else"
    world.lose_the_ledger()
    world.loop.reconcile_once()
    assert {record.identity.model_key for record in world.by_path().values()} == processes.keys()
    settle(world)
    after = answers(world)
    assert after.keys() == processes.keys()
    assert [key for key in after if after[key] != processes[key]] == [
        record.identity.model_key for path, record in world.by_path().items() if change and path.endswith("/a.yaml")
    ]
    assert set(world.verdicts().values()) == {Verdict.APPLIED}


def test_a_folder_that_is_gone_when_the_ledger_is_lost_stops_nobody(world: GitWorld) -> None:
    world.write("alice", "a", spec("a"))
    settle(world)
    processes = answers(world)
    world.folders.folders.discard(GOOD)
    world.lose_the_ledger()
    settle(world)
    assert answers(world) == processes
    assert world.by_path()[spec_path("alice", "a")].state is State.RUNNING


def test_an_update_that_fails_after_the_ledger_was_lost_goes_back_to_what_answered(world: GitWorld) -> None:
    world.write("alice", "a", spec("a"))
    settle(world)
    processes = answers(world)
    sha = world.write("alice", "a", spec("a", BROKEN))
    world.lose_the_ledger()
    settle(world)
    record = world.by_path()[spec_path("alice", "a")]
    assert answers(world) == processes
    assert (record.state, record.commit.sha) == (State.RUNNING, sha)
    assert record.error_summary


def test_a_forced_push_a_hanging_server_and_one_that_is_gone_for_a_minute_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "certificates").mkdir()
    with https_remote(tmp_path / "certificates", tmp_path, TOKEN) as remote:
        access = Access(token=TOKEN, ca_file=remote.ca_file)
        world = GitWorld(tmp_path, 64, url=f"{remote.url}/specs.git", access=access)
        accept_pushes(world.repository.path)
        still = world.write("carl", "still", spec("still"))
        settle(world)
        processes = answers(world)
        tree = git(world.repository.path, "rev-parse", "main^{tree}")
        forced = git(world.repository.path, "commit-tree", "-m", "squashed", tree)
        git(world.repository.path, "update-ref", "refs/heads/main", forced)
        settle(world)
        assert answers(world) == processes
        [(_, rewritten)] = LedgerReader(world.engine).recent_events(PLATFORM, 10)
        assert rewritten.event_type is EventType.HISTORY_REWRITTEN
        assert dict(rewritten.payload) == {"from": still, "to": forced}

        shas = []
        be_patient(world, 0.3)
        remote.silent.set()
        shas.append(world.write("alice", "a", spec("a")))
        world.step()
        status = LedgerReader(world.engine).status()
        assert status is not None
        assert "does not answer" in str(status.error)
        remote.silent.clear()
        be_patient(world, 20)
        away = world.repository.path.rename(tmp_path / "away")
        for _ in range(4):
            world.step()
            world.wait(15)
        status = LedgerReader(world.engine).status()
        assert status is not None
        assert status.error is not None
        assert answers(world) == processes
        away.rename(world.repository.path)
        shas.append(world.write("bob", "b", spec("b")))
        settle(world)
        assert LedgerReader(world.engine).status().error is None  # type: ignore[union-attr]  # there is one, see above
        found = world.verdicts()
        assert [found[sha, path] for sha, path in zip(shas, map(spec_path, ("alice", "bob"), "ab"), strict=True)] == [
            Verdict.APPLIED,
            Verdict.APPLIED,
        ]
        assert answers(world).items() >= processes.items()
        assert len(answers(world)) == 3
        world.close()


def test_a_race_of_the_api_with_direct_pushes_on_the_same_files_loses_no_write_that_was_acknowledged(
    tmp_path: Path, world: GitWorld
) -> None:
    """Four writers of the API and four people with clones, each on a file of their own and a shared one.

    Every write that was answered is on the branch; where its text is not there any more, a later commit that had it
    among its ancestors took its place.
    """
    url = world.repository.path.as_uri()
    settle(world)

    def over_the_api(number: int) -> list[str]:
        store = SpecStore(GitSource(url, home=tmp_path / f"api{number}", timeout_s=60))
        shas = []
        for turn in range(2):
            path = spec_path("alice", ["shared", f"w{number}"][turn % 2])
            content = spec(path.rpartition("/")[2][:-5], seed=10 * number + turn).encode()
            try:
                done = store.write(path, lambda _before, content=content: content, author="alice", subject="Change it")  # type: ignore[misc]
            except Overtaken:
                continue  # it was told: nothing was acknowledged
            assert done.commit is not None
            shas.append(done.commit)
        return shas

    def by_pushes(number: int) -> list[str]:
        clone = tmp_path / f"clone{number}"
        git(tmp_path, "clone", "--quiet", url, str(clone))
        shas = []
        for turn in range(2):
            suffix = ["shared", f"w{number}"][turn % 2]
            file = clone / spec_path("alice", suffix)
            while True:
                git(clone, "fetch", "--quiet")
                git(clone, "reset", "--quiet", "--hard", "origin/main")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(spec(suffix, seed=10 * number + turn))
                git(clone, "add", "--all")
                git(clone, "commit", "--quiet", "--allow-empty", "--message", "change")
                pushed = subprocess.run(
                    ["git", "push", "--quiet", "origin", "HEAD:main"],
                    cwd=clone,
                    capture_output=True,
                    check=False,
                    env=ENVIRONMENT,
                )
                if pushed.returncode == 0:
                    break
            shas.append(git(clone, "rev-parse", "HEAD"))
        return shas

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(over_the_api if number % 2 else by_pushes, number) for number in range(8)]
        while wait(writers, timeout=0.2).not_done:
            world.step()
        acknowledged = [sha for writer in writers for sha in writer.result()]
    settle(world)
    on_branch = world.repository.log("%H")
    assert len(set(acknowledged)) == len(acknowledged) >= 12
    assert set(acknowledged) <= set(on_branch)
    assert all(len(line.split()) <= 2 for line in world.repository.log("%H %P")), "one line, no merges"
    assert {world.verdicts()[change] for change in world.changes()} <= {
        Verdict.APPLIED,
        Verdict.SUPERSEDED,
        Verdict.NO_CHANGE,
    }
    assert {record.state for record in world.by_path().values()} == {State.RUNNING}
    assert len(world.by_path()) == 9
    world.repository.check()
