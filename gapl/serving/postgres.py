"""Jobs in PostgreSQL: of several services, also on several machines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gapl.serving.database import Cursor, DatabaseError, Execute

if TYPE_CHECKING:
    import psycopg

_WAIT_S = 10  # for an answer of the database, and for the thread before
_EXCLUSIVE = 0x6761706C  # of the locks that a database gives, the one of these tables: "gapl"
# What a URL may say otherwise. A machine that is gone is noticed, whatever the system waits for.
_OPTIONS = {
    "application_name": "gapl",
    "connect_timeout": _WAIT_S,
    "keepalives_idle": _WAIT_S,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 1000 * _WAIT_S,
    "options": f"-c statement_timeout={_WAIT_S}s -c lock_timeout={_WAIT_S}s",
}


class Postgres:
    """A Database by a connection that is made anew when it was lost."""

    name = "the database of jobs"
    is_shared = True
    clock = "extract(epoch from clock_timestamp())::float8"
    lock = "for update"
    skip = "for update skip locked"

    def __init__(self, url: str) -> None:
        """Connect. Raises ValueError, one line, when the URL is none, or the database cannot be reached."""
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise ValueError(
                f"jobs in PostgreSQL need psycopg: pip install 'psycopg[binary]' ({error})"
            ) from error
        try:
            self._options: dict[str, Any] = _OPTIONS | conninfo_to_dict(url)
        except psycopg.Error:  # the message may have the password
            raise ValueError("the URL of jobs is like postgresql://USER:PASSWORD@HOST/NAME") from None
        self._error = psycopg.Error
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        try:
            self._connected()
        except psycopg.Error as error:
            raise ValueError(f"{self.name} cannot be reached: {' '.join(str(error).split())}") from error

    @contextmanager
    def transaction(self, *, exclusive: bool = False) -> Iterator[Execute]:
        """Do all of the block or, where it raises, nothing."""
        if not self._lock.acquire(timeout=_WAIT_S):
            raise DatabaseError(f"{self.name} is busy")
        try:
            connection = self._connected()
            with connection.transaction():
                if exclusive:
                    connection.execute("select pg_advisory_xact_lock(%s)", (_EXCLUSIVE,))
                yield _executing(connection)
        except self._error as error:
            raise DatabaseError(f"{self.name}: {error}") from error
        finally:
            self._lock.release()

    def _connected(self) -> psycopg.Connection:
        """Return the connection or, where that was lost, another one."""
        import psycopg

        if self._connection:
            try:
                self._connection.execute("select 1")
            except psycopg.OperationalError:
                self._connection.close()
                self._connection = None
        if not self._connection:
            self._connection = psycopg.connect(**self._options, autocommit=True)
        return self._connection

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            if self._connection:
                self._connection.close()


def _executing(connection: psycopg.Connection) -> Execute:
    """Return what executes queries whose values are marked as in SQLite."""

    def execute(query: str, values: Sequence[object] = ()) -> Cursor:
        return connection.execute(query.replace("?", "%s"), values)

    return execute
