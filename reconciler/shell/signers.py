"""The keys that commits may be signed with, read from a folder, and laid out as git and gpg want them.

    <folder>/<user>/*.pub           ssh public keys, one a line, as in ~/.ssh/*.pub; before a key may stand what an
                                    allowed signers file knows: valid-after="…", valid-before="…"
    <folder>/<user>/*.asc, *.gpg    GPG public keys
    <folder>/_admins/               keys that may write everywhere
    <folder>/_forges/               keys of code hosts, which sign merges for others

The folder belongs to whoever runs the platform. It is read again when new commits are to be judged, so a key counts
from then on without a restart.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from reconciler.core.ownership import ADMINS, FORGE, PLATFORM
from reconciler.errors import SourceUnreachable
from reconciler.names import is_user_id

ADMINS_FOLDER = "_admins"
FORGES_FOLDER = "_forges"

MOST_KEYS = 10_000
MOST_BYTES = 256 * 1024
"""Of one file with keys."""

PRINCIPAL = "argus"
"""Git asks ssh-keygen who signed. Whose a key is goes by its fingerprint, so all have this one name."""

_SSH_KEY = re.compile(
    r"(?P<options>(?:valid-(?:after|before)=\"[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?Z?\",?)*)\s*"
    r"(?P<type>(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+)\s+(?P<blob>[A-Za-z0-9+/=]+)(?:\s.*)?\Z"
)
_GPG_CONFIG = "batch\nno-autostart\nno-auto-key-retrieve\ndisable-dirmngr\ntrust-model always\nno-greeting\n"
_GPG_LIMIT_S = 30


@dataclass(frozen=True, slots=True)
class Signers:
    """Keys by fingerprint with their owners, and the files that git and gpg verify with.

    `allowed` is an allowed signers file; `gpg_home` a GNUPGHOME of our own, None where there are no GPG keys. Both lie
    in `aside`, which goes with this value.
    """

    owners: Mapping[str, frozenset[str]] = field(hash=False)
    allowed: Path
    gpg_home: Path | None
    aside: tempfile.TemporaryDirectory[str] = field(repr=False, compare=False)


class SignerFolder:
    """The folder with keys, and those of the platform itself. Used by one thread at a time."""

    def __init__(self, folder: Path | None, platform_keys: Iterable[Path] = ()) -> None:
        """Read `folder`, where there is one, and the files of public keys that the API signs with."""
        self._folder = folder
        self._platform_keys = tuple(platform_keys)
        self._digest = ""
        self._signers: Signers | None = None

    def read(self) -> Signers:
        """Give the keys as they are now. Raises SourceUnreachable, which names the file that cannot be used."""
        files = dict(self._files())
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        if self._signers is None or digest != self._digest:
            self._signers = _laid_out(files)
            self._digest = digest
        return self._signers

    def _files(self) -> Iterable[tuple[tuple[str, str], bytes]]:
        """Give each file's content by its owner and name."""
        for path in self._platform_keys:
            if path.exists():  # the API makes its key when it first signs
                yield (PLATFORM, str(path)), _content(path)
        if self._folder is None:
            return
        try:
            found = sorted(self._folder.glob("*/*"))
        except OSError as error:
            raise SourceUnreachable(f"{self._folder} cannot be read: {type(error).__name__}") from None
        if not found and not self._folder.is_dir():
            raise SourceUnreachable(f"spec_repo.ownership.signers: {self._folder} is no folder")
        for path in found[:MOST_KEYS]:
            owner = {ADMINS_FOLDER: ADMINS, FORGES_FOLDER: FORGE}.get(path.parent.name, path.parent.name)
            if path.suffix in {".pub", ".asc", ".gpg"} and (owner in {ADMINS, FORGE} or is_user_id(owner)):
                yield (owner, str(path)), _content(path)


def fingerprint(blob: str) -> str:
    """Give an ssh key's fingerprint, as ssh-keygen prints it, from its base64 form. Raises ValueError."""
    digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SourceUnreachable(f"the key file {path} cannot be read: {type(error).__name__}") from None
    if len(content) > MOST_BYTES:
        raise SourceUnreachable(f"the key file {path} is larger than {MOST_BYTES} bytes")
    return content


def _laid_out(files: Mapping[tuple[str, str], bytes]) -> Signers:
    owners: defaultdict[str, set[str]] = defaultdict(set)
    allowed: list[str] = []
    gpg: list[bytes] = []
    aside = tempfile.TemporaryDirectory(prefix="argus-signers-")
    folder = Path(aside.name)
    for (owner, name), content in files.items():
        if name.endswith(".pub"):
            for key, line in _ssh_keys(name, content):
                owners[key].add(owner)
                allowed.append(line)
        else:
            for key in _gpg_keys(name, content, folder):
                owners[key].add(owner)
            gpg.append(content)
    if allowed and shutil.which("ssh-keygen") is None:
        raise SourceUnreachable("signatures by ssh keys cannot be verified: there is no ssh-keygen")
    file = folder / "allowed-signers"
    file.write_text("".join(f"{line}\n" for line in allowed), encoding="ascii")
    known = {key: frozenset(whose) for key, whose in owners.items()}
    return Signers(MappingProxyType(known), file, _gpg_home(gpg, folder) if gpg else None, aside)


def _ssh_keys(name: str, content: bytes) -> Iterable[tuple[str, str]]:
    """Give each key's fingerprint and its line of an allowed signers file."""
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _SSH_KEY.match(text)
        try:
            key = fingerprint(found["blob"]) if found else ""
        except (ValueError, binascii.Error):
            key = ""
        if found is None or not key:
            raise SourceUnreachable(
                f"{name}:{number} is no ssh public key; right would be a line as in ~/.ssh/id_ed25519.pub, with "
                'valid-after="YYYYMMDD" or valid-before="YYYYMMDD" before it where wanted'
            )
        options = ",".join(['namespaces="git"', *filter(None, [found["options"].rstrip(",")])])
        yield key, f"{PRINCIPAL} {options} {found['type']} {found['blob']}"


def _gpg_keys(name: str, content: bytes, folder: Path) -> list[str]:
    """Give the fingerprints of the primary keys in a file."""
    lines = _gpg(folder, "--show-keys", "--with-colons", stdin=content).decode(errors="replace").splitlines()
    found, is_primary = [], False
    for line in lines:
        fields = line.split(":")
        if fields[0] == "fpr" and is_primary and len(fields) > 9:
            found.append(fields[9])
        is_primary = fields[0] == "pub"
    if not found:
        raise SourceUnreachable(f"{name} holds no GPG public key; right would be the output of gpg --export --armor")
    return found


def _gpg_home(keys: Iterable[bytes], folder: Path) -> Path:
    home = folder / "gnupg"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "gpg.conf").write_text(_GPG_CONFIG, encoding="ascii")
    for content in keys:
        _gpg(home, "--import", stdin=content)
    return home


def _gpg(home: Path, *arguments: str, stdin: bytes) -> bytes:
    """Run gpg with nothing of the account's that runs us. Raises SourceUnreachable."""
    command = ["gpg", "--homedir", str(home), "--batch", "--no-autostart", "--quiet", *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=_GPG_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SourceUnreachable(f"gpg did not finish within {_GPG_LIMIT_S} s") from None
    except OSError as error:
        raise SourceUnreachable(f"GPG keys are registered and gpg cannot be started: {type(error).__name__}") from None
    return done.stdout
