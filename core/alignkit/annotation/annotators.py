"""Who may label: people, their invites, and which guidelines they have acknowledged."""

import secrets
import time
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from alignkit.annotation.database import Database
from alignkit.annotation.tables import acknowledgements, annotators, invites, leases, settings
from alignkit.errors import UserError

NAME_LENGTH = 60


class Person(NamedTuple):
    """An annotator; `invite` is the one that holds."""

    id: str
    name: str
    active: bool
    created: float
    invite: str


class Annotators:
    """The people of a store. Those who judged elsewhere and whose judgements were imported are not among them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str) -> Person:
        """A new annotator with an invite, or the one who has this name, in capitals or not.

        Raises UserError for an impossible name, and for one that differs from another's only by hyphens.
        """
        name = " ".join(name.split())
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            raise UserError(f"an annotator's name has 1 to {NAME_LENGTH} printable characters, not {name[:80]!r}")
        id = name.casefold().replace(" ", "-")
        with self._database.write() as connection:
            taken = connection.execute(select(annotators.c.name).where(annotators.c.id == id)).scalar()
            if taken is not None and taken.casefold() != name.casefold():
                raise UserError(
                    f"the annotator {name!r} cannot be told from {taken!r}, who is there already: both are {id!r}",
                    where=self._database.path,
                    hint="give one of them another name",
                )
            if taken is None:
                connection.execute(insert(annotators).values(id=id, name=name, active=1, created=time.time()))
                _invite(connection, id)
            return _person(connection.execute(_people().where(annotators.c.id == id)).one())

    def all(self) -> list[Person]:
        """In the order they were added."""
        with self._database.read() as connection:
            query = _people().order_by(annotators.c.created, annotators.c.id)
            return [_person(row) for row in connection.execute(query)]

    def invited(self, invite: str) -> Person | None:
        """Whose invite this is, if it still holds and he is active."""
        with self._database.read() as connection:
            row = connection.execute(_INVITED, {"invite": invite}).one_or_none()
        return None if row is None else _person(row)

    def renew(self, id: str) -> Person:
        """Another invite; the one before, and the sessions begun with it, end."""
        with self._database.write() as connection:
            self._require(connection, id)
            _invite(connection, id)
            return _person(connection.execute(_people().where(annotators.c.id == id)).one())

    def set_active(self, id: str, active: bool) -> None:
        """Let an annotator in or keep him out. His judgements stay; what he held goes to others."""
        with self._database.write() as connection:
            self._require(connection, id)
            connection.execute(update(annotators).where(annotators.c.id == id).values(active=int(active)))
            if not active:
                connection.execute(delete(leases).where(leases.c.annotator_id == id))

    def acknowledge(self, id: str, guidelines: str) -> None:
        """He has read this version of the guidelines. A second time changes nothing."""
        with self._database.write() as connection:
            if not connection.execute(_acknowledged(id, guidelines)).scalar():
                values = {"annotator_id": id, "guidelines": guidelines, "created": time.time()}
                connection.execute(insert(acknowledgements).values(values))

    def has_acknowledged(self, id: str, guidelines: str) -> bool:
        """Whether he has read this version of the guidelines."""
        with self._database.read() as connection:
            return bool(connection.execute(_acknowledged(id, guidelines)).scalar())

    def secret(self) -> str:
        """What links and cookies are signed with: made once, kept in the file."""
        query = select(settings.c.value).where(settings.c.key == "secret")
        with self._database.write() as connection:
            found = connection.execute(query).scalar()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(insert(settings).values(key="secret", value=found))
        return str(found)

    def _require(self, connection: Connection, id: str) -> None:
        if not connection.execute(select(exists().where(annotators.c.id == id))).scalar():
            raise UserError(f"there is no annotator {id!r}", where=self._database.path)


def _people() -> Any:
    later = invites.alias("later")
    replaced = exists().where(later.c.annotator_id == invites.c.annotator_id, later.c.seq > invites.c.seq)
    both = annotators.join(invites, invites.c.annotator_id == annotators.c.id)
    return select(annotators, invites.c.id.label("invite")).select_from(both).where(~replaced)


_INVITED = _people().where(invites.c.id == bindparam("invite"), annotators.c.active == 1)


def _person(row: Row[Any]) -> Person:
    return Person(row.id, row.name, bool(row.active), row.created, row.invite)


def _invite(connection: Connection, annotator_id: str) -> None:
    values = {"id": secrets.token_urlsafe(12), "annotator_id": annotator_id, "created": time.time()}
    connection.execute(insert(invites).values(values))


def _acknowledged(annotator_id: str, guidelines: str) -> Any:
    return select(
        exists().where(acknowledgements.c.annotator_id == annotator_id, acknowledgements.c.guidelines == guidelines)
    )
