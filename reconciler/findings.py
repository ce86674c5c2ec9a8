"""What is wrong with a file of the spec repository, as the reconciler will see it, before anybody has merged it.

Pure: whoever reads a disk or git gives path, mode and content. The verdict on a spec is the reconciler's own
(`desired.refused_by_mode`, `spec.parse`); what is said beside it are warnings about files that it passes by in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath

from reconciler import rules
from reconciler.core.desired import PLAIN_FILE, refused_by_mode
from reconciler.core.entities import Commit, SpecFile
from reconciler.core.identity import Keys
from reconciler.names import (
    RULES_FILE,
    SPEC_ENDING,
    SUFFIX_RULE,
    USER_ID_RULE,
    USERS_FOLDER,
    is_suffix,
    is_user_id,
    spec_path,
    split_path,
)
from reconciler.spec import Limits, SpecRejected, parse
from reconciler.yamlsafe import quoted


class Severity(StrEnum):
    """How bad it is: an error keeps a model from what its file says, a warning is about a file that does nothing."""

    ERROR = "error"
    WARNING = "warning"


class Rule(StrEnum):
    """What kind of finding it is, for machines; stable."""

    INVALID = "spec-invalid"
    FORBIDDEN = "spec-forbidden"
    UNPROCESSABLE = "spec-unprocessable"
    MODE = "file-mode"
    UNREADABLE = "file-unreadable"
    IGNORED = "file-ignored"
    UNKNOWN_USER = "user-unknown"
    RULES = "rules-invalid"


LINK = "120000"
"""Git's mode for a link."""

RULES = {
    Rule.INVALID: "A spec must be well-formed: known fields, typed and bounded, named like its file.",
    Rule.FORBIDDEN: "A spec may name only folders that its owner may use.",
    Rule.UNPROCESSABLE: "A spec must stay within the platform's bounds.",
    Rule.MODE: "A spec is a plain file: neither executable nor a link.",
    Rule.UNREADABLE: "A file of the repository must be readable.",
    Rule.IGNORED: f"Only {USERS_FOLDER}/<user_id>/<suffix>{SPEC_ENDING} is read; any other file there does nothing.",
    Rule.RULES: f"{RULES_FILE} must be well-formed: while it is not, its last good version counts.",
    Rule.UNKNOWN_USER: "Where CODEOWNERS names owners of users' folders, each user's folder has one.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one file. `line` and `column` count from 1, None where the whole file is meant."""

    path: str
    severity: Severity
    rule: Rule
    message: str
    field: str | None = None
    line: int | None = None
    column: int | None = None


def judge(path: str, mode: str, content: bytes, limits: Limits) -> Finding | None:
    """Say what is wrong with the file at `path` of the repository; None where all is well.

    Args:
        path: From the repository's root, with `/`.
        mode: As git would store it: 100644, 100755, 120000.
        content: The file's bytes; cut to `limits.max_bytes` + 1 where there are more.
        limits: The platform's bounds on specs.
    """
    name = split_path(path)
    if name is None:
        why = why_ignored(path)
        if why and mode == LINK:
            why = "ignored: a link, and links are followed by nobody; write the file where it is meant to be"
        return Finding(path, Severity.WARNING, Rule.IGNORED, why) if why else None
    identity = Keys().issue(name, path, _NOBODYS.sha, _NOBODYS.committed_at)
    refused = refused_by_mode(SpecFile(identity, blob="", mode=mode, commit=_NOBODYS))
    if refused is not None:
        return Finding(path, Severity.ERROR, Rule.MODE, refused.message)
    return judge_content(path, content, owner=name.user_id, suffix=name.suffix, limits=limits)


def judge_content(path: str, content: bytes, *, owner: str, suffix: str | None, limits: Limits) -> Finding | None:
    """Say what is wrong with a spec of `owner`; with `suffix` None its file may have any name."""
    said = parse(content, owner=owner, limits=limits, suffix=suffix)
    if not isinstance(said, SpecRejected):
        return None
    rule = Rule(f"spec-{said.problem}")
    return Finding(path, Severity.ERROR, rule, said.message, said.field, said.line, said.column)


def judge_rules(path: str, mode: str, content: bytes) -> Finding | None:
    """Say what is wrong with the file of rules (`names.RULES_FILE`); None where all is well."""
    if mode != PLAIN_FILE:
        message = f"{path} has git mode {mode}: right would be a plain file (mode {PLAIN_FILE})"
        return Finding(path, Severity.ERROR, Rule.MODE, message)
    said = rules.parse(content)
    if not isinstance(said, rules.RulesRefused):
        return None
    return Finding(path, Severity.ERROR, Rule.RULES, said.message, None, said.line, said.column)


def why_ignored(path: str) -> str | None:
    """Say why a file below `users/` is read by nobody, and what would be right; None where that is as it should be.

    Hidden files (`.gitkeep`) and Markdown are meant for people, and so is what lies outside of `users/`.
    """
    parts = path.split("/")
    name = parts[-1]
    if parts[0] != USERS_FOLDER or len(parts) < 2 or name.startswith(".") or name.lower().endswith(".md"):
        return None
    right = f"{USERS_FOLDER}/<user_id>/<suffix>{SPEC_ENDING}"
    if len(parts) == 2:
        return f"ignored: lies in {USERS_FOLDER}/ itself; a spec is {right}"
    if not is_user_id(parts[1]):
        return f"ignored: the folder {quoted(parts[1])} is no user id, which is {USER_ID_RULE}"
    if len(parts) > 3:
        return f"ignored: lies too deep; a spec is {right}"
    if not name.endswith(SPEC_ENDING):
        suffix = PurePosixPath(name).stem
        advice = f"a spec ends in {SPEC_ENDING}"
        if is_suffix(suffix) and name.lower().endswith((".yml", SPEC_ENDING, ".json")):
            advice += f": {spec_path(parts[1], suffix)}"
        return f"ignored: {advice}"
    return f"ignored: {quoted(name.removesuffix(SPEC_ENDING))} cannot name a model: {SUFFIX_RULE}"


def named_users(codeowners: str) -> frozenset[str]:
    """Give the users for whose folders a CODEOWNERS file has a line of their own (`/users/<user_id>/ @owner`)."""
    patterns = (line.split()[0].lstrip("/").split("/") for line in codeowners.splitlines() if line.strip())
    return frozenset(parts[1] for parts in patterns if len(parts) > 1 and parts[0] == USERS_FOLDER and parts[1])


def unknown_user(path: str, known: frozenset[str]) -> Finding | None:
    """Warn of a spec whose user CODEOWNERS does not name: a new user, or a slip in a folder's name.

    Nobody is unknown where it names no users at all.
    """
    name = split_path(path)
    if name is None or not known or name.user_id in known or "*" in known:
        return None
    folder = f"{USERS_FOLDER}/{name.user_id}/"
    message = f"{folder} has no line in CODEOWNERS: a new user needs one, a slip in the name makes a new user"
    return Finding(path, Severity.WARNING, Rule.UNKNOWN_USER, message)


_NOBODYS = Commit(sha="0" * 40, author="", committed_at=datetime(1970, 1, 1, tzinfo=UTC), source="git")
