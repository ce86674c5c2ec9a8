"""The disk with the models (`ports.ModelFolders`): where a spec's folder lies, and whether it may be served.

A model folder is a stranger's, and much of what can lie in one is code to the engine that opens it; flags that are to
forbid that were got round three times in vLLM (CVE-2025-66448, CVE-2026-22807, CVE-2026-27893). So it is found under
the owner's roots with every link resolved, and every file in it is looked at; the weights themselves are never opened.
What was found can change afterwards: the engine is therefore told to load safetensors only and to trust no code,
whatever it finds.

All messages are for the model's owner. They speak of `/private/...` and never of where that lies on this disk.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from reconciler.core.entities import Located, Unusable
from reconciler.names import is_user_id
from reconciler.spec import HubSource, LocalSource

MAX_ENTRIES = 10_000
MAX_DEPTH = 8
MAX_JSON_BYTES = 4 * 1024 * 1024
"""Of one file. The largest real ones, tokenizer_config.json with thousands of reserved tokens, take 1 to 2 MB."""
MAX_ALL_JSON_BYTES = 32 * 1024 * 1024
"""Of all that is parsed in one folder: about a second of work."""

_HUB = "/private/hf/hub"

_REFUSED: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (".py", ".pyc", ".pyo", ".pyd", ".so", ".dylib", ".dll"),
        "is code, and a model folder holds data only; remove it",
    ),
    (
        (".pkl", ".pickle", ".joblib", ".dill", ".bin", ".pt", ".pth", ".ckpt", ".pdparams"),
        "can run code when it is read (a pickle); keep the weights as .safetensors and remove it",
    ),
    (
        (".h5", ".hdf5", ".keras", ".msgpack", ".onnx", ".gguf", ".ggml", ".tflite", ".pb", ".ot", ".nemo", ".tar"),
        "is not what this platform serves; keep the weights as .safetensors and remove it",
    ),
)
_CODE_ENDINGS_IN_THE_MIDDLE = ".so."  # libfoo.so.1

# Keys with which a configuration file leads the engine elsewhere.
_FORBIDDEN_KEYS = {
    "auto_map": "names Python code to be run",
    # vLLM (transformers_utils/config.py, maybe_override_with_speculators) then loads the model that this key names,
    # any path on the machine, instead of this folder.
    "speculators_config": "makes the engine load another model than this folder's",
}

# Tables of tokens and tensors, tens of megabytes large, that no loader looks up a class in. A vocabulary may well have
# "auto_map" among its tokens.
_DATA_FILES = {"tokenizer.json", "vocab.json", "trainer_state.json"}
_DATA_ENDINGS = (".safetensors.index.json", ".bin.index.json")

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_LONGEST_REASON = 600


class _RefusedError(Exception):
    """The folder may not be served; the message is for its owner."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


@dataclass(frozen=True, slots=True)
class _Place:
    """Something on the disk, and what users call it."""

    real: str
    shown: str


@dataclass(frozen=True, slots=True)
class _Roots:
    """The folders that a spec's owner may use: (real path, name under /private)."""

    pairs: tuple[tuple[str, str], ...]

    def allowed(self) -> str:
        return " or ".join(f"{name}/..." for _, name in self.pairs)

    def shown(self, real: str) -> str | None:
        """Say what a real path is called under /private; None outside the roots."""
        for root, name in self.pairs:
            if real == root or real.startswith(root.rstrip("/") + "/"):
                return name + real[len(root) :]
        return None

    def resolve(self, disk: str, shown: str) -> _Place:
        """Follow all links. What lies outside is refused before it is asked whether it exists: that is a secret too."""
        real = os.path.realpath(disk)
        name = self.shown(real)
        if name is None:
            _refuse(f"{shown} is, or leads through, a link out of {self.allowed()}; put the files themselves there")
        return _Place(real, name)


