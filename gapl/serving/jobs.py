"""Jobs: files that were sent to be judged while nobody waits, and what was found of them. SQLite keeps them.

Another database is another class with the methods of `Jobs`; nothing else knows of SQL.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapl.serving.batching import Wish

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
STATES = (WAITING, RUNNING, DONE, FAILED)
VERSION = 1  # of the tables
PAGE = 500  # rows that are in memory at a time
_TABLES = """
create table jobs (
    id text primary key, owner text not null, state text not null, created real not null, ended real,
    operating_point text not null, explain integer not null, method text not null default '',
    starts integer not null default 0, images integer, left_out text not null default '{}',
    error text not null default ''
);
create table uploads (
    job text not null references jobs on delete cascade, number integer not null, name text not null,
    primary key (job, number)
) without rowid;
create table results (
    job text not null references jobs on delete cascade, number integer not null, row text not null,
    path text not null, sha256 text not null, is_judged integer not null,
    primary key (job, number)
) without rowid;
"""
# One process alone uses the file; a killed one loses nothing; what is deleted is overwritten.
_PRAGMAS = (
    "locking_mode = exclusive",
    "journal_mode = wal",
    "synchronous = normal",
    "secure_delete = on",
    "foreign_keys = on",
)
_JOB = """
select id, owner, state, created, ended, operating_point, explain, method, starts, images, left_out, error,
    (select count(*) from results where job = id), (select count(*) from results where job = id and not is_judged)
