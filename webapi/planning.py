"""Plans: what a change would do, by the loop's own decision on what the ledger knows. Writes nothing, runs nothing.

The only module of the API that meets a plan, and only through `core.preview`: it shows what the reconciler would
decide, and decides nothing itself (docs/adr/0012-a-plan-is-the-loops-own-decision.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from reconciler.core.authorship import Authorship
from reconciler.core.desired import Said, is_read, understood
from reconciler.core.entities import Cluster, Commit, Entry, Located, Record, SpecFile, Tree, Unusable
from reconciler.core.history import ACCEPT, PathChange, RawCommit
from reconciler.core.ownership import gate
from reconciler.core.plandata import data
from reconciler.core.preview import Collision, foresee, merged
from reconciler.gatekeeper import RulesReader, gates_of
from reconciler.locating import locate
from reconciler.names import RULES_FILE, SPEC_ENDING, USERS_FOLDER, spec_path, split_path, user_of_path
from reconciler.ports import ModelFolders
from reconciler.shell.objects import object_id
from reconciler.shell.ownership import foreseen
from reconciler.shell.revisions import NoSuchRevision, brought, commits_of, resolve
from reconciler.spec import HubSource, LocalSource, ServingSpec, SpecRejected, parse
from reconciler.yamlsafe import quoted
from webapi import openapi, plan_schemas
from webapi.auth import caller
from webapi.bodies import read_json
from webapi.models import owner_of
from webapi.parts import Parts, parts
from webapi.problems import Conflict, Forbidden, Invalid, NotFound, SpecRefused
from webapi.store import PLAIN

plans = openapi.blueprint("plans", prefix=f"{openapi.PREFIX}/serve", about="What a change would do.")


@plans.post(
    "/plan",
    summary="Plan a change",
    openapi_extensions=openapi.json_body(plan_schemas.PlanRequest),
    responses=openapi.answers(
        HTTPStatus.OK,
        plan_schemas.PlanView,
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    ),
)
def plan_change() -> dict[str, Any]:
    """Say what a spec, some files or a pushed commit would do to what runs now. Nothing is written.

    Users may plan for their own files; of others' models they see how many there are. What is sent without `commits`
    is planned as the caller's own, as if the API were asked for it: it counts. A pushed commit (`head`) and what
    `commits` tells of is planned as their authors', and the platform's policy on authors may hold it.
    """
    platform = parts()
    asked = read_json(plan_schemas.PlanRequest)
    if sum(each is not None for each in (asked.spec, asked.files, asked.head)) != 1:
        raise Invalid("give exactly one of spec, files and head")
    if asked.commits and asked.files is None:
        raise Invalid("commits say who wrote files; a spec is the caller's, and a head has its own", field="commits")
    # The ledger before the repository: then the tree is at least as new as what is known of it.
    known = platform.ledger.load()
    records = known.records
    tree = platform.store.read()
    change = _change(platform, asked, tree)
    now = datetime.now(UTC)
    authors = _authors(platform, asked, change, tree, now)
    try:
        target = merged(tree, authors.counting(change.paths) if authors else change.paths, now)
    except Collision as error:
        raise Conflict(str(error), paths=list(error.paths)) from None
    folders, source = _Remembered(platform.folders), platform.store.source
    preview = foresee(
        tree=target,
        parsed=_parsed(platform, target, records, change.content),
        records=records,
        locate=lambda want, have: locate(folders, want, have, now, platform.settings.platform),
        cluster=_cluster(platform),
        now=now,
        platform=platform.settings.platform,
        update_strategy=platform.settings.serving.update_strategy,
        load_times=known.load_times,
        gates=(
            gate(authors.held if authors else {}),
            *gates_of(source, platform.settings.brake, RulesReader(source).read(target), records=records, now=now),
        ),
        removals=source.removals(records.keys() - target.files.keys()),
    )
    found = data(
        preview,
        base=tree.revision,
        head=asked.head,
        against="platform",
        new_users=target.users - tree.users,
        viewer=caller().user_id,
        authorship=authors,
    )
    return plan_schemas.PlanView.model_validate(found).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be planned. `content` holds, by blob, what the repository does not have."""

    paths: tuple[PathChange, ...]
    content: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Model folders, each looked at once in a request: a hundred specs may well name the same one."""

    folders: ModelFolders
    known: dict[tuple[LocalSource | HubSource, str], Located | Unusable] = field(default_factory=dict)

    def locate(self, source: LocalSource | HubSource, owner: str) -> Located | Unusable:
        """Keep `ports.ModelFolders.locate`."""
        found = self.known.get((source, owner))
        if found is None:
            found = self.known[source, owner] = self.folders.locate(source, owner)
        return found


def _change(platform: Parts, asked: plan_schemas.PlanRequest, tree: Tree) -> _Change:
    if asked.spec is not None:
        return _of_files(_as_files(platform, asked.spec, asked.user_id), asked, tree)
    if asked.files is not None:
        return _of_files({path: _bytes(text) for path, text in asked.files.items()}, asked, tree)
    assert asked.head is not None, "one of the three is given"  # noqa: S101  the handler has seen to it
    return _of_commit(platform, asked.head, tree)


def _as_files(platform: Parts, text: str, user_id: str | None) -> dict[str, bytes | None]:
    """Say which file a spec would be. Raises SpecRefused where it cannot be used, for then it would be none."""
    owner = owner_of(platform, user_id)
    content = _bytes(text) or b""
    spec = parse(content, owner=owner, limits=platform.settings.limits)
    if isinstance(spec, SpecRejected):
        raise SpecRefused(spec)
    return {spec_path(owner, spec.model_id): content}


def _of_files(files: Mapping[str, bytes | None], asked: plan_schemas.PlanRequest, tree: Tree) -> _Change:
    for path in files:
        if split_path(path) is None:
            right = f"{USERS_FOLDER}/<user_id>/<suffix>{SPEC_ENDING}"
            raise Invalid(f"{quoted(path)} is no spec's path, which is {right}", field="files")
    _refuse_others(files)
    here = {file.identity.path: file for file in tree.files.values()}
    changes = []
    for path, content in files.items():
        after = None
        if content is not None:
            after = Entry(asked.modes.get(path, PLAIN), object_id("blob", content))
        changes.append(PathChange(path, _before(path, asked, here.get(path)), after))
    contents = [content for content in files.values() if content is not None]
    return _Change(tuple(changes), {object_id("blob", content): content for content in contents})


def _before(path: str, asked: plan_schemas.PlanRequest, file: SpecFile | None) -> Entry | None:
    """Say what a file was changed from: what the branch has, unless the client knows of something else."""
    present = Entry(file.mode, file.blob) if file else None
    blob = asked.before.get(path, present.blob if present else None)
    if blob == (present.blob if present else None):
        return present
    return Entry(PLAIN, blob) if blob else None


def _of_commit(platform: Parts, head: str, tree: Tree) -> _Change:
    git = platform.store.source.copy.git
    if tree.revision is None:
        raise NotFound("the repository's branch has no commit yet that a change could be planned on")
    try:
        changes = brought(git, tree.revision, resolve(git, head))
    except NoSuchRevision:
        raise NotFound(
            "the repository has no such commit that began on its branch; push it, or send the files"
        ) from None
    _refuse_others(change.path for change in changes)
    changed = tuple(change for change in changes if split_path(change.path) or change.path == RULES_FILE)
    if len(changed) > plan_schemas.MOST_PLANNED:
        raise Invalid(f"the commit changes {len(changed)} specs; {plan_schemas.MOST_PLANNED} is the most", field="head")
    return _Change(changed)


def _authors(
    platform: Parts, asked: plan_schemas.PlanRequest, change: _Change, tree: Tree, now: datetime
) -> Authorship | None:
    """Say who wrote a change, and what the policy would hold of it. None where it is the caller's own."""
    git = platform.store.source.copy.git
    if asked.head is not None and tree.revision is not None:
        return foreseen(platform.settings, git.folder, commits_of(git, tree.revision, resolve(git, asked.head)))
    if asked.commits:
        paths = {each.path for each in change.paths}
        commits = [_raw(each, paths, now) for each in asked.commits]
        return foreseen(platform.settings, git.folder, commits, are_here=False)
    return None


