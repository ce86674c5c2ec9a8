"""What goes over the wire for commits: what became of each, and how long somebody waits to be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from reconciler.core.cases import Verdict
from webapi.schemas import KEY_EXAMPLE, SHA_EXAMPLE, Answer, Query, UtcTime

LONGEST_WAIT_S = 30
"""How long a request may wait for a verdict at most, in seconds."""


class CommitStages(Answer):
    """When a change reached what it goes through. Null: not reached yet, or never to be reached with its verdict."""

    committed: UtcTime = Field(description="The commit's own time.")
    seen: UtcTime | None = Field(description="A pass of the reconciler read it.")
    planned: UtcTime | None = Field(description="A pass decided for it.")
    applied: UtcTime | None = Field(description="Serve was asked for it.")
    ready: UtcTime | None = Field(description="It answered; for a removal: the model was gone.")


class CommitFile(Answer):
    """One spec file that a commit touched, and what became of that change."""

    path: str = Field(examples=["users/alice/qwen-0.5b.yaml"])
    model_key: str = Field(examples=[KEY_EXAMPLE])
    verdict: Verdict | None = Field(description="Null while the change is open. Once given it never changes.")
    message: str | None = Field(description="Why, where the verdict alone does not say it.")
    line: int | None = Field(description="Where in the file that is refused, from 1.")
    column: int | None
    superseded_by: str | None = Field(description="The commit that took this one's place.")
    stages: CommitStages


class CommitView(Answer):
    """A commit on the branch with what became of it. To a user it is what it did to files of theirs."""

    sha: str = Field(examples=[SHA_EXAMPLE])
    author: str
    subject: str
    committed_at: UtcTime
    state: Literal["open", "closed"] = Field(description="Closed: `verdict` is given, and never changes.")
    verdict: Verdict | None = Field(description="The worst verdict of its files; null while one of them is open.")
    files: list[CommitFile]
    stages: CommitStages = Field(description="Each at the time of the last file to reach it.")


class CommitList(Answer):
    """One page of the commits that touched spec files, newest first."""

    items: list[CommitView]
    next_cursor: str | None


class CommitPath(BaseModel):
    """One commit."""

    sha: str = Field(
        pattern=r"^[0-9a-f]{7,40}$",
        description="A commit's SHA, or its beginning: 7 hexadecimal digits or more.",
        json_schema_extra={"example": SHA_EXAMPLE},
    )


class WaitQuery(Query):
    """How long to wait for a verdict."""

    wait: int = Field(
        default=0,
        ge=0,
        le=LONGEST_WAIT_S,
        description="Seconds to wait for the verdict: the answer comes with it, or in the end without it. Where too "
        "many wait already, it comes at once.",
    )
