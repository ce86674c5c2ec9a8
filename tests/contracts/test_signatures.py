"""Who signed a commit, found out by real git, ssh-keygen and gpg from keys that lie in a folder."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.core.ownership import ADMINS, FORGE, PLATFORM, Signature
from reconciler.errors import SourceUnreachable
from reconciler.shell.objects import object_id
from reconciler.shell.signatures import Signatures
from reconciler.shell.signers import SignerFolder, fingerprint
from reconciler.shell.signing_key import SigningKey, public_half
from tests.repositories import Repository, git
from tests.signing import Clone, GpgKey, SshKey, needs_gpg, needs_ssh, run


class Bench:
    """A repository, and a folder with keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = Repository(folder / "specs.git")
        self.clone = Clone(folder / "clone", self.repository.path)
        self.keys = folder / "signers"
        self.keys.mkdir()
        self.signatures = Signatures(self.repository.path, 30)

    def register(self, owner: str, text: str, name: str = "key.pub") -> None:
        (self.keys / owner).mkdir(exist_ok=True)
        (self.keys / owner / name).write_text(f"{text}\n", encoding="utf-8")

    def look(self, sha: str) -> tuple[str, frozenset[str]]:
        """Give git's letter, and whose key it was."""
        signers = SignerFolder(self.keys).read()
        found = Signatures(self.repository.path, 30).of([sha], signers)[sha]
        return found.status, signers.owners.get(found.key or "", frozenset())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def gpg_key(tmp_path: Path) -> Iterator[GpgKey]:
    key = GpgKey(tmp_path / "gnupg", "alice@example.org")
    yield key
    key.close()


@needs_ssh
def test_an_ssh_signature_is_its_owners(bench: Bench, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "alice")
    bench.register("alice", key.public)
    assert bench.look(bench.clone.commit({"a": "1"}, key=key)) == ("G", frozenset({"alice"}))


@needs_ssh
def test_a_key_may_be_of_several_users_and_a_user_may_have_several_keys(bench: Bench, tmp_path: Path) -> None:
    shared, own = SshKey(tmp_path, "shared"), SshKey(tmp_path, "own")
    bench.register("alice", f"# two keys\n{shared.public}\n\n{own.public}")
    bench.register("bob", shared.public)
    bench.register("_admins", own.public)
    assert bench.look(bench.clone.commit({"a": "1"}, key=shared)) == ("G", frozenset({"alice", "bob"}))
    assert bench.look(bench.clone.commit({"a": "2"}, key=own)) == ("G", frozenset({"alice", ADMINS}))


@needs_ssh
def test_what_is_not_signed_by_a_registered_key_is_nobodys(bench: Bench, tmp_path: Path) -> None:
    known, stranger = SshKey(tmp_path, "known"), SshKey(tmp_path, "stranger")
    bench.register("alice", known.public)
    assert bench.look(bench.clone.commit({"a": "1"})) == ("N", frozenset())
    status, owners = bench.look(bench.clone.commit({"a": "2"}, key=stranger))
    assert status != "G"
    assert owners == frozenset()


@needs_ssh
def test_a_signature_that_was_put_on_another_commit_is_bad(bench: Bench, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "alice")
    bench.register("alice", key.public)
    sha = bench.clone.commit({"a": "1"}, key=key)
    said = run("git", "cat-file", "commit", sha, folder=bench.clone.folder)
    forged = f"{said}, and more\n".encode()
    made = git(bench.repository.path, "hash-object", "-t", "commit", "-w", "--stdin", stdin=forged)
    assert bench.look(made)[0] == "B"


@needs_ssh
def test_a_key_counts_only_while_it_is_valid(bench: Bench, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "alice")
    sha = bench.clone.commit({"a": "1"}, key=key)
    bench.register("alice", f'valid-before="20200101" {key.public}')
    assert bench.look(sha)[0] != "G"
    bench.register("alice", f'valid-after="20200101",valid-before="29990101" {key.public}')
    assert bench.look(sha)[0] == "G"


