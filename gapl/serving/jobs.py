"""Jobs: files that were sent to be judged while nobody waits, and what was found of them. A database keeps them.

A service has a job on a lease, which it renews while it does the job. When the lease is over, the service is gone,
and another may take the job: what the former then writes is refused. Nothing else knows of SQL.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapl.serving.batching import Wish
from gapl.serving.database import Database, DatabaseError

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
SCHEMES = ("postgresql://", "postgres://")  # of URLs of a database
STATES = (WAITING, RUNNING, DONE, FAILED)
VERSION = "2"  # of the tables
PAGE = 500  # rows that are in memory at a time
POLL_S = {True: 2.0, False: 60.0}  # from one look for jobs to the next; with other services, and without
# Texts of strangers are JSON in ASCII: databases differ in what else they take.
_TABLES = (
    "create table if not exists about (name text primary key, value text not null)",
    """create table jobs (
        id text primary key, owner text not null, state text not null, created double precision not null,
        ended double precision, operating_point text not null, explain integer not null,
        method text not null default '', starts integer not null default 0, images integer,
        left_out text not null default '{}', error text not null default '""', names text not null,
        holder text not null default '', lease double precision not null default 0
    )""",
    """create table results (
        job text not null references jobs on delete cascade, number integer not null, row text not null,
        path text not null, sha256 text not null, is_judged integer not null, primary key (job, number)
    )""",
)
_JOB = """
select id, owner, state, created, ended, operating_point, explain, method, starts, images, left_out, error,
    (select count(*) from results where job = id), (select count(*) from results where job = id and is_judged = 0)