def _raw(sent: plan_schemas.PlannedCommit, paths: set[str], now: datetime) -> RawCommit:
    """Read what a client tells of a commit, as far as it is about the paths that are planned."""
    commit = Commit(sent.sha, sent.author, now, "api" if sent.by_api else "git", email=sent.email)
    changes = [
        PathChange(path, None if did == "added" else _SOME, None if did == "removed" else _SOME)
        for path, did in sent.changes.items()
        if path in paths
    ]
    accepts = " ".join(path for path in sent.accepts if path in paths)
    return RawCommit(commit, None, tuple(changes), {ACCEPT: accepts} if accepts else {})


_SOME = Entry(PLAIN, "0" * 40)
"""Stands for content that was not sent: who wrote it matters, and not what."""


def _refuse_others(paths: Iterable[str]) -> None:
    """Refuse a change of what is not the caller's. Raises Forbidden."""
    asking = caller()
    if not asking.is_admin and any(user_of_path(path) != asking.user_id for path in paths):
        raise Forbidden(f"only the admin may plan changes outside of {USERS_FOLDER}/{asking.user_id}/")


def _parsed(platform: Parts, tree: Tree, records: Mapping[str, Record], given: Mapping[str, bytes]) -> dict[str, Said]:
    """Read what the files say: what the loop has read already is taken from its records."""
    limits = platform.settings.limits
    new = [file for key, file in tree.files.items() if _known(records.get(key), file) is None]
    unread = {file.blob for file in new if is_read(file)}
    content = {**platform.store.source.blobs(unread - given.keys(), limits.max_bytes), **given}
    return {
        key: _known(records.get(key), file) or understood(file, content, limits) for key, file in tree.files.items()
    }


def _known(record: Record | None, file: SpecFile) -> ServingSpec | SpecRejected | None:
    return (record.rejection or record.spec) if record is not None and record.commit.sha == file.commit.sha else None


def _cluster(platform: Parts) -> Cluster | None:
    """Give the GPUs as the last good pass saw them."""
    status = platform.reader.status()
    return Cluster(status.total_gpus, status.free_gpus) if status is not None and status.error is None else None


def _bytes(text: str | None) -> bytes | None:
    # JSON may write half a character; what no file can hold is then refused like any other text that is not UTF-8.
    return None if text is None else text.encode(errors="surrogatepass")
