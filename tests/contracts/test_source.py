"""What every source promises: one suite over the one in memory, a local repository and a mirrored one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.core.entities import ChangeKind, Damaged, FileChange, SpecFile, Tree, WrittenBy
from reconciler.core.identity import Carried
from reconciler.errors import SourceUnreachable
from reconciler.ports import Source
from reconciler.shell.source import GitSource
from reconciler.shell.spec_copy import MIRROR_FOLDER
from reconciler.testing import MemorySource
from tests.repositories import EPOCH, Repository, loose

ANN = "users/ann/a.yaml"
BOB = "users/bob/b.yaml"


class Writer(Protocol):
    """Whoever commits to the branch, in memory or in git."""

    def commit(
        self,
        files: Mapping[str, bytes | None],
        *,
        author: str = ...,
        source: WrittenBy = ...,
        modes: Mapping[str, str] = ...,
        trailers: Mapping[str, str] = ...,
    ) -> str: ...

    def rewind(self, commits: int) -> None: ...


@dataclass
class Setting:
    """A branch with its writer, and how a source on it is made, broken and mended.

    `damage` ruins a blob in every copy that there is, and gives what mends it.
    """

    writer: Writer
    open: Callable[[], Source]
    break_it: Callable[[], None]
    mend_it: Callable[[], None]
    damage: Callable[[str], Callable[[], None]]


def in_memory(_folder: Path) -> Setting:
    source = MemorySource()

    def set_down(down: bool) -> None:
        source.down = down

    def damage(blob: str) -> Callable[[], None]:
        source.damaged.add(blob)
        return partial(source.damaged.remove, blob)

    return Setting(source, lambda: source, lambda: set_down(True), lambda: set_down(False), damage)


def local(folder: Path) -> Setting:
    repository = Repository(folder / "specs.git")
    return Setting(
        repository,
        lambda: GitSource(str(repository.path), home=folder),
        *_moved_away(repository.path),
        partial(_cut, [repository.path]),
    )


def mirrored(folder: Path) -> Setting:
    (folder / "far").mkdir()
    repository = Repository(folder / "far" / "specs.git")
    url = repository.path.as_uri()
    return Setting(
        repository,
        lambda: GitSource(url, home=folder / "home", patience_s=60),
        *_moved_away(repository.path),
        partial(_cut, [repository.path, folder / "home" / MIRROR_FOLDER]),
    )


def _cut(folders: list[Path], blob: str) -> Callable[[], None]:
    whole = {path: path.read_bytes() for path in (loose(folder, blob) for folder in folders)}
    for path, content in whole.items():
        path.write_bytes(content[:10])

    def mend() -> None:
        for path, content in whole.items():
            path.write_bytes(content)

    return mend


def _moved_away(path: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    aside = path.with_name("aside")
    return partial(os.rename, path, aside), partial(os.rename, aside, path)


@pytest.fixture(params=[in_memory, local, mirrored])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    made: Setting = request.param(tmp_path)
    return made


def changes(source: Source, since: str) -> tuple[FileChange, ...]:
    found = source.read(since).changes
    assert found is not None
    return found


def at(tree: Tree, path: str) -> SpecFile:
    [file] = [file for file in tree.files.values() if file.identity.path == path]
    return file


def test_a_branch_unborn_is_an_empty_tree(setting: Setting) -> None:
    reading = setting.open().read(None)
    assert reading.tree == Tree(revision=None, files={}, users=frozenset())
    assert reading.changes is None
    assert setting.open().read("0" * 40).changes is None


def test_a_commit_has_its_authors_e_mail(setting: Setting) -> None:
    setting.writer.commit({ANN: b"1"}, author="ann")
    tree = setting.open().read(None).tree
    assert at(tree, ANN).commit.email == "ann@example.org"
    assert tree.tip == at(tree, ANN).commit


def test_trailers_are_given_from_the_earliest_commit_that_is_asked_about_on(setting: Setting) -> None:
    said = {"Argus-Allow-Removal": "3"}
    early = setting.writer.commit({ANN: b"1"}, trailers=said)
    middle = setting.writer.commit({ANN: None})
    late = setting.writer.commit({}, trailers={"Argus-Override-Freeze": "an outage"})
    tip = setting.writer.commit({BOB: b"1"})
    source = setting.open()
    source.read(None)

    def declared(*commits: str) -> list[tuple[str, dict[str, str]]]:
        return [(each.commit.sha, dict(each.trailers)) for each in source.declared(commits)]

    assert declared(early) == [(early, said), (late, {"Argus-Override-Freeze": "an outage"})]
    assert declared(tip, middle) == declared(late) == declared(middle)[-1:] != []
    assert declared(tip) == declared() == declared("0" * 40) == []
    last = setting.writer.commit({}, trailers=said)
    source.read(None)
    assert declared("0" * 40) == [(last, said)]


def test_a_removal_is_known_by_its_commit_and_the_order_of_commits_by_the_branch(setting: Setting) -> None:
    first = setting.writer.commit({ANN: b"1", BOB: b"1"})
    key = at(setting.open().read(None).tree, ANN).identity.model_key
    second = setting.writer.commit({ANN: None})
    source = setting.open()
    source.read(None)
    found = source.removals([key, "svc-nobody"])
    assert {key: commit.sha for key, commit in found.items()} == {key: second}
    assert source.precedes(first, second)
    assert source.precedes(second, second)
    assert not source.precedes(second, first)
    assert not source.precedes("0" * 40, first)


def test_the_versions_of_the_rules_come_with_the_tree_newest_first(setting: Setting) -> None:
    setting.writer.commit({ANN: b"1"})
    one = setting.writer.commit({"argus.yaml": b"suspend: {}\n"})
    setting.writer.commit({"users/argus.yaml": b"no rules\n"})
    two = setting.writer.commit({"argus.yaml": None})
    source = setting.open()
    rules = source.read(None).tree.rules
    assert [(each.commit.sha, each.entry is not None) for each in rules] == [(two, False), (one, True)]
    entry = rules[1].entry
    assert entry is not None
    assert source.blobs([entry.blob], 100)[entry.blob] == b"suspend: {}\n"


def test_a_file_that_comes_is_a_model_by_its_commit(setting: Setting) -> None:
    source = setting.open()
    first = setting.writer.commit({"README.md": b"hello"})
    second = setting.writer.commit({ANN: b"model_id: a\n"}, author="Ann")
    [change] = changes(source, first)
    assert change.kind is ChangeKind.CREATED
    assert change.before is None
    assert change.commit.sha == second
    assert change.commit.author == "Ann"
    assert change.commit.committed_at == EPOCH + timedelta(seconds=1)
    assert change.identity.model_id == "ann-202601010000-a"
    assert source.read(None).tree.files == {change.identity.model_key: change.after}
    assert source.read(None).tree.revision == second


def test_a_file_that_changes_keeps_its_identity(setting: Setting) -> None:
    source = setting.open()
    first = setting.writer.commit({ANN: b"one"})
    second = setting.writer.commit({ANN: b"two"})
    [change] = changes(source, first)
    assert change.kind is ChangeKind.MODIFIED
    assert change.before
    assert change.after
    assert change.before.identity == change.after.identity == change.identity
    assert (change.before.commit.sha, change.after.commit.sha) == (first, second)
    assert change.before.blob != change.after.blob


@pytest.mark.parametrize("mode", ["100755", "120000"])
def test_a_file_that_becomes_another_kind_of_file_is_the_same_model_modified(setting: Setting, mode: str) -> None:
    source = setting.open()
    first = setting.writer.commit({ANN: b"elsewhere"})
    setting.writer.commit({ANN: b"elsewhere"}, modes={ANN: mode})
    [change] = changes(source, first)
    assert change.kind is ChangeKind.MODIFIED
    assert at(source.read(None).tree, ANN).mode == mode


def test_a_file_that_goes_ends_its_model_and_one_that_comes_back_is_another(setting: Setting) -> None:
    source = setting.open()
    first = setting.writer.commit({ANN: b"one", "README.md": b"x"})
    old = at(source.read(None).tree, ANN)
    setting.writer.commit({ANN: None})
    assert source.read(None).tree.files == {}
    setting.writer.commit({ANN: b"one"})
    gone, back = changes(source, first)
    assert (gone.kind, gone.before, gone.after) == (ChangeKind.DELETED, old, None)
    assert back.kind is ChangeKind.CREATED
    assert back.identity.model_key != old.identity.model_key


def test_a_rename_is_a_removal_and_a_new_model(setting: Setting) -> None:
    source = setting.open()
    first = setting.writer.commit({ANN: b"the same text"})
    setting.writer.commit({ANN: None, "users/ann/z.yaml": b"the same text"})
    assert [(change.kind, change.identity.suffix) for change in changes(source, first)] == [
        (ChangeKind.DELETED, "a"),
        (ChangeKind.CREATED, "z"),
    ]


def test_every_file_at_a_specs_path_is_a_model_whatever_it_says(setting: Setting) -> None:
    setting.writer.commit({ANN: b"{{{ not yaml \x00\xff", BOB: b""})
    assert len(setting.open().read(None).tree.files) == 2


def test_files_elsewhere_are_no_models_and_any_file_makes_its_folder_a_user(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit(
        {
            "README.md": b"x",
            "examples/model.yaml": b"x",
            "users/.gitkeep": b"",
            "users/loose.yaml": b"x",
            "users/ann/.gitkeep": b"",
            "users/bob/notes/deep.yaml": b"x",
            "users/Carl/model.yaml": b"x",
            "users/dora/Model.yaml": b"x",
            "users/e..f/model.yaml": b"x",
            "other/ann/model.yaml": b"x",
        }
    )
    tree = source.read(None).tree
    assert tree.files == {}
    assert tree.users == {"ann", "bob", "dora"}
    setting.writer.commit({"users/ann/.gitkeep": None})
    assert source.read(None).tree.users == {"bob", "dora"}


def test_changes_hold_every_commit_since_in_order_however_often_it_was_read(setting: Setting) -> None:
    """The ledger may not have been written after a read: the next read says the same again."""
    source = setting.open()
    first = setting.writer.commit({ANN: b"0"})
    shas = []
    for content in (b"1", b"2", b"3"):
        shas.append(setting.writer.commit({ANN: content, BOB: content}))
        source.read(None)
    for asked in (source, setting.open()):
        found = changes(asked, first)
        assert [change.commit.sha for change in found] == [sha for sha in shas for _ in "ab"]
        assert [change.identity.user_id for change in found] == ["ann", "bob"] * 3
        assert changes(asked, shas[-2]) == found[-2:]
        assert changes(asked, shas[-1]) == ()


def test_a_reader_that_starts_anew_sees_what_the_old_one_saw(setting: Setting) -> None:
    source = setting.open()
    for content in (b"0", None, b"1", b"2"):
        setting.writer.commit({ANN: content, BOB: b"b" + (content or b"")})
        source.read(None)
    assert setting.open().read(None) == source.read(None)


def test_a_revision_that_is_not_on_the_branch_has_no_changes(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"0"})
    assert source.read("1" * 40).changes is None
    assert source.read("--output=/tmp/x").changes is None
    assert source.read(None).changes is None


def test_a_rewritten_branch_is_read_as_it_is_now(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"0"})
    kept = source.read(None).tree
    lost = setting.writer.commit({ANN: b"1", BOB: b"1"})
    source.read(None)
    setting.writer.rewind(1)
    reading = source.read(lost)
    assert reading.changes is None
    assert reading.tree == kept
    other = setting.writer.commit({ANN: b"2"}, author="eve")
    reading = source.read(lost)
    assert reading.changes is None
    assert reading.tree.revision == other
    assert reading.tree.users == {"ann"}
    assert at(reading.tree, ANN).identity == at(kept, ANN).identity


def test_identities_that_are_carried_over_hold_from_their_revision_on(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"0", BOB: b"0"})
    head = setting.writer.commit({ANN: b"1"})
    before = source.read(None).tree
    key = "svc-ann-20250102-030405-beef"
    carried = Carried(head, {ANN: key, BOB: at(before, BOB).identity.model_key})
    file = source.read(None, carried).tree.files[key]
    assert (file.identity.model_id, file.blob) == ("ann-202501020304-a", at(before, ANN).blob)
    assert at(source.read(None, carried).tree, BOB) == at(before, BOB)

    setting.writer.commit({ANN: b"2"})
    [change] = source.read(head, carried).changes or ()
    assert change.identity.model_key == key
    setting.writer.commit({ANN: None})
    setting.writer.commit({ANN: b"2"})
    for asked in (source, setting.open()):
        assert key not in asked.read(None, carried).tree.files
        assert len(asked.read(None, carried).tree.files) == 2


def test_identities_carried_from_a_revision_that_is_not_on_the_branch_are_nobodys(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"0"})
    carried = Carried("1" * 40, {ANN: "svc-ann-20250102-030405-beef"})
    assert source.read(None, carried).tree == source.read(None).tree


def test_commits_of_the_api_are_told_from_everybody_elses(setting: Setting) -> None:
    setting.writer.commit({ANN: b"0"}, author="ann", source="api")
    setting.writer.commit({BOB: b"0"}, author="Argus", source="git")
    tree = setting.open().read(None).tree
    assert (at(tree, ANN).commit.source, at(tree, ANN).commit.author) == ("api", "ann")
    assert at(tree, BOB).commit.source == "git"


def test_what_was_read_stays_as_it_was(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"0"})
    tree = source.read(None).tree
    files, users = dict(tree.files), set(tree.users)
    setting.writer.commit({ANN: None, BOB: b"1"})
    source.read(None)
    assert tree.files == files
    assert tree.users == users


def test_blobs_are_cut_one_byte_beyond_the_limit(setting: Setting) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"12345", BOB: b"123456", "users/ann/c.yaml": b"1234567", "users/ann/d.yaml": b""})
    tree = source.read(None).tree
    ids = {at(tree, path).blob: path for path in (ANN, BOB, "users/ann/c.yaml", "users/ann/d.yaml")}
    found = {ids[blob]: content for blob, content in source.blobs(iter(ids), 5).items()}
    assert found == {ANN: b"12345", BOB: b"123456", "users/ann/c.yaml": b"123456", "users/ann/d.yaml": b""}
    assert source.blobs([], 5) == {}


def test_a_damaged_blob_is_told_as_such_and_keeps_no_other_from_being_read_until_it_is_mended(
    setting: Setting,
) -> None:
    setting.writer.commit({ANN: b"ann's", BOB: b"bob's", "users/ann/c.yaml": b"c"})
    source = setting.open()
    ids = {file.identity.path: file.blob for file in source.read(None).tree.files.values()}
    mend = setting.damage(ids[BOB])
    for asked in (source, source, setting.open()):
        found = asked.blobs(ids.values(), 100)
        assert found == {
            ids[ANN]: b"ann's",
            ids[BOB]: Damaged(ids[BOB], "it is damaged"),
            ids["users/ann/c.yaml"]: b"c",
        }
    assert len(source.read(None).tree.files) == 3, "the tree has them all"
    mend()
    assert source.blobs([ids[BOB]], 100) == {ids[BOB]: b"bob's"}


def test_a_blob_that_is_not_there_is_missing(setting: Setting) -> None:
    setting.writer.commit({ANN: b"x"})
    source = setting.open()
    here = at(source.read(None).tree, ANN).blob
    assert source.blobs(["0" * 40, here], 5) == {"0" * 40: Damaged("0" * 40, "it is missing"), here: b"x"}


@pytest.mark.parametrize("wrong", ["", "main", "--batch-all-objects", "a\nb"])
def test_what_is_no_object_id_is_an_error(setting: Setting, wrong: str) -> None:
    source = setting.open()
    setting.writer.commit({ANN: b"x"})
    source.read(None)
    with pytest.raises(SourceUnreachable):
        source.blobs([wrong], 5)


def test_out_of_reach_is_an_error_and_not_an_empty_tree_and_passes(setting: Setting) -> None:
    source = setting.open()
    sha = setting.writer.commit({ANN: b"x"})
    source.read(None)
    setting.break_it()
    with pytest.raises(SourceUnreachable):
        source.read(None)
    with pytest.raises(SourceUnreachable):
        setting.open().read(None)
    setting.mend_it()
    source.hurry()
    assert source.read(None).tree.revision == sha


def test_the_whole_history_is_told_from_its_beginning_as_it_was_last_read(setting: Setting) -> None:
    source = setting.open()
    assert source.history() == ()
    shas = [setting.writer.commit({ANN: content}) for content in (b"0", b"1", None)]
    source.read(None)
    assert [change.commit.sha for change in source.history()] == shas
    assert [change.kind for change in source.history()] == list(ChangeKind)
    setting.writer.rewind(1)
    source.read(None)
    assert [change.commit.sha for change in source.history()] == shas[:2]


def test_threads_may_share_one(setting: Setting) -> None:
    source = setting.open()
    first = setting.writer.commit({ANN: b"0"})
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(source.read, first) for _ in range(4)]
        last = setting.writer.commit({ANN: b"1"})
        for read in reads:
            assert read.result().changes is not None
    assert [change.commit.sha for change in changes(source, first)] == [last]
