"""The ledger as the API sees it: read only, one short transaction a question."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, select, text

from reconciler.core.entities import Event, Record, State
from reconciler.core.identity import Carried
from reconciler.core.ownership import Rulings
from reconciler.ports import PlatformStatus
from reconciler.shell.ledger import rows
from reconciler.shell.ledger.engine import reading
from reconciler.shell.ledger.loop import carried, rulings
from reconciler.shell.ledger.schema import ONLY, events, identities, loop, models, platform_status


class LedgerReader:
    """What a page or an answer needs to know. Safe for threads. Every method raises LedgerUnreachable."""

    def __init__(self, engine: Engine) -> None:
        """Read the ledger at `engine` (`open_ledger`)."""
        self._engine = engine

    def models(self, user_id: str | None, *, limit: int | None = None, after: str = "") -> Mapping[str, Record]:
        """Give a user's models, or everybody's where `user_id` is None, without those that are DELETED.

        They are in the order of their keys (a user's oldest first). At most `limit`, from the first key beyond `after`.
        """
        statement = (
            select(models.c.model_key, models.c.record)
            .where(models.c.state != State.DELETED.value, models.c.model_key > after)
            .order_by(models.c.model_key)
            .limit(limit)
        )
        if user_id is not None:
            statement = statement.where(models.c.user_id == user_id)
        with reading(self._engine) as connection:
            found = connection.execute(statement).all()
        return {key: rows.record_of(text) for key, text in found}

    def model(self, model_key: str) -> Record | None:
        """Give one model, whatever its state, DELETED included. None where no pass has seen it."""
        with reading(self._engine) as connection:
            found = connection.execute(select(models.c.record).where(models.c.model_key == model_key)).scalar()
        return None if found is None else rows.record_of(found)

    def events(self, model_key: str, limit: int, after_id: int = 0) -> list[tuple[int, Event]]:
        """Give at most `limit` of a model's events in the order in which they were recorded, with their ids.

        It begins after the event `after_id`: the last id of one answer continues it in the next.
        """
        statement = (
            select(events.c.id, events.c.event)
            .where(events.c.model_key == model_key, events.c.id > after_id)
            .order_by(events.c.id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            found = connection.execute(statement).all()
        return [(event_id, rows.event_of(text)) for event_id, text in found]

    def recent_events(self, model_key: str, limit: int) -> list[tuple[int, Event]]:
        """Give a model's newest events, at most `limit`, oldest first, with their ids."""
        statement = (
            select(events.c.id, events.c.event)
            .where(events.c.model_key == model_key)
            .order_by(events.c.id.desc())
            .limit(limit)
        )
        with reading(self._engine) as connection:
            found = connection.execute(statement).all()
        return [(event_id, rows.event_of(text)) for event_id, text in reversed(found)]

    def status(self) -> PlatformStatus | None:
        """Give what the reconciler last saw. None before its first pass."""
        statement = select(platform_status.c.status).where(platform_status.c.id == ONLY)
        with reading(self._engine) as connection:
            found = connection.execute(statement).scalar()
        return None if found is None else rows.status_of(found)

    def standing(self) -> tuple[str | None, str | None]:
        """Give the revision that the loop last finished, and the one from which identities are carried over."""
        statement = select(loop.c.revision, identities.c.revision).select_from(
            loop.outerjoin(identities, identities.c.id == loop.c.id)
        )
        with reading(self._engine) as connection:
            revision, since = connection.execute(statement.where(loop.c.id == ONLY)).one()
        return revision, since

    def carried(self) -> Carried | None:
        """Give the identities that were carried over; None where history was never rewritten."""
        with reading(self._engine) as connection:
            return carried(connection)

    def rulings(self) -> Rulings:
        """Give what the loop ruled upon commits, and up to which of them."""
        with reading(self._engine) as connection:
            return rulings(connection)

    def ping(self) -> None:
        """Ask the database for a sign of life."""
        with reading(self._engine) as connection:
            connection.execute(text("SELECT 1"))
