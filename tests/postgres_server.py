"""A PostgreSQL of its own, for tests: in a temporary folder, at a socket there, without a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.service_process import wait_until

USER = "nobody"  # PostgreSQL does not run as root
SETTINGS = ("listen_addresses=", "fsync=off", "shared_buffers=16MB", "max_connections=40")


class PostgresServer:
    """A server in a folder. It can be ended and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._user: dict[str, Any] = {"user": USER, "group": "nogroup", "extra_groups": []} if is_root() else {}
        self._url = f"postgresql://gapl@/postgres?host={folder}"
        self._num_schemas = 0
        self._process: subprocess.Popen[bytes] | None = None
        options = ("--username", "gapl", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C")
        self._call("initdb", "--pgdata", folder / "data", *options).wait()
        self.start()

    def _call(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self._folder / f"{program}.log").open("ab") as log:
            line = [str(each) for each in (self._programs / program, *arguments)]
            return subprocess.Popen(line, stdout=log, stderr=log, cwd=self._folder, **self._user)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [each for setting in SETTINGS for each in ("-c", setting)]
        self._process = self._call("postgres", "-D", self._folder / "data", "-k", self._folder, *settings)
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self._folder / "postgres.log").read_text(encoding="utf-8")
        try:
            psycopg.connect(self._url).close()
        except psycopg.OperationalError:
            return False
        return True

    def end(self) -> None:
        """End it at once; clients lose their connections."""
        assert self._process
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def new_url(self) -> str:
        """Return the URL of a place without tables: a schema of its own, which is made sooner than a database."""
        self._num_schemas += 1
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"create schema jobs{self._num_schemas}")
        return f"{self._url}&options=-csearch_path%3Djobs{self._num_schemas}"


def is_root() -> bool:
    return os.geteuid() == 0


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres; Debian keeps them outside of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server while the block lasts; the test is skipped where PostgreSQL is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("needs the programs of PostgreSQL: initdb was not found")
    with tempfile.TemporaryDirectory(prefix="gapl-postgres-") as folder:
        if is_root():
            shutil.chown(folder, USER)
        server = PostgresServer(programs, Path(folder))
        yield server
        server.end()
