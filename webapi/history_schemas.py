"""What goes over the wire for a model's history: the commits that touched its file."""

from __future__ import annotations

from pydantic import Field

from reconciler.core.cases import Verdict
from reconciler.core.entities import ChangeKind, WrittenBy
from webapi.schemas import SHA_EXAMPLE, Answer, Query, UtcTime


class HistoryItem(Answer):
    """One commit that touched a model's file."""

    sha: str = Field(examples=[SHA_EXAMPLE])
    author: str
    committed_at: UtcTime
    subject: str
    source: WrittenBy
    kind: ChangeKind
    blob: str | None = Field(description="The file's content after it; null where it removed the file.")
    diff: str | None = Field(description="Unified; null where the file is too large or no text.")
    diff_is_cut: bool = Field(description="Whether `diff` is not all of it.")
    verdict: Verdict | None = Field(description="What came of it; null while it is open, or where nothing is known.")


class ModelHistory(Answer):
    """One page of a model's history, newest first."""

    items: list[HistoryItem]
    next_cursor: str | None


class HistoryQuery(Query):
    """Which page of a model's history."""

    limit: int = Field(default=20, ge=1, le=50, description="The most commits in one answer.")
    cursor: str | None = Field(default=None, max_length=512, description="`next_cursor` of the page before.")
