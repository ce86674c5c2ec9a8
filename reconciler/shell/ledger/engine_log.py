"""What engines printed, model by model: the newest lines, for as long as the model lives and a while beyond.

What is kept is bounded twice, in lines and in bytes. A source (one replica's output) and how far it has been read are
written in one transaction with its lines, so that no line is kept twice or lost between two collectors or two tries.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from reconciler.core.entities import State
from reconciler.core.log_lines import Line
from reconciler.errors import Moved
from reconciler.shell.ledger.engine import insert_new, reading, writing
from reconciler.shell.ledger.schema import engine_log, engine_log_sources, models

MOST_LINES = 2000
MOST_BYTES = 512 * 1024
"""How much of a model's log is kept."""

_SOME_LINES = MOST_LINES // 10
_SOME_BYTES = MOST_BYTES // 10
"""How much more may pile up before the oldest are taken out: looking for them costs a query."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one source said since it was last read. `before` is None where it was never read."""

    source: str
    model_key: str
    replica: str
    before: str | None
    after: str
    lines: Sequence[str]


class EngineLog:
    """The log of every model. Safe for threads and processes. Every method raises LedgerUnreachable."""

    def __init__(self, engine: Engine) -> None:
        """Use the ledger at `engine` (`open_ledger`)."""
        self._engine = engine
        self._grown: dict[str, tuple[int, int]] = {}

    def positions(self) -> dict[str, str]:
        """Give how far each source has been read."""
        with reading(self._engine) as connection:
            found = connection.execute(select(engine_log_sources.c.source, engine_log_sources.c.position)).all()
        return {row.source: row.position for row in found}

    def append(self, batches: Iterable[Batch], now: datetime) -> None:
        """Keep what these sources said, in one transaction, and how far each has been read.

        Raises Moved where somebody else has read one of them meanwhile; nothing is written then.
        """
        said: dict[str, list[tuple[str, str]]] = {}
        with writing(self._engine) as connection:
            for batch in batches:
                _move(connection, batch, now)
                said.setdefault(batch.model_key, []).extend((batch.replica, line) for line in batch.lines)
            for model_key, lines in said.items():
                if lines:
                    self._add(connection, model_key, lines, now)

    def forget(self, source: str) -> None:
        """Forget how far a source was read: it is not there any more. Its lines stay."""
        with writing(self._engine) as connection:
            connection.execute(delete(engine_log_sources).where(engine_log_sources.c.source == source))

    def forget_old(self, before: datetime, *, spare: Container[str] = ()) -> None:
        """Drop what was said before that time by models that are gone, and sources that said nothing since.

        Sources in `spare` are still there, however quiet they are.
        """
        living = select(models.c.model_key).where(models.c.state != State.DELETED.value)
        sources = engine_log_sources.c
        with writing(self._engine) as connection:
            connection.execute(
                delete(engine_log).where(engine_log.c.created_at < before, engine_log.c.model_key.not_in(living))
            )
            quiet = connection.execute(select(sources.source).where(sources.moved_at < before)).scalars().all()
            for source in quiet:
                if source not in spare:
                    connection.execute(delete(engine_log_sources).where(sources.source == source))

    def tail(self, model_key: str, limit: int) -> list[Line]:
        """Give a model's newest lines, at most `limit`, oldest first."""
        rows = engine_log.c
        statement = (
            select(rows.last, rows.created_at, rows.document, rows.lines)
            .where(rows.model_key == model_key)
            .order_by(rows.last.desc())
            .limit(limit)  # no row is without a line
        )
        found: list[Line] = []
        with reading(self._engine) as connection:
            for last, created_at, document, _ in connection.execute(statement):
                if len(found) >= limit:
                    break
                found = _lines(last, created_at, document) + found
        return found[-limit:] if limit else []

    def after(self, model_key: str, number: int, limit: int) -> list[Line]:
        """Give at most `limit` of a model's lines beyond line `number`, oldest first. Lines not kept are skipped."""
        rows = engine_log.c
        statement = (
            select(rows.last, rows.created_at, rows.document)
            .where(rows.model_key == model_key, rows.last > number)
            .order_by(rows.last)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            found = [line for row in connection.execute(statement) for line in _lines(*row)]
        return [line for line in found if line.number > number][:limit]

    def _add(self, connection: Connection, model_key: str, lines: Sequence[tuple[str, str]], now: datetime) -> None:
        rows = engine_log.c
        last = connection.execute(select(func.max(rows.last)).where(rows.model_key == model_key)).scalar() or 0
        document = json.dumps(lines, ensure_ascii=True, separators=(",", ":"))
        row: Mapping[str, object] = {
            "model_key": model_key,
            "last": last + len(lines),
            "lines": len(lines),
            "bytes": len(document),
            "created_at": now,
            "document": document,
        }
        connection.execute(insert(engine_log).values(row))
        # A process that has just begun does not know what others left: it looks at its first line.
        more_lines, more_bytes = self._grown.get(model_key, (_SOME_LINES, _SOME_BYTES))
        more_lines, more_bytes = more_lines + len(lines), more_bytes + len(document)
        if more_lines >= _SOME_LINES or more_bytes >= _SOME_BYTES:
            _prune(connection, model_key)
            more_lines, more_bytes = 0, 0
        self._grown[model_key] = more_lines, more_bytes


def _move(connection: Connection, batch: Batch, now: datetime) -> None:
    sources = engine_log_sources.c
    if batch.before is None:
        row = {"source": batch.source, "position": batch.after, "moved_at": now}
        moved = insert_new(connection, engine_log_sources, row)
    else:
        held = (sources.source == batch.source, sources.position == batch.before)
        step = update(engine_log_sources).where(*held).values(position=batch.after, moved_at=now)
        moved = connection.execute(step).rowcount == 1
    if not moved:
        raise Moved(f"somebody else has read the output of {batch.source}")


def _prune(connection: Connection, model_key: str) -> None:
    """Take out the oldest rows beyond either bound; the newest stays, however large it is."""
    rows = engine_log.c
    mine = rows.model_key == model_key
    lines = size = 0
    for last, more_lines, more_bytes in connection.execute(
        select(rows.last, rows.lines, rows.bytes).where(mine).order_by(rows.last.desc())
    ).all():
        if lines and (lines + more_lines > MOST_LINES or size + more_bytes > MOST_BYTES):
            connection.execute(delete(engine_log).where(mine, rows.last <= last))
            return
        lines, size = lines + more_lines, size + more_bytes


def _lines(last: int, created_at: datetime, document: str) -> list[Line]:
    said = json.loads(document)
    first = last - len(said) + 1
    return [Line(first + index, created_at, replica, text) for index, (replica, text) in enumerate(said)]