class DiskModelFolders:
    """`ports.ModelFolders` on a disk that this process can read."""

    def __init__(self, private_root: Path) -> None:
        """Serve what lies in `private_root`, which users know as `/private`."""
        self._private_root = private_root

    def locate(self, source: LocalSource | HubSource, owner: str) -> Located | Unusable:
        """Keep `ports.ModelFolders.locate`. Looks at every file each time; a folder of 100 files takes a few ms.

        A hub name gives the snapshot that its revision stands for now. Links are resolved in the path that is given.
        """
        if not is_user_id(owner):
            return Unusable("the model's owner is no user of this platform")
        roots = self._roots(source, owner)
        try:
            place = self._find(source, roots)
            _inspect(place, roots)
        except _RefusedError as refused:
            return Unusable(_for_people(str(refused)))
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            return Unusable(_for_people(_unreadable(error, source, roots)))
        return Located(place.shown)

    def leads_out(self, source: LocalSource, owner: str) -> str | None:
        """Say why a folder, with every link resolved, is outside its owner's roots; None where it is not.

        A folder that is missing is not outside: it may be on its way.
        """
        try:
            self._folder(source.path, self._roots(source, owner))
        except _RefusedError as refused:
            return _for_people(str(refused))
        except (OSError, ValueError):  # links in a circle, a folder that may not be read: `locate` says more
            return None
        return None

    def _roots(self, source: LocalSource | HubSource, owner: str) -> _Roots:
        shared = (os.path.realpath(self._private_root / "hf"), "/private/hf")
        if isinstance(source, HubSource):
            return _Roots((shared,))
        return _Roots((shared, (os.path.realpath(self._private_root / "users" / owner), f"/private/users/{owner}")))

    def _find(self, source: LocalSource | HubSource, roots: _Roots) -> _Place:
        return self._snapshot(source, roots) if isinstance(source, HubSource) else self._folder(source.path, roots)

    def _disk(self, shown: str) -> str:
        return os.path.join(self._private_root, shown.removeprefix("/private/"))

    def _folder(self, path: str, roots: _Roots) -> _Place:
        within = any(path.startswith(name + "/") for _, name in roots.pairs)
        if not within or ".." in path.split("/"):
            _refuse(f"{path}: right would be a folder in {roots.allowed()}, without '..'")
        return roots.resolve(self._disk(path), path)

    def _snapshot(self, source: HubSource, roots: _Roots) -> _Place:
        """Find a hub model in the layout of huggingface_hub's cache: `refs/<revision>` holds the name of a snapshot."""
        revision = source.revision or "main"
        name = f"{source.repo}@{revision}"
        absent = (
            f"{name} isn't in the shared cache {_HUB}, and nothing is downloaded; right would be a model and a "
            "revision that are there, or the path of a folder in /private"
        )
        if not _REPO.fullmatch(source.repo) or not _REVISION.fullmatch(revision) or ".." in source.repo + revision:
            _refuse(absent)
        cache = f"{_HUB}/models--{source.repo.replace('/', '--')}"
        snapshot = revision
        reference = roots.resolve(self._disk(f"{cache}/refs/{revision}"), f"{cache}/refs/{revision}")
        if os.path.isfile(reference.real):
            snapshot = _read(reference, 100).decode("ascii", "replace").strip()
            if not _SNAPSHOT.fullmatch(snapshot):
                _refuse(f"{reference.shown} does not hold the name of a snapshot, 40 hexadecimal digits")
        elif not _SNAPSHOT.fullmatch(revision):
            _refuse(absent)
        place = roots.resolve(self._disk(f"{cache}/snapshots/{snapshot}"), f"{cache}/snapshots/{snapshot}")
        if not os.path.isdir(place.real):
            _refuse(absent)
        return place


def _inspect(folder: _Place, roots: _Roots) -> None:
    """Refuse a folder that is no model, or that holds anything which an engine could run."""
    _require_folder(folder)
    entries = list(_entries(folder, roots))
    for file, _ in entries:
        _refuse_by_name(file)
    at_the_top = {os.path.basename(file.shown): (file, size) for file, size in entries if _is_directly_in(folder, file)}
    if "config.json" not in at_the_top:
        _refuse(f"{folder.shown} holds no config.json; right would be a model as `save_pretrained` writes it")
    _inspect_json(entries, at_the_top["config.json"][0])
    weights = [size for name, (_, size) in at_the_top.items() if name.endswith(".safetensors")]
    if not weights:
        _refuse(f"{folder.shown} holds no weights; right would be at least one *.safetensors beside config.json")
    if 0 in weights:
        _refuse(f"{folder.shown}: a *.safetensors file in it is empty; copy the weights again")


def _require_folder(folder: _Place) -> None:
    try:
        info = os.stat(folder.real)
    except (FileNotFoundError, NotADirectoryError):
        _refuse(f"{folder.shown} does not exist; right would be a folder with config.json and *.safetensors")
    if not stat.S_ISDIR(info.st_mode):
        _refuse(f"{folder.shown} is not a folder; right would be the folder that holds config.json and *.safetensors")


