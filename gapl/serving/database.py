"""What jobs ask of a database: transactions, and the few words in which the two kinds of SQL differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class DatabaseError(Exception):
    """A database that does not answer, or that could not do what it was asked."""


class Cursor(Protocol):
    """What a query gave."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that it found."""
        ...


Execute = Callable[..., Cursor]  # execute(query, values): a `?` of the query stands for each value


class Database(Protocol):
    """A database. Threads may share it.

    name       what messages call it
    is_shared  whether other services use it at the same time
    clock      an expression: the seconds since 1970
    lock       ends a query whose rows nobody else changes until the transaction ends
    skip       ends a query that has rows for itself: it leaves out what others have locked
    """

    name: str
    is_shared: bool
    clock: str
    lock: str
    skip: str

    def transaction(self, *, exclusive: bool = False) -> AbstractContextManager[Execute]:
        """Do all of the block or, where it raises, nothing. Raises DatabaseError.

        exclusive  no other service does such a block at the same time
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
