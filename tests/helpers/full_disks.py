"""SQLite files that cannot be written: on a full disk, or on one that is read-only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import Engine, event

Refusal = Literal["full", "read-only"]


@contextmanager
def refusing(engine: Engine, how: Refusal) -> Iterator[None]:
    """Inside, SQLite itself refuses to let the file grow, or to write it, as the system would make it do."""

    def set_all(connection: Any, refused: bool) -> None:
        if how == "full":
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages if refused else 2**31}")
        else:
            connection.execute(f"PRAGMA query_only={'ON' if refused else 'OFF'}")

    def taken(connection: Any, record: Any, proxy: Any) -> None:
        set_all(connection, True)

    def given_back(connection: Any, record: Any) -> None:
        set_all(connection, False)

    event.listen(engine, "checkout", taken)
    event.listen(engine, "checkin", given_back)
    try:
        yield
    finally:
        event.remove(engine, "checkout", taken)
        event.remove(engine, "checkin", given_back)
