"""The API in front of a remote spec repository: races, outages and rewritten history."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.entities import PLATFORM, Event, EventType, Record, State
from reconciler.core.rewrites import carried_over
from reconciler.ports import Advance
from reconciler.shell.access import Access
from reconciler.shell.source import GitSource
from tests.remotes import accept_pushes, https_remote
from tests.repositories import Repository, git
from tests.webapi.client import MODELS, SPEC, Api
from webapi.app import assemble
from webapi.store import SpecStore

ROOT = Path(__file__).parents[2]
FILE = "users/alice/hello.yaml"
TOKEN = "t0ken"
NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)


def over(api: Api, source: GitSource) -> Api:
    """Put the same API in front of another repository."""
    parts = replace(api.parts, store=SpecStore(source, api.parts.reader))
    return Api(assemble(parts), parts, api.folder, api.tokens)


@contextmanager
def by_file(repository: Repository) -> Iterator[tuple[str, Access]]:
    yield repository.path.as_uri(), Access()


@contextmanager
def by_https(repository: Repository) -> Iterator[tuple[str, Access]]:
    accept_pushes(repository.path)
    folder = repository.path.parent.parent / "certificates"
    folder.mkdir()
    with https_remote(folder, repository.path.parent, TOKEN) as remote:
        yield f"{remote.url}/{repository.path.name}", Access(token=TOKEN, ca_file=remote.ca_file)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "far").mkdir()
    made = Repository(tmp_path / "far" / "specs.git")
    made.commit({"README.md": b"x"})
    return made


@pytest.fixture
def away(api: Api, repository: Repository) -> Api:
    """Give an API over a remote that lies in `far/`."""
    return over(api, GitSource(repository.path.as_uri(), home=api.folder / "home", patience_s=1))


WRITER = """
import os, sys
from pathlib import Path
from reconciler.shell.access import Access
from reconciler.shell.source import GitSource
from webapi.store import SpecStore
url, home, name, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ca = os.environ.get("TEST_CA_FILE")
access = Access(token=os.environ.get("ARGUS_SPEC_REPO_TOKEN"), ca_file=Path(ca) if ca else None)
store = SpecStore(GitSource(url, home=home, timeout_s=100, access=access))
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    path, content = f"users/{name}/m{number}.yaml", f"x: {name}\\n".encode()
    print(store.write(path, lambda before: content, author=name, subject=f"Create m{number}").commit, flush=True)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("remote", [by_file, by_https], ids=["file", "https"])