from jobs
"""


@dataclass(frozen=True)
class Job:
    """A job as it is at a moment.

    owner           the name of the token that it was sent with
    created, ended  seconds since 1970; None: it goes on
    method          how its images are judged, as JSON; empty: it was not begun yet
    starts          how often it was begun, and not stopped in order
    num_images      None: not known yet
    left_out        how many files of archives are left out, by reason
    num_found       images of which there is a result
    num_unreadable  those of them without a verdict
    """

    id: str
    owner: str
    state: str
    created: float
    ended: float | None
    wish: Wish
    method: str
    starts: int
    num_images: int | None
    left_out: Mapping[str, int]
    error: str
    num_found: int
    num_unreadable: int


class Jobs:
    """The jobs of one service. Threads may share them. What was done is there after the process was killed."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ValueError, one line, when another service has it, or it is none."""
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except sqlite3.Error as error:
            self._database.close()
            is_taken = "locked" in str(error)
            why = "another process uses it" if is_taken else f"it cannot be used ({error})"
            raise ValueError(f"{path}: {why}; name another folder with --jobs") from error

    def _open(self) -> None:
        """Lock the file for this process, until it ends, and make its tables."""
        for each in _PRAGMAS:
            self._database.execute(f"pragma {each}")
        with self._changing():
            ((version,),) = self._database.execute("pragma user_version")
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"its tables are of version {version}")
            if version == 0:
                for each in _TABLES.split(";"):
                    self._database.execute(each)
                self._database.execute(f"pragma user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Do all of the block or, where it raises, nothing."""
        with self._lock, self._database:
            self._database.execute("begin immediate")
            yield self._database

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # -----------------------------------------------------------------------------------------------------
    # Of clients

    def add(self, id: str, *, owner: str, wish: Wish, names: Sequence[str], now: float) -> None:
        """Add a job that waits, of uploads with these names."""
        with self._changing() as database:
            values = (id, owner, WAITING, now, wish.operating_point, wish.explain)
            columns = "id, owner, state, created, operating_point, explain"
            database.execute(f"insert into jobs ({columns}) values (?, ?, ?, ?, ?, ?)", values)
            uploads = [(id, number, name) for number, name in enumerate(names)]
            database.executemany("insert into uploads values (?, ?, ?)", uploads)

    def get(self, id: str) -> Job | None:
        """Return a job, if there is one of this id."""
        found = self._read(f"{_JOB} where id = ?", id)
        return _job(found[0]) if found else None

    def rows(self, id: str) -> Iterator[dict[str, Any]]:
        """Yield the results of a job, as objects of docs/result.schema.json."""
        number = -1
        query = f"select number, row from results where job = ? and number > ? order by number limit {PAGE}"
        while page := self._read(query, id, number):
            number, _ = page[-1]
            yield from (json.loads(row) for _, row in page)

    def delete(self, id: str) -> None:
        """Delete a job and its results, if it is there."""
        with self._changing() as database:
            database.execute("delete from jobs where id = ?", (id,))

    def num_open(self, owner: str) -> int:
        """Return how many jobs of an owner are not done."""
        query = "select count(*) from jobs where owner = ? and state in (?, ?)"
        ((num,),) = self._read(query, owner, WAITING, RUNNING)
        return int(num)

    def num_in(self, state: str) -> int:
        """Return how many jobs are in a state."""
        ((num,),) = self._read("select count(*) from jobs where state = ?", state)
        return int(num)

    # -----------------------------------------------------------------------------------------------------
    # Of whoever does them

    def next(self) -> Job | None:
        """Return the job that is to be done next: one that was interrupted, or the oldest that waits."""
        found = self._read(f"{_JOB} where state in (?, ?) order by state, created limit 1", RUNNING, WAITING)
        return _job(found[0]) if found else None

    def uploads(self, id: str) -> list[str]:
        """Return the names of the files that were sent with a job, in their order."""
        return [name for (name,) in self._read("select name from uploads where job = ? order by number", id)]

    def begin(self, id: str, *, method: str) -> None:
        """Begin a job, or go on with it. Results that were found by another method are forgotten."""
        with self._changing() as database:
            query = "delete from results where job = (select id from jobs where id = ? and method <> ?)"
            database.execute(query, (id, method))
            change = "update jobs set state = ?, method = ?, starts = starts + 1 where id = ?"
            database.execute(change, (RUNNING, method, id))

    def note_images(self, id: str, num: int, left_out: Mapping[str, int]) -> None:
        """Note how many images a job has, and how many files of its archives are none, by reason."""
        with self._changing() as database:
            values = (num, json.dumps(left_out), id)
            database.execute("update jobs set images = ?, left_out = ? where id = ?", values)

    def add_row(self, id: str, number: int, row: Mapping[str, Any]) -> bool:
        """Add the result of an image, and tell whether the job is still there."""
        values = (number, json.dumps(row), row["path"], row["sha256"], "error" not in row, id)
        with self._changing() as database:
            query = "insert into results select id, ?, ?, ?, ?, ? from jobs where id = ?"
            return database.execute(query, values).rowcount == 1

    def judged(self, id: str) -> dict[str, str]:
        """Return what of a job was judged already: SHA-256 -> path of the first image of this content."""
        query = "select sha256, path from results where job = ? and is_judged order by number desc"
        return dict(self._read(query, id))

    def end(self, id: str, *, now: float, error: str = "") -> None:
        """End a job; with an error, it has failed."""
        with self._changing() as database:
            change = "update jobs set state = ?, ended = ?, error = ? where id = ?"
            database.execute(change, (FAILED if error else DONE, now, error, id))

    def pause(self, id: str) -> None:
        """Note that a job was stopped in order, and goes on later."""
        with self._changing() as database:
            database.execute("update jobs set starts = 0 where id = ?", (id,))

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        return {id for (id,) in self._read("select id from jobs")}

    def older_than(self, moment: float) -> list[str]:
        """Return the ids of the jobs that ended before a moment, or wait since before it."""
        query = "select id from jobs where state <> ? and coalesce(ended, created) < ?"
        return [id for (id,) in self._read(query, RUNNING, moment)]


def _job(values: tuple[Any, ...]) -> Job:
    id, owner, state, created, ended, operating_point, explain, method, starts, images, left_out, *last = values
    wish = Wish(operating_point, bool(explain))
    return Job(id, owner, state, created, ended, wish, method, starts, images, json.loads(left_out), *last)