def _entries(folder: _Place, roots: _Roots) -> Iterator[tuple[_Place, int]]:
    """Give every regular file below, as where it really is and what it is called, with its size in bytes."""
    count = 0
    waiting = [(folder, 1)]
    while waiting:
        place, depth = waiting.pop()
        if depth > MAX_DEPTH:
            _refuse(
                f"{place.shown} lies deeper than {MAX_DEPTH} folders; right would be a model folder and nothing else"
            )
        with os.scandir(place.real) as found:
            for entry in found:
                count += 1
                if count > MAX_ENTRIES:
                    _refuse(
                        f"{folder.shown} holds more than {MAX_ENTRIES} files; right would be one model's files only"
                    )
                shown = f"{place.shown}/{entry.name}"
                real, info = _follow(entry, shown, roots)
                if stat.S_ISDIR(info.st_mode):
                    waiting.append((_Place(real, shown), depth + 1))
                elif stat.S_ISREG(info.st_mode):
                    yield _Place(real, shown), info.st_size
                else:
                    _refuse(f"{shown} is neither a file nor a folder (a pipe, socket or device); remove it")


def _follow(entry: os.DirEntry[str], shown: str, roots: _Roots) -> tuple[str, os.stat_result]:
    if not entry.is_symlink():
        return entry.path, entry.stat(follow_symlinks=False)
    target = roots.resolve(entry.path, shown)
    try:
        info = os.lstat(target.real)
    except FileNotFoundError:
        _refuse(f"{shown} is a link to nothing; put the file itself there")
    if stat.S_ISDIR(info.st_mode):
        _refuse(f"{shown} is a link to a folder; only links to files are followed, so put the folder itself there")
    if stat.S_ISLNK(info.st_mode):
        _refuse(f"{shown} is a link that leads in a circle; put the file itself there")
    return target.real, info


def _is_directly_in(folder: _Place, file: _Place) -> bool:
    return os.path.dirname(file.shown) == folder.shown


def _refuse_by_name(file: _Place) -> None:
    name = os.path.basename(file.shown).lower()
    for endings, reason in _REFUSED:
        if name.endswith(endings):
            _refuse(f"{file.shown} {reason}")
    if _CODE_ENDINGS_IN_THE_MIDDLE in name:
        _refuse(f"{file.shown} {_REFUSED[0][1]}")


def _inspect_json(entries: list[tuple[_Place, int]], config: _Place) -> None:
    configs = [(file, size) for file, size in entries if _is_configuration(os.path.basename(file.shown).lower())]
    if sum(size for _, size in configs) > MAX_ALL_JSON_BYTES:
        largest, _ = max(configs, key=lambda each: each[1])
        _refuse(
            f"{os.path.dirname(config.shown)}: its JSON files hold more than {MAX_ALL_JSON_BYTES // 2**20} MiB "
            f"together; remove what is no configuration, {largest.shown} for one"
        )
    for file, _ in configs:
        value = _parse(file)
        if file == config and not isinstance(value, dict):
            _refuse(f"{file.shown} is not a JSON object; right would be the model's own config.json")


def _is_configuration(name: str) -> bool:
    return name.endswith(".json") and name not in _DATA_FILES and not name.endswith(_DATA_ENDINGS)


def _parse(file: _Place) -> Any:
    def forbid(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, _ in pairs:
            if key in _FORBIDDEN_KEYS:
                _refuse(f"{file.shown}: the key '{key}' {_FORBIDDEN_KEYS[key]}; remove it, or serve a model without it")
        return dict(pairs)

    try:
        # As the object is built, not afterwards: of a key that stands there twice, both are seen.
        return json.loads(_read(file, MAX_JSON_BYTES).decode("utf-8-sig"), object_pairs_hook=forbid)
    except RecursionError:
        _refuse(f"{file.shown} is nested too deeply; right would be a configuration as `save_pretrained` writes it")
    except ValueError:
        _refuse(f"{file.shown} is not JSON in UTF-8; copy it again")


def _read(file: _Place, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Does not wait at a pipe that has taken its place meanwhile."""
    descriptor = os.open(file.real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            _refuse(f"{file.shown} is not a regular file")
        content = stream.read(limit + 1)
    if len(content) > limit:
        _refuse(f"{file.shown} is larger than {limit} bytes, too large for what it is")
    return content


def _unreadable(error: OSError | ValueError, source: LocalSource | HubSource, roots: _Roots) -> str:
    """Say what could not be read, as exactly as the roots allow, and never where it lies on this disk."""
    shown = source.path if isinstance(source, LocalSource) else f"{source.repo}@{source.revision or 'main'} in {_HUB}"
    why = ""
    if isinstance(error, OSError):
        why = f" ({error.strerror})" if error.strerror else ""
        if isinstance(error.filename, str):
            shown = roots.shown(error.filename) or shown
    return f"{shown} cannot be read by the platform's account{why}"


def _for_people(message: str) -> str:
    """Take out of a message what file names may hold and a log, a page or a database does not take well."""
    clean = "".join(sign if sign.isprintable() else "?" for sign in message)
    return clean if len(clean) <= _LONGEST_REASON else clean[: _LONGEST_REASON - 1] + "…"
