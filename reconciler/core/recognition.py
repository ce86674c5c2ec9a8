"""Models that run, recognised in git by a ledger that is new: who they are, and which revision of their file they are.

Serve names each model by its key and knows the digest of what its engine was built from (`core.workload`). That digest
covers the public name, and with it the path, and all that the spec says of the engine. So a revision of a file that
gives the digest which Serve has *is* what runs, and the path is the model's, whatever history says today: nothing has
to be remembered anywhere, and what git does not confirm is not believed.

Only revisions that count are looked at (`core.ownership`). What the digest leaves out, the number of replicas, is
compared with what Serve was asked for; what Serve is not told at all (`update_strategy`) cannot be recognised.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.core.desired import Said
from reconciler.core.entities import Deployment, FileChange, SpecFile, Tree
from reconciler.core.identity import identity_of
from reconciler.core.workload import engine_version
from reconciler.spec import ServingSpec

MOST_REVISIONS = 200
"""Revisions of one file that are looked at, the newest. All at once, where the platform's configuration changed
together with a ledger that was lost: 1000 models are then 200,000 blobs at most, of some hundred bytes each."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What counts of a model that runs: a revision of its file, under the model's own identity, and what it says.

    `is_proven` where Serve's digest says so. Otherwise it is the newest revision that could be accepted. `is_renamed`
    where history as it is gives the file to a model of another key.
    """

    file: SpecFile
    spec: ServingSpec
    is_proven: bool
    is_renamed: bool = False


def revisions(
    running: Mapping[str, Deployment],
    tree: Tree,
    parsed: Mapping[str, Said],
    history: Sequence[FileChange],
    platform: str,
) -> dict[str, tuple[SpecFile, ...]]:
    """Give the files that may be what runs, by model key, the newest revision first. Nothing of whom git knows nothing.

    Where the file as it is now explains what runs, that is all. Of a key that history has given out these are the
    revisions of its own file, of any other (history was rewritten) those of all files of its user.

    Args:
        running: What Serve holds and no record tells of, by model key.
        tree: The repository.
        parsed: What its files say, by model key.
        history: All that ever happened to spec files, oldest first.
        platform: What the platform's configuration adds to every engine.
    """
    said = {file: parsed[key] for key, file in tree.files.items() if key in running}
    found: dict[str, tuple[SpecFile, ...]] = {
        key: (tree.files[key],)
        for key, seen in running.items()
        if key in tree.files and _exactly(_proven(key, seen, [tree.files[key]], said, platform), seen)
    }
    rest = [key for key in running if key not in found]
    known = {change.identity.model_key for change in history} if rest else set()
    strangers = {key: user for key in rest if key not in known and (user := _user(key)) is not None}
    ours, users = known.intersection(rest), set(strangers.values())
    by_key: defaultdict[str, list[SpecFile]] = defaultdict(list)
    by_user: defaultdict[str, list[SpecFile]] = defaultdict(list)
    number: Counter[str] = Counter()
    for change in reversed(history) if rest else ():
        file, who = change.after, change.identity
        if file is None or change.held is not None or number[who.path] >= MOST_REVISIONS:
            continue
        number[who.path] += 1
        if who.model_key in ours:
            by_key[who.model_key].append(file)
        if who.user_id in users:
            by_user[who.user_id].append(file)
    found |= {key: tuple(by_key[key]) for key in rest if key in ours}
    found |= {key: tuple(by_user[user]) for key, user in strangers.items()}
    return found


def recognised(
    running: Mapping[str, Deployment],
    candidates: Mapping[str, Sequence[SpecFile]],
    said: Mapping[SpecFile, Said],
    tree: Tree,
    platform: str,
) -> dict[str, Accepted]:
    """Say what counts of the models that run, by model key; nothing of those that git does not confirm.

    Where no revision has the digest (the platform's configuration changed, or what ran does not count any more), a
    model whose file is refused or gone is taken over as the newest revision that could be accepted. One whose file can
    be accepted as it is has no other that would count.

    Args:
        running: As for `revisions`.
        candidates: What that gave.
        said: What each of these files says.
        tree: The repository.
        platform: What the platform's configuration adds to every engine.
    """
    found: dict[str, Accepted] = {}
    for key, files in candidates.items():
        one = _proven(key, running[key], files, said, platform) or _newest(key, files, said, tree)
        if one is not None:
            found[key] = one
    return found


def carried(running: Mapping[str, Deployment], found: Mapping[str, Accepted], tree: Tree) -> dict[str, Accepted]:
    """Give those that keep their keys although history, which was rewritten, gives their paths to others.

    Not where that other runs: then the path is its. Of several that ran at one path the youngest keeps it; the rest
    count as removed.
    """
    by_path = {file.identity.path: key for key, file in tree.files.items()}
    kept: dict[str, str] = {}
    for key in sorted(found, key=lambda key: (found[key].file.identity.created_at, key)):
        other = by_path.get(found[key].file.identity.path)
        if found[key].is_renamed and other is not None and other not in running:
            kept[found[key].file.identity.path] = key
    return {key: found[key] for key in kept.values()}


def retold(changes: Iterable[FileChange], before: Tree, after: Tree) -> tuple[FileChange, ...]:
    """Give changes under the identities that `after` has in the place of those of `before`, for the same paths."""
    now = {file.identity.path: file.identity for file in after.files.values()}
    renamed = {key: now[file.identity.path] for key, file in before.files.items() if key not in after.files}
    return tuple(
        replace(change, identity=who) if (who := renamed.get(change.identity.model_key)) is not None else change
        for change in changes
    )


def _proven(
    key: str,
    seen: Deployment,
    files: Iterable[SpecFile],
    said: Mapping[SpecFile, Said],
    platform: str,
) -> Accepted | None:
    """Give the newest revision that is what runs; where none has the number of replicas, the newest with the digest."""
    near = None
    for file in files:
        spec = said[file]
        if not isinstance(spec, ServingSpec):
            continue
        try:
            who = identity_of(key, file.identity.path)
        except ValueError:
            continue  # somebody else's deployment, whose name only looks like a key
        if engine_version(spec, who, platform) == seen.version:
            is_renamed = file.identity.model_key != key
            one = Accepted(replace(file, identity=who), spec, is_proven=True, is_renamed=is_renamed)
            if _exactly(one, seen):
                return one
            near = near or one
    return near


def _exactly(one: Accepted | None, seen: Deployment) -> bool:
    return one is not None and one.spec.num_replicas == seen.target_replicas


def _newest(key: str, files: Iterable[SpecFile], said: Mapping[SpecFile, Said], tree: Tree) -> Accepted | None:
    for file in files:
        spec = said[file]
        if file.identity.model_key == key and isinstance(spec, ServingSpec):
            return Accepted(file, spec, is_proven=False) if tree.files.get(key) != file else None
    return None


def _user(key: str) -> str | None:
    """Read whose a model is from its key; None for what is no key."""
    head, *rest = key.rsplit("-", 3)
    return head.removeprefix("svc-") if len(rest) == 3 and head.startswith("svc-") else None