from jobs
"""


@dataclass(frozen=True)
class Job:
    """A job as it is at a moment.

    owner           the name of the token that it was sent with
    created, ended  seconds since 1970; None: it goes on
    method          how its images are judged, as JSON; empty: it was not begun yet
    starts          how many services took it, and did not stop it in order
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
    """The jobs of a database, as one service sees them. Threads may share them.

    All methods raise DatabaseError when the database does not answer.
    """

    def __init__(self, database: Database, *, lease_s: float = 30) -> None:
        """Make the tables, where there are none. Raises ValueError, one line, when there are others.

        lease_s  for which this service has a job that it does not renew
        """
        self._database, self._lease_s = database, lease_s
        self._me = secrets.token_hex(8)
        self.poll_s = POLL_S[database.is_shared]
        try:
            self._open()
        except DatabaseError as error:
            raise ValueError(f"{error}; jobs cannot be kept there") from error

    def _open(self) -> None:
        with self._database.transaction(exclusive=True) as execute:
            about, *others = _TABLES
            execute(about)
            if not (found := execute("select value from about where name = 'version'").fetchall()):
                for each in others:
                    execute(each)
                execute("insert into about values ('version', ?)", (VERSION,))
            elif found != [(VERSION,)]:
                raise ValueError(f"{self._database.name}: its tables are of version {found[0][0]}, not {VERSION}")
            if not self._database.is_shared:  # whoever had a job is gone
                execute("update jobs set lease = 0")

    def check_folder(self, mark: Path) -> None:
        """Check that the services of this database share the folder of a file, which the first of them makes.

        Raises ValueError, one line, when they do not; OSError when the file cannot be read or made.
        """
        with self._database.transaction(exclusive=True) as execute:
            known = [value for (value,) in execute("select value from about where name = 'folder'").fetchall()]
            found = [mark.read_text(encoding="ascii")] if mark.exists() else []
            if known != found:
                whose = "another database" if found else f"not of {self._database.name}, whose services share one"
                raise ValueError(
                    f"{mark.parent}: this folder is {'of ' * bool(found)}{whose}; name it with --jobs"
                )
            if not known:
                mark.write_text(id := secrets.token_hex(16), encoding="ascii")
                execute("insert into about values ('folder', ?)", (id,))

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._database.transaction() as execute:
            return execute(query, values).fetchall()

    # -----------------------------------------------------------------------------------------------------
    # Of clients

    def add(self, id: str, *, owner: str, wish: Wish, names: Sequence[str], now: float) -> None:
        """Add a job that waits, of uploads with these names."""
        columns = "id, owner, state, created, operating_point, explain, names"
        values = (id, owner, WAITING, now, wish.operating_point, int(wish.explain), json.dumps(names))
        with self._database.transaction() as execute:
            execute(f"insert into jobs ({columns}) values (?, ?, ?, ?, ?, ?, ?)", values)

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
        with self._database.transaction() as execute:
            execute("delete from jobs where id = ?", (id,))

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

    def take(self) -> Job | None:
        """Take the job that is to be done next: one that was interrupted, or the oldest that waits."""
        clock = self._database.clock
        free = f"state = ? or state = ? and (lease < {clock} or holder = ?)"
        chosen = f"select id from jobs where {free} order by state, created limit 1 {self._database.skip}"
        starts = "starts + case when holder = ? then 0 else 1 end"
        changed = f"state = ?, starts = {starts}, holder = ?, lease = {clock} + ?"
        change = f"update jobs set {changed} where id = ({chosen}) returning id"
        values = (RUNNING, self._me, self._me, self._lease_s, WAITING, RUNNING, self._me)
        with self._database.transaction() as execute:
            taken = execute(change, values).fetchall()
            return _job(execute(f"{_JOB} where id = ?", taken[0]).fetchall()[0]) if taken else None

    def renew(self, id: str) -> bool:
        """Renew the lease of a job, and tell whether this service still has it."""
        return self._change(
            id, (f"update jobs set lease = {self._database.clock} + ? where id = ?", self._lease_s, id)
        )

    def uploads(self, id: str) -> list[str]:
        """Return the names of the files that were sent with a job, in their order."""
        return [
            name
            for (names,) in self._read("select names from jobs where id = ?", id)
            for name in json.loads(names)
        ]

    def begin(self, id: str, *, method: str) -> None:
        """Begin a job, or go on with it. Results that were found by another method are forgotten."""
        forget = "delete from results where job = (select id from jobs where id = ? and method <> ?)"
        self._change(id, (forget, id, method), ("update jobs set method = ? where id = ?", method, id))

    def note_images(self, id: str, num: int, left_out: Mapping[str, int]) -> None:
        """Note how many images a job has, and how many files of its archives are none, by reason."""
        self._change(id, ("update jobs set images = ?, left_out = ? where id = ?", num, json.dumps(left_out), id))

    def add_row(self, id: str, number: int, row: Mapping[str, Any]) -> bool:
        """Add the result of an image, and tell whether this service still has the job."""
        values = (id, number, json.dumps(row), json.dumps(row["path"]), row["sha256"], int("error" not in row))
        return self._change(id, ("insert into results values (?, ?, ?, ?, ?, ?)", *values))

    def judged(self, id: str) -> dict[str, str]:
        """Return what of a job was judged already: SHA-256 -> path of the first image of this content."""
        query = "select sha256, path from results where job = ? and is_judged = 1 order by number desc"
        return {sha256: json.loads(path) for sha256, path in self._read(query, id)}

    def end(self, id: str, *, now: float, error: str = "") -> bool:
        """End a job, and tell whether this service still had it; with an error, it has failed."""
        change = "update jobs set state = ?, ended = ?, error = ?, holder = '' where id = ?"
        return self._change(id, (change, FAILED if error else DONE, now, json.dumps(error), id))

    def pause(self, id: str) -> None:
        """Note that a job was stopped in order, and that any service may go on with it."""
        self._change(id, ("update jobs set starts = 0, holder = '', lease = 0 where id = ?", id))

    def _change(self, id: str, *statements: tuple[Any, ...]) -> bool:
        """Execute statements, each a query and its values, where this service has a job; tell whether it has."""
        mine = f"select id from jobs where id = ? and holder = ? {self._database.lock}"
        with self._database.transaction() as execute:
            if not execute(mine, (id, self._me)).fetchall():
                return False
            for query, *values in statements:
                execute(query, values)
        return True

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        return {id for (id,) in self._read("select id from jobs")}

    def older_than(self, moment: float) -> list[str]:
        """Return the ids of the jobs that ended before a moment, or wait since before it."""
        query = "select id from jobs where state <> ? and coalesce(ended, created) < ?"
        return [id for (id,) in self._read(query, RUNNING, moment)]


def open_database(url: str, *, file: Path) -> Database:
    """Return the database at a URL; without one, SQLite in a file.

    Raises ValueError, one line, when it cannot be used.
    """
    if not url:
        from gapl.serving.sqlite import Sqlite

        return Sqlite(file)
    if not url.startswith(SCHEMES):  # what was given may have a password, and is not repeated
        raise ValueError("the URL of jobs is like postgresql://USER:PASSWORD@HOST/NAME")
    from gapl.serving.postgres import Postgres

    return Postgres(url)


def _job(values: tuple[Any, ...]) -> Job:
    id, owner, state, created, ended, point, explain, method, starts, images, left_out, error, *counts = values
    wish = Wish(point, bool(explain))
    left, why = json.loads(left_out), json.loads(error)
    return Job(id, owner, state, created, ended, wish, method, starts, images, left, why, *counts)