def test_a_push_race_of_eight_writers_loses_nothing(
    tmp_path: Path,
    repository: Repository,
    remote: Callable[[Repository], AbstractContextManager[tuple[str, Access]]],
) -> None:
    before = repository.log("%H")
    with remote(repository) as (url, access):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if access.token:
            environment |= {"ARGUS_SPEC_REPO_TOKEN": access.token, "TEST_CA_FILE": str(access.ca_file)}
        writers = [
            subprocess.Popen(
                # Two share a mirror, as the processes of one API do.
                [sys.executable, "-c", WRITER, url, str(tmp_path / f"home{number // 2}"), f"u{number}", "3"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(8)
        ]
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        reported = [sha for writer in writers for sha in writer.communicate(timeout=250)[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 8
    log = [line.split() for line in repository.log("%H %P")]
    assert len(set(reported)) == 24
    assert {line[0] for line in log} == set(before) | set(reported)
    assert all(len(line) <= 2 for line in log), "no merges: every commit has at most one parent"
    assert {len(repository.changed_paths(sha)) for sha in reported} == {1}
    assert all(
        repository.show(f"users/u{writer}/m{number}.yaml") == f"x: u{writer}\n".encode()
        for writer in range(8)
        for number in range(3)
    )
    repository.check()


def test_a_conflict_on_the_same_file_is_409_with_both_commits(away: Api, repository: Repository) -> None:
    key = away.created()
    base = repository.head()
    hook = repository.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    # Whoever pushes first meets somebody who was faster still, with a change of the same file.
    text = f"{SPEC}num_replicas: 3\\n".replace("$", "\\$").replace("\n", "\\n")
    hook.write_text(
        "#!/bin/sh\nrm $0\nunset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES\n"
        f'blob=$(printf "{text}" | git hash-object -w --stdin)\nexport GIT_INDEX_FILE=other\ngit read-tree main\n'
        f"git update-index --cacheinfo 100644,$blob,{FILE}\n"
        "commit=$(git -c user.name=eve -c user.email=e@x commit-tree -p main -m eve $(git write-tree))\n"
        "git update-ref refs/heads/main $commit\n"
    )
    hook.chmod(0o755)
    answer = away.patch(key, {"num_replicas": 2})
    assert answer.status_code == 409, answer.json
    assert answer.json["error"]["details"] == {"base": base, "current": repository.head()}
    assert repository.head() != base
    assert away.patch(key, {"num_replicas": 2}).status_code == 200


def test_while_the_remote_is_gone_reads_go_on_writes_are_told_when_to_come_back_and_nothing_is_lost(
    away: Api, repository: Repository
) -> None:
    key = away.created()
    away.get(f"{MODELS}/{key}")
    gone = repository.path.rename(repository.path.with_name("gone"))
    for method, path, body in (
        ("POST", f"{MODELS}?", {"model_id": "b", "model_source": "$HOME/common/hf/demo"}),
        ("PATCH", f"{MODELS}/{key}", {"num_replicas": 2}),
        ("DELETE", f"{MODELS}/{key}", None),
    ):
        answer = away.call(method, path, json=body)
        assert answer.status_code == 503
        assert answer.json["error"]["code"] == "source_unreachable"
        assert int(answer.headers["Retry-After"]) > 0
    assert [item["model_key"] for item in away.get(MODELS)["items"]] == [key]
    assert away.get(f"{MODELS}/{key}")["model"]["num_replicas"] == 1
    assert len(away.get(f"{MODELS}/{key}/history")["items"]) == 1
    revision = away.get("/api/v2/serve/status", "admin")["revision"]
    assert revision["error"].startswith("git fetch failed")
    assert revision["fetched_at"] is not None

    gone.rename(repository.path)
    away.parts.store._source.copy.fetch(longest_pause_s=0)
    assert away.patch(key, {"num_replicas": 2}).status_code == 200
    assert away.get("/api/v2/serve/status", "admin")["revision"]["error"] is None
    assert repository.log("%s") == ["Scale hello to 2 replicas", "Create hello", "change"]


def force(api: Api, repository: Path, subject: str) -> None:
    """Write the whole branch anew as one commit of the same files."""
    tree = git(repository, "rev-parse", "main^{tree}")
    git(repository, "update-ref", "refs/heads/main", git(repository, "commit-tree", "-m", subject, tree))


def test_between_a_forced_push_and_the_next_pass_models_are_who_they_were(api: Api) -> None:
    key, other = api.created(), api.created(SPEC.replace("hello", "other"))
    files = api.parts.store.read().files
    api.record(*(Record(file.identity, file.blob, file.commit, State.RUNNING, NOW) for file in files.values()))
    force(api, api.folder / "specs.git", "all of it")
    fresh = over(api, GitSource.from_settings(api.parts.settings))
    for each in (api, fresh):
        assert {item["model_key"] for item in each.get(MODELS)["items"]} == {key, other}
    answer = fresh.patch(key, {"num_replicas": 2})
    assert (answer.status_code, answer.json["model_key"]) == (200, key)
    assert api.get(f"{MODELS}/{key}")["model"]["num_replicas"] == 2
    assert api.created(SPEC.replace("hello", "third")) not in {key, other}
    assert len(api.get(f"{MODELS}/{key}/history")["items"]) == 2


def test_after_the_pass_every_process_reads_identities_from_the_ledger(api: Api) -> None:
    key = api.created()
    files = api.parts.store.read().files
    records = {each: Record(file.identity, file.blob, file.commit, State.RUNNING, NOW) for each, file in files.items()}
    api.record(*records.values())
    force(api, api.folder / "specs.git", "all of it")
    tree = GitSource.from_settings(api.parts.settings).read(None).tree
    carried = carried_over(None, records, tree, None)
    assert carried is not None
    tips = {"from": "a", "to": "b"}
    event = Event(EventType.HISTORY_REWRITTEN, PLATFORM, "", NOW, str(tree.revision), "", "git", tips)
    base = api.parts.ledger.load().base
    api.parts.ledger.record(base, Advance(revision=tree.revision, events=(event,), carried=carried))
    for each in (api, over(api, GitSource.from_settings(api.parts.settings))):
        assert [item["model_key"] for item in each.get(MODELS)["items"]] == [key]
        assert each.patch(key, {"num_replicas": 1}).status_code == 200
    [shown] = api.get("/api/v2/serve/status", "admin")["events"]
    assert (shown["event_type"], shown["payload"]) == ("HISTORY_REWRITTEN", tips)


def test_a_mirror_that_is_behind_the_ledger_names_nobody_anew_once_it_has_caught_up(
    away: Api, repository: Repository
) -> None:
    """The loop, on another machine, has seen a model go and come back; this API cannot reach the remote meanwhile."""
    old = away.created()
    fetched = GitSource(repository.path.as_uri(), home=away.folder / "elsewhere", patience_s=60)
    repository.commit({FILE: None})
    repository.commit({FILE: f"{SPEC}num_replicas: 2\n".encode()})
    [file] = fetched.read(None).tree.files.values()
    new = file.identity.model_key
    gone = repository.path.rename(repository.path.with_name("gone"))
    record = Record(file.identity, file.blob, file.commit, State.RUNNING, NOW)
    base = away.parts.ledger.load().base
    away.parts.ledger.record(base, Advance(revision=file.commit.sha, records=(record,)))
    away.get(MODELS)
    gone.rename(repository.path)
    away.parts.store._source.copy.fetch(longest_pause_s=0)
    for _ in range(2):
        shown = away.get(MODELS)["items"]
    assert [item["model_key"] for item in shown] == [new] != [old]
    assert away.patch(new, {"num_replicas": 3}).status_code == 200