@needs_ssh
def test_a_signature_for_something_else_than_git_does_not_count(bench: Bench, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "alice")
    bench.register("alice", key.public)
    plain = run("git", "cat-file", "commit", bench.clone.commit({"a": "1"}), folder=bench.clone.folder) + "\n"
    (tmp_path / "said").write_text(plain, encoding="utf-8")
    run("ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(key.path), str(tmp_path / "said"), folder=tmp_path)
    signature = (tmp_path / "said.sig").read_text(encoding="ascii").strip().replace("\n", "\n ")
    headers, _, message = plain.partition("\n\n")
    signed = f"{headers}\ngpgsig {signature}\n\n{message}".encode()
    made = git(bench.repository.path, "hash-object", "-t", "commit", "-w", "--stdin", stdin=signed)
    assert bench.look(made)[0] != "G"


@needs_ssh
@needs_gpg
def test_a_gpg_signature_is_its_owners_until_the_key_is_revoked(bench: Bench, gpg_key: GpgKey) -> None:
    bench.register("alice", gpg_key.public, "key.asc")
    sha = bench.clone.commit({"a": "1"}, key=gpg_key)
    assert bench.look(sha) == ("G", frozenset({"alice"}))
    gpg_key.revoke()
    bench.register("alice", gpg_key.public, "key.asc")
    assert bench.look(sha)[0] != "G"


@needs_gpg
def test_a_gpg_key_that_is_not_registered_is_nobodys(bench: Bench, gpg_key: GpgKey) -> None:
    status, owners = bench.look(bench.clone.commit({"a": "1"}, key=gpg_key))
    assert status != "G"
    assert owners == frozenset()


@needs_gpg
def test_a_forges_key_is_told_from_a_users(bench: Bench, gpg_key: GpgKey) -> None:
    bench.register("_forges", gpg_key.public, "web-flow.asc")
    assert bench.look(bench.clone.commit({"a": "1"}, key=gpg_key)) == ("G", frozenset({FORGE}))


@needs_ssh
def test_many_commits_are_verified_in_batches_and_only_once(bench: Bench, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "alice")
    bench.register("alice", key.public)
    shas = [bench.clone.commit({"a": str(number)}, key=key if number % 2 else None) for number in range(4)]
    signers = SignerFolder(bench.keys).read()
    first = bench.signatures.of(shas, signers)
    assert [first[sha].status for sha in shas] == ["N", "G", "N", "G"]
    bench.repository.path.rename(tmp_path / "moved")  # git would find nothing
    assert bench.signatures.of(shas, signers) == first


@needs_ssh
def test_a_repository_cannot_say_who_is_trusted(bench: Bench, tmp_path: Path) -> None:
    mallory = SshKey(tmp_path, "mallory")
    allowed = tmp_path / "allowed"
    allowed.write_text(f"argus {mallory.public}\n", encoding="ascii")
    git(bench.repository.path, "config", "gpg.ssh.allowedSignersFile", str(allowed))
    git(bench.repository.path, "config", "gpg.ssh.program", "true")
    bench.register("alice", SshKey(tmp_path, "alice").public)
    status, owners = bench.look(bench.clone.commit({"a": "1"}, key=mallory))
    assert status != "G"
    assert owners == frozenset()


@needs_ssh
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("key.pub", "ssh-ed25519 not-base-64!"),
        ("key.pub", "cert-authority ssh-ed25519 AAAA"),
        ("key.pub", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        pytest.param("key.asc", "no key", marks=needs_gpg),
    ],
)
def test_a_file_that_holds_no_key_is_named_and_not_shown(bench: Bench, name: str, text: str) -> None:
    bench.register("alice", text, name)
    with pytest.raises(SourceUnreachable, match=r"alice/key\.") as caught:
        SignerFolder(bench.keys).read()
    assert text not in str(caught.value)


def test_a_folder_that_is_missing_is_an_error_and_not_nobody(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="no folder"):
        SignerFolder(tmp_path / "missing").read()


@needs_ssh
def test_a_key_that_is_added_counts_from_the_next_look(bench: Bench, tmp_path: Path) -> None:
    folder, key = SignerFolder(bench.keys), SshKey(tmp_path, "alice")
    assert not folder.read().owners
    bench.register("alice", key.public)
    assert set(folder.read().owners) == {fingerprint(key.public.split()[1])}
    assert folder.read() is folder.read()


@needs_ssh
def test_the_platforms_own_key_is_made_once_and_verifies(bench: Bench) -> None:
    path = bench.folder / "home" / "signing-key"
    commit = (
        run("git", "cat-file", "commit", bench.clone.commit({"a": "1"}), folder=bench.clone.folder).encode() + b"\n"
    )
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: SigningKey(path).sign(commit), range(8)))
    assert len(set(signed)) == 1  # Ed25519 signatures of one key are equal: all eight used the same
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = git(bench.repository.path, "hash-object", "-t", "commit", "-w", "--stdin", stdin=signed[0])
    assert made == object_id("commit", signed[0])
    bench.repository.check()
    signers = SignerFolder(None, [public_half(path)]).read()
    found = bench.signatures.of([made], signers)[made]
    assert found.is_good
    assert signers.owners[found.key or ""] == frozenset({PLATFORM})


def test_what_is_unsigned_is_not_good() -> None:
    assert not Signature("N").is_good
    assert not Signature("U", "SHA256:x").is_good
    assert not Signature("G").is_good
