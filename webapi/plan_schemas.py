"""What goes over the wire for plans: the change that is asked about, and what it would do (`core.plandata`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.effects import Effect
from reconciler.core.entities import HoldKind
from webapi.schemas import SHA_EXAMPLE, Answer

MOST_PLANNED = 100
"""How many files one request may plan."""

MOST_COMMITS = 200
"""How many commits one request may tell of: more than one for each file, for some accept what others wrote."""

FileMode: TypeAlias = Literal["100644", "100755", "120000", "160000"]
"""A file's mode, as git has it: plain, a program, a link, a submodule."""

ObjectId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""The id of a commit or of a file's content."""


def _one_of_three(schema: dict[str, Any]) -> None:
    """Say that one of the three is given, and is not null then."""
    names = ("spec", "files", "head")
    schema["oneOf"] = [{"required": [name]} for name in names]
    for name in names:
        described = schema["properties"][name]
        described |= described.pop("anyOf")[0]
        del described["default"]


class PlannedCommit(BaseModel):
    """One commit that `files` come from, as its repository has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha: ObjectId
    author: str = Field(max_length=200, description="The author's name.")
    email: str = Field(max_length=200, description="The author's e-mail address.")
    by_api: bool = Field(default=False, description="Whether the committer is the API, as the commit says.")
    changes: dict[str, Literal["added", "changed", "removed"]] = Field(
        default_factory=dict, max_length=MOST_PLANNED, description="What it did to `files` against its first parent."
    )
    accepts: list[str] = Field(
        default_factory=list, max_length=MOST_PLANNED, description="The paths of its trailer Argus-Accept."
    )


class PlanRequest(BaseModel):
    """A change that is to be planned: exactly one of `spec`, `files` and `head`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra=_one_of_three)

    spec: str | None = Field(default=None, description="One spec, as POST of a model takes it, YAML or JSON.")
    user_id: str | None = Field(default=None, description="Whose `spec` it is. The admin has to say.")
    files: dict[str, str | None] | None = Field(
        default=None,
        max_length=MOST_PLANNED,
        description="What files are to hold, by path (users/<user_id>/<suffix>.yaml); null removes one.",
        examples=[{"users/alice/qwen-0.5b.yaml": "model_id: qwen-0.5b\nmodel_source: $HOME/common/hf/demo\n"}],
    )
    modes: dict[str, FileMode] = Field(
        default_factory=dict, max_length=MOST_PLANNED, description="Modes of `files` that are not 100644."
    )
    before: dict[str, ObjectId | None] = Field(
        default_factory=dict,
        max_length=MOST_PLANNED,
        description="The blob that each of `files` was changed from, null for none: 409 where the branch has another.",
    )
    commits: list[PlannedCommit] = Field(
        default_factory=list,
        max_length=MOST_COMMITS,
        description="Who wrote `files`: commits along first parents, oldest first. The plan then says what the "
        "platform's policy on authors would hold back of them. It goes by what is sent, and decides nothing.",
    )
    head: ObjectId | None = Field(
        default=None,
        description="A commit that was pushed to the repository, on any branch.",
        examples=[SHA_EXAMPLE],
    )


class Amount(Answer):
    """A number now, and after the change."""

    before: int
    after: int


class PlannedHold(Answer):
    """What holds a change back, and what it would do otherwise."""

    kind: HoldKind
    then: Effect


class PlannedWriter(Answer):
    """Who wrote a file last, in which commit."""

    name: str
    email: str
    commit: str


class PlannedPolicy(Answer):
    """Whose commits count on this platform, and what a plan cannot say of that."""

    name: Literal["trust_branch", "author_map", "signed"]
    notes: list[str]


class PlannedChange(Answer):
    """What would happen to one model."""

    path: str
    user_id: str
    suffix: str
    model_key: str | None = Field(description="Null for a model that is new: the merge gives it its key and name.")
    model_id: str | None
    effect: Effect
    touched: bool = Field(description="False where the model's own file stays as it is.")
    downtime: bool | None = Field(description="Of a roll: whether nothing answers meanwhile; null where not known.")
    replicas: Amount
    gpus: Amount
    fields: dict[str, Any] = Field(description="What the spec says otherwise: `from` and `to` for each field.")
    message: str | None
    field: str | None
    line: int | None
    column: int | None
    held: PlannedHold | None = Field(description="Why it would not count for now (`message` says it); null: it would.")
    written_by: PlannedWriter | None = Field(description="The file's last author in this change, where that is known.")


class PlannedUntouched(Answer):
    """Models that nothing happens to, the first of them by name."""

    count: int
    paths: list[str]


class PlannedOthers(Answer):
    """How many models of others there are, for those who may not see them."""

    changed: int
    untouched: int


class PlannedGpus(Amount):
    """GPUs of all models together, and of the cluster: null where it was not seen."""

    total: float | None


class PlannedOwner(Amount):
    """GPUs of one user's models together."""

    user_id: str


class PlanView(Answer):
    """What a change would do, by the loop's own decision. Nothing was written and nothing was run."""

    base: str | None = Field(description="The revision that it was planned on.")
    head: str | None
    against: Literal["base", "platform"]
    changes: list[PlannedChange]
    untouched: PlannedUntouched
    others: PlannedOthers
    gpus: PlannedGpus
    owners: list[PlannedOwner]
    new_users: list[str]
    policy: PlannedPolicy | None = Field(
        description="The policy on authors that `head` or `commits` were judged by; null where neither was given."
    )
