"""Jobs in a file, by SQLite: of one service, on one machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapl.serving.database import DatabaseError, Execute

# One process alone uses the file; a killed one loses nothing; what is deleted is overwritten.
_PRAGMAS = (
    "locking_mode = exclusive",
    "journal_mode = wal",
    "synchronous = normal",
    "secure_delete = on",
    "foreign_keys = on",
)


class Sqlite:
    """A Database in a file, which it locks until it is closed."""

    is_shared = False
    clock = "((julianday('now') - 2440587.5) * 86400)"
    lock = skip = ""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ValueError, one line, when another service has it, or it is none."""
        self.name = str(path)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            for each in _PRAGMAS:
                self._connection.execute(f"pragma {each}")
            self._connection.execute("begin immediate").execute("commit")  # now, it has the lock
        except sqlite3.Error as error:
            self._connection.close()
            is_taken = "locked" in str(error)
            why = "another process uses it" if is_taken else f"it cannot be used ({error})"
            raise ValueError(f"{path}: {why}; name another folder with --jobs") from error

    @contextmanager
    def transaction(self, *, exclusive: bool = False) -> Iterator[Execute]:
        """Do all of the block or, where it raises, nothing."""
        del exclusive  # all are
        try:
            with self._lock, self._connection:
                self._connection.execute("begin immediate")
                yield self._connection.execute
        except sqlite3.Error as error:
            raise DatabaseError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()
