"""The policy on who may write what, with real git, ssh-keygen and ledgers around the loop. Serve is in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.cases import Case, Verdict
from reconciler.core.entities import Held, HoldKind, State
from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.errors import SourceUnreachable
from reconciler.settings import Settings
from reconciler.shell.ledger import LedgerReader, VerdictReader
from reconciler.shell.source import GitSource
from tests.loop.git_world import GitWorld
from tests.loop.world import RULES, spec
from tests.repositories import git
from tests.signing import Clone, GpgKey, SshKey, needs_gpg, needs_ssh

PATH = "users/alice/qwen.yaml"
AUTHORS = {"alice@example.org": ["alice"], "bob@example.org": ["bob"], "root@example.org": ["*"]}


class Platform(GitWorld):
    """A `GitWorld` with a policy; each `start` is a new process with the configuration and ledger there are."""

    def __init__(self, folder: Path, **ownership: Any) -> None:
        self.ownership = ownership
        super().__init__(folder)
        self.people = Clone(folder / "clone", self.repository.path)

    def new_source(self) -> GitSource:
        settings = Settings.model_validate(
            {"home": self.folder, "spec_repo": {"url": self.url, "ownership": self.ownership}},
        )
        self.rules = replace(RULES, brake=settings.brake)
        return GitSource.from_settings(settings, self.reader.rulings)

    def start(self, **ownership: Any) -> None:
        self.ownership |= ownership
        self.restart()

    def settle(self, passes: int = 3) -> None:
        super().settle(passes)

    @property
    def reader(self) -> LedgerReader:
        return LedgerReader(self.engine)

    def commit(self, files: dict[str, str | None], author: str, **options: Any) -> str:
        """Commit by hand, and let the platform see it."""
        sha = self.people.commit(files, author=author, **options)
        self.settle()
        return sha

    def case(self, sha: str, path: str = PATH) -> Case:
        [found] = [case for case in VerdictReader(self.engine).of_commit(sha) if case.path == path]
        return found

    def verdict(self, sha: str, path: str = PATH) -> Verdict | None:
        return self.case(sha, path).verdict

    def replicas(self, path: str = PATH) -> int | None:
        """Say how many replicas run of the model at a path."""
        record = self.by_path().get(path)
        seen = self.runtime.observe().deployments.get(record.identity.model_key) if record else None
        return seen.running if seen else None

    def held(self, path: str = PATH) -> Held | None:
        record = self.by_path().get(path)
        return record.held if record else None


def mapped(folder: Path) -> Platform:
    platform = Platform(folder, policy="author_map", authors=AUTHORS)
    platform.commit({PATH: spec("qwen")}, "alice")
    assert platform.replicas() == 1
    return platform


def test_what_a_stranger_writes_is_held_and_told_on_his_commit(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    sha = platform.commit({PATH: spec("qwen", replicas=3)}, "bob")
    case = platform.case(sha)
    assert case.verdict is Verdict.HELD
    assert case.message is not None
    for part in ("bob <bob@example.org>", PATH, "belongs to alice", "right would be"):
        assert part in case.message
    held = platform.held()
    assert held is not None
    assert (held.kind, held.commit.sha, held.removes) == (HoldKind.POLICY, sha, False)
    assert platform.replicas() == 1
    assert [event.event_type for _, event in platform.reader.events(case.model_key, 100)][-1] == "CHANGE_HELD"
    assert "HELD" in git(platform.repository.path, "log", "-1", "--notes=argus", "--format=%N", sha)


def test_a_held_file_changes_no_more_by_commits_elsewhere_restarts_or_a_new_ledger(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    sha = platform.commit({PATH: spec("qwen", replicas=3)}, "bob")
    key = platform.case(sha).model_key
    elsewhere = platform.commit({"users/bob/mine.yaml": spec("mine")}, "bob")
    assert platform.verdict(elsewhere, "users/bob/mine.yaml") is Verdict.APPLIED
    for again in (platform.start, platform.lose_the_ledger):
        again()
        platform.settle()
        assert platform.replicas() == 1
        assert platform.by_path()[PATH].identity.model_key == key
        assert platform.held() is not None
        assert platform.verdict(sha) is Verdict.HELD


def test_an_owner_who_writes_on_top_answers_for_all_of_it(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    platform.commit({PATH: spec("qwen", replicas=3)}, "bob")
    sha = platform.commit({PATH: spec("qwen", replicas=3) + "# by all means\n"}, "alice")
    assert (platform.verdict(sha), platform.replicas(), platform.held()) == (Verdict.APPLIED, 3, None)


def test_who_puts_a_held_change_right_changes_nothing(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    platform.commit({PATH: spec("qwen", replicas=3)}, "bob")
    sha = platform.commit({PATH: spec("qwen")}, "root")
    assert (platform.verdict(sha), platform.replicas(), platform.held()) == (Verdict.NO_CHANGE, 1, None)


def test_a_strangers_removal_stops_nothing_until_the_owner_accepts_it(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    sha = platform.commit({PATH: None}, "bob")
    held = platform.held()
    assert platform.verdict(sha) is Verdict.HELD
    assert held is not None
    assert held.removes
    platform.start()
    platform.settle()
    assert platform.replicas() == 1
    sha = platform.commit({}, "alice", message=f"Let it go\n\nArgus-Accept: {PATH}")
    assert (platform.verdict(sha), platform.replicas()) == (Verdict.REMOVED, None)


def test_a_strangers_new_file_never_starts(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    sha = platform.commit({"users/alice/gift.yaml": spec("gift")}, "bob")
    assert platform.verdict(sha, "users/alice/gift.yaml") is Verdict.HELD
    assert "users/alice/gift.yaml" not in platform.by_path()
    assert platform.case(sha, "users/alice/gift.yaml").model_key not in platform.runtime.observe().deployments
    mine = platform.commit({"users/alice/gift.yaml": spec("gift", replicas=2)}, "alice")
    assert platform.verdict(mine, "users/alice/gift.yaml") is Verdict.APPLIED
    assert platform.replicas("users/alice/gift.yaml") == 2


def test_a_rename_into_anothers_folder_counts_where_its_author_may_write(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    theirs = "users/bob/qwen.yaml"
    sha = platform.commit({PATH: None, theirs: spec("qwen")}, "alice")
    assert (platform.verdict(sha), platform.verdict(sha, theirs)) == (Verdict.REMOVED, Verdict.HELD)
    assert platform.runtime.observe().deployments == {}


def test_a_held_change_of_a_later_commit_does_not_supersede_what_loads(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    good = platform.people.commit({PATH: spec("qwen", seed=1)}, author="alice")
    platform.loop.reconcile_once()
    held = platform.people.commit({PATH: spec("qwen", seed=2)}, author="bob")
    platform.settle()
    assert (platform.verdict(good), platform.verdict(held)) == (Verdict.APPLIED, Verdict.HELD)


def test_two_commits_between_two_passes_are_judged_one_by_one(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    held = platform.people.commit({PATH: spec("qwen", replicas=4)}, author="bob")
    good = platform.people.commit({PATH: spec("qwen", replicas=2)}, author="alice")
    last = platform.people.commit({PATH: spec("qwen", replicas=3)}, author="bob")
    platform.settle()
    assert [platform.verdict(sha) for sha in (held, good, last)] == [Verdict.HELD, Verdict.APPLIED, Verdict.HELD]
    assert platform.replicas() == 2


def test_the_committers_line_of_the_api_gives_nobody_rights(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    forged = {"email": "alice@users.argus", "committer": (API_NAME, API_EMAIL)}
    sha = platform.commit({PATH: spec("qwen", replicas=3)}, "alice", **forged)
    assert platform.verdict(sha) is Verdict.HELD
    assert "without the platform's signature" in (platform.case(sha).message or "")
    assert platform.replicas() == 1


def test_rules_by_anybody_but_an_admin_do_not_count_and_the_status_says_so(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    platform.commit({"argus.yaml": "suspend: {all: true}\n"}, "alice")
    status = platform.reader.status()
    assert status is not None
    assert "which only admins may write" in (status.rules_error or "")
    sha = platform.commit({PATH: spec("qwen", replicas=2)}, "alice")
    assert (platform.verdict(sha), platform.replicas()) == (Verdict.APPLIED, 2)
    platform.commit({"argus.yaml": "suspend: {users: {alice: so be it}}\n"}, "root")
    status = platform.reader.status()
    assert status is not None
    assert status.rules_error is None
    platform.commit({PATH: spec("qwen", replicas=3)}, "alice")
    assert platform.replicas() == 2


def test_a_change_of_the_map_is_no_verdict_on_the_past(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    late = platform.commit({"users/carol/x.yaml": spec("x")}, "carol")
    platform.start(authors={"root@example.org": ["*"], "carol@example.org": ["carol"]})
    platform.settle()
    assert platform.replicas() == 1  # alice is gone, and what she asked for while she could stays
    assert "users/carol/x.yaml" not in platform.by_path()  # a verdict that was given stands
    sha = platform.commit({PATH: spec("qwen", replicas=2)}, "alice")
    assert platform.verdict(sha) is Verdict.HELD
    sha = platform.commit({}, "carol", message="Mine\n\nargus-accept: users/carol/x.yaml")
    assert (platform.verdict(late, "users/carol/x.yaml"), platform.replicas("users/carol/x.yaml")) == (Verdict.HELD, 1)
    assert platform.verdict(sha, "users/carol/x.yaml") is Verdict.APPLIED


def test_a_policy_that_begins_leaves_what_runs_and_one_that_ends_lets_all_count(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.commit({PATH: spec("qwen")}, "eve")
    platform.start(policy="author_map", authors=AUTHORS)
    platform.settle()
    assert (platform.replicas(), platform.held()) == (1, None)
    platform.commit({PATH: spec("qwen", replicas=2)}, "eve")
    assert platform.replicas() == 1
    platform.start(policy="trust_branch")
    platform.settle()
    assert (platform.replicas(), platform.held()) == (2, None)


def test_a_new_ledger_trusts_what_came_before_the_policy_only_where_it_is_told_so(tmp_path: Path) -> None:
    platform = Platform(tmp_path, policy="author_map", authors=AUTHORS)
    first = platform.people.commit({PATH: spec("qwen")}, author="eve")
    second = platform.people.commit({"users/alice/y.yaml": spec("y")}, author="eve")
    platform.settle()
    assert platform.runtime.observe().deployments == {}
    assert (platform.verdict(first), platform.verdict(second, "users/alice/y.yaml")) == (Verdict.HELD, Verdict.HELD)
    platform.lose_the_ledger()
    platform.start(since=first)
    platform.settle()
    assert platform.replicas() == 1
    assert "users/alice/y.yaml" not in platform.by_path()


def test_a_forced_push_by_a_stranger_winds_nothing_back(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    platform.commit({"users/bob/mine.yaml": spec("mine")}, "root")
    newest = platform.commit({PATH: spec("qwen", replicas=2)}, "alice")
    platform.repository.rewind(2)  # the tip is alice's, and older
    platform.settle()
    assert (platform.replicas(), platform.replicas("users/bob/mine.yaml")) == (2, 1)
    status = platform.reader.status()
    assert status is not None
    assert "rewritten" in (status.error or "")
    platform.start()
    platform.settle()
    assert (platform.replicas(), platform.replicas("users/bob/mine.yaml")) == (2, 1)
    git(platform.repository.path, "update-ref", "refs/heads/main", newest)
    platform.settle()
    status = platform.reader.status()
    assert status is not None
    assert (status.error, status.revision) == (None, newest)


def test_an_admin_who_rewrites_history_stands_for_all_of_it(tmp_path: Path) -> None:
    platform = mapped(tmp_path)
    platform.commit({"users/bob/mine.yaml": spec("mine")}, "bob")
    keys = set(platform.runtime.observe().deployments)
    platform.people.git("checkout", "--quiet", "--orphan", "anew")
    platform.people.git("add", "--all")
    who = ["-c", "user.name=root", "-c", "user.email=root@example.org"]
    platform.people.git(*who, "commit", "--quiet", "--message", "Without the secret")
    for author in ("Carl", "root"):
        platform.people.git(
            *who, "commit", "--quiet", "--amend", "--no-edit", "--author", f"{author} <{author}@example.org>"
        )
        platform.people.push("--force")
        platform.settle()
        status = platform.reader.status()
        assert status is not None
        assert (status.error is None) == (author == "root")
        assert set(platform.runtime.observe().deployments) == keys
    platform.people.git("branch", "--force", "main")
    platform.people.git("checkout", "--quiet", "main")
    sha = platform.commit({PATH: spec("qwen", replicas=2)}, "bob")
    assert platform.verdict(sha) is Verdict.HELD


def test_an_authors_file_is_read_again_and_a_broken_one_stops_judging_and_nothing_else(tmp_path: Path) -> None:
    platform = Platform(tmp_path, policy="author_map", authors_file="authors.yaml")
    people = tmp_path / "authors.yaml"
    people.write_text("alice@example.org: [alice]\n", encoding="utf-8")
    platform.commit({PATH: spec("qwen")}, "alice")
    people.write_text("alice@example.org: {secret: stuff}\n", encoding="utf-8")
    platform.loop.reconcile_once()  # nothing new is to be judged
    platform.people.commit({PATH: spec("qwen", replicas=2)}, author="bob")
    with pytest.raises(SourceUnreachable, match=r"authors\.yaml") as caught:
        platform.loop.reconcile_once()
    assert "stuff" not in str(caught.value)
    people.write_text('"Bob@Example.org": ["*"]\n', encoding="utf-8")
    platform.settle()
    assert platform.replicas() == 2


ALICES = tuple(f"users/alice/{name}.yaml" for name in "abc")
BOBS = "users/bob/mine.yaml"


def four_models(folder: Path) -> Platform:
    """Run three models of alice's and one of bob's: to remove three at once is too much."""
    platform = Platform(folder, policy="author_map", authors=AUTHORS)
    platform.people.commit({path: spec(path[12:-5]) for path in ALICES}, author="alice")
    platform.commit({BOBS: spec("mine")}, "bob")
    assert [platform.replicas(path) for path in (*ALICES, BOBS)] == [1] * 4
    return platform


def gone(platform: Platform, paths: Iterable[str]) -> list[bool]:
    return [platform.replicas(path) is None for path in paths]


def test_a_stranger_allows_no_removal_and_the_hold_says_who_could(tmp_path: Path) -> None:
    platform = four_models(tmp_path)
    sha = platform.commit(dict.fromkeys(ALICES), "alice")
    for who in ("bob", "eve"):
        said = platform.commit({}, who, message="Let them go\n\nArgus-Allow-Removal: 3")
        held = platform.held(ALICES[0])
        assert held is not None
        assert (held.kind, held.commit.sha) == (HoldKind.BRAKE, sha)
        assert f"commit {said[:12]} by {who} allows it, who may not write all of these files" in held.message
        assert "a commit by alice or an admin with the trailer Argus-Allow-Removal: 3" in held.message
        assert gone(platform, ALICES) == [False] * 3
    platform.commit({}, "root", message="Let them go\n\nArgus-Allow-Removal: 3")
    assert gone(platform, ALICES) == [True] * 3
    assert platform.verdict(sha, ALICES[0]) is Verdict.REMOVED


def test_an_owner_allows_the_removal_of_her_own_and_of_nobody_elses(tmp_path: Path) -> None:
    platform = four_models(tmp_path)
    platform.people.commit({BOBS: None}, author="bob")
    sha = platform.commit(dict.fromkeys(ALICES), "alice", message="Tidy up\n\nArgus-Allow-Removal: 4")
    assert gone(platform, (*ALICES, BOBS)) == [False] * 4
    held = platform.held(BOBS)
    assert held is not None
    assert "by an admin, or by somebody who may write all of them, with the trailer" in held.message
    platform.commit({BOBS: spec("mine")}, "bob")  # takes his back: now all that goes is alice's
    assert gone(platform, (*ALICES, BOBS)) == [True, True, True, False]
    assert platform.verdict(sha, ALICES[0]) is Verdict.REMOVED


def test_who_may_allow_a_removal_is_ruled_once(tmp_path: Path) -> None:
    """A restart with another map makes no stranger an owner, and no owner a stranger."""
    platform = four_models(tmp_path)
    platform.people.commit(dict.fromkeys(ALICES), author="alice")
    platform.commit({}, "bob", message="Let them go\n\nArgus-Allow-Removal: 3")
    platform.start(authors={"bob@example.org": ["*"]})
    platform.settle()
    assert gone(platform, ALICES) == [False] * 3
    platform.start(authors=AUTHORS)
    platform.commit({BOBS: None}, "bob")  # a fourth, so that alice's word is not enough yet
    platform.commit({}, "alice", message="Mine may go\n\nArgus-Allow-Removal: 3")
    assert gone(platform, ALICES) == [False] * 3
    platform.start(authors={"bob@example.org": ["bob"]})
    platform.commit({BOBS: spec("mine")}, "bob")
    assert gone(platform, ALICES) == [True] * 3


def test_where_the_branch_is_trusted_anybody_allows_a_removal(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.commit({path: spec(path[12:-5]) for path in ALICES}, "alice")
    platform.commit(dict.fromkeys(ALICES), "alice")
    held = platform.held(ALICES[0])
    assert held is not None
    assert "a commit with the trailer" in held.message
    platform.commit({}, "eve", message="Let them go\n\nArgus-Allow-Removal: 3")
    assert gone(platform, ALICES) == [True] * 3


@pytest.fixture
def signing(tmp_path: Path) -> tuple[Platform, dict[str, SshKey]]:
    keys = {}
    for name, owner in (("alice", "alice"), ("bob", "bob"), ("root", "_admins")):
        keys[name] = SshKey(tmp_path, f"{name}-key")
        (tmp_path / "signers" / owner).mkdir(parents=True)
        (tmp_path / "signers" / owner / "key.pub").write_text(keys[name].public, encoding="ascii")
    platform = Platform(tmp_path, policy="signed", signers="signers", authors=AUTHORS)
    platform.commit({PATH: spec("qwen")}, "alice", key=keys["alice"])
    assert platform.replicas() == 1
    return platform, keys


Signing = tuple[Platform, dict[str, SshKey]]


@needs_ssh
def test_each_commit_must_be_signed_and_not_the_tip_alone(signing: Signing) -> None:
    platform, keys = signing
    unsigned = platform.people.commit({PATH: spec("qwen", replicas=3)}, author="alice")
    by_bob = platform.people.commit({PATH: spec("qwen", replicas=4)}, author="alice", key=keys["bob"])
    tip = platform.people.commit({"users/alice/other.yaml": spec("other")}, author="alice", key=keys["alice"])
    platform.settle()
    assert platform.verdict(unsigned) is Verdict.HELD
    assert "not signed" in (platform.case(unsigned).message or "")
    assert platform.verdict(by_bob) is Verdict.HELD
    assert "a key of bob" in (platform.case(by_bob).message or "")
    assert platform.verdict(tip, "users/alice/other.yaml") is Verdict.APPLIED
    assert platform.replicas() == 1
    assert platform.verdict(platform.commit({PATH: spec("qwen", replicas=2)}, "x", key=keys["root"])) is Verdict.APPLIED


@needs_ssh
def test_a_merge_is_its_makers_with_all_that_it_brought(signing: Signing) -> None:
    platform, keys = signing
    people = platform.people
    for merger, verdict in (("alice", Verdict.HELD), ("root", Verdict.APPLIED)):
        path = f"users/bob/{merger}.yaml"
        people.git("checkout", "--quiet", "-b", f"of-{merger}")
        (people.folder / "users" / "bob").mkdir(exist_ok=True)
        (people.folder / path).write_text(spec(merger), encoding="utf-8")
        people.git("add", "--all")
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        people.git(*who, *keys["bob"].git_options, "commit", "--quiet", "-m", "Bob's own")
        people.git("checkout", "--quiet", "main")
        signed = keys[merger].git_options
        people.git(*who, *signed, "merge", "--quiet", "--no-ff", "-m", "Merge", f"of-{merger}")
        sha = people.push()
        platform.settle()
        assert platform.verdict(sha, path) is verdict


@needs_ssh
def test_a_key_that_is_registered_later_counts_for_what_comes_then(signing: Signing, tmp_path: Path) -> None:
    platform, _ = signing
    new = SshKey(tmp_path, "new")
    assert platform.verdict(platform.commit({PATH: spec("qwen", replicas=2)}, "alice", key=new)) is Verdict.HELD
    (tmp_path / "signers" / "alice" / "laptop.pub").write_text(new.public, encoding="ascii")
    platform.settle()
    assert platform.replicas() == 1
    sha = platform.commit({}, "alice", key=new, message=f"Mine\n\nArgus-Accept: {PATH}")
    assert (platform.verdict(sha), platform.replicas()) == (Verdict.APPLIED, 2)


@needs_ssh
def test_a_key_that_is_taken_away_holds_what_comes_and_leaves_what_runs(signing: Signing, tmp_path: Path) -> None:
    platform, keys = signing
    (tmp_path / "signers" / "alice" / "key.pub").unlink()
    platform.start()
    sha = platform.commit({PATH: spec("qwen", replicas=2)}, "alice", key=keys["alice"])
    assert (platform.verdict(sha), platform.replicas()) == (Verdict.HELD, 1)


@needs_ssh
@needs_gpg
def test_a_code_hosts_merge_is_its_authors(signing: Signing, tmp_path: Path) -> None:
    platform, _ = signing
    forge = GpgKey(tmp_path / "gnupg", "noreply@forge.example")
    try:
        (tmp_path / "signers" / "_forges").mkdir()
        (tmp_path / "signers" / "_forges" / "web-flow.asc").write_text(forge.public, encoding="ascii")
        web = {"key": forge, "committer": ("Forge", "noreply@forge.example")}
        assert platform.verdict(platform.commit({PATH: spec("qwen", seed=1)}, "bob", **web)) is Verdict.HELD
        assert platform.verdict(platform.commit({PATH: spec("qwen", seed=2)}, "alice", **web)) is Verdict.APPLIED
    finally:
        forge.close()


@needs_ssh
def test_a_signature_is_looked_at_once(signing: Signing) -> None:
    platform, keys = signing
    platform.commit({PATH: spec("qwen", replicas=2)}, "alice", key=keys["alice"])
    for key in keys.values():
        key.path.unlink()
    (platform.folder / "signers").rename(platform.folder / "away")  # nobody could judge anything
    platform.settle()
    platform.start()
    platform.settle()
    assert (platform.replicas(), platform.by_path()[PATH].state) == (2, State.RUNNING)
