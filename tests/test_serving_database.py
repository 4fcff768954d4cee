"""Databases of jobs that cannot be used: what is said of them, and that no password is in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gapl.serving.jobs import open_database


def test_urls_that_are_none_are_not_repeated(tmp_path: Path) -> None:
    for url in (
        "mysql://ann:secret@host/name",
        "postgresql://ann:secret@[host/name",
        "postgresql://h/n?secret=1",
    ):
        with pytest.raises(ValueError, match=r"^the URL of jobs is like postgresql://USER:PASSWORD@HOST/NAME$"):
            open_database(url, file=tmp_path / "none")


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the database of jobs cannot be reached: .*No such file") as refusal:
        open_database(f"postgresql://ann:secret@/name?host={tmp_path}", file=tmp_path / "none")
    assert "secret" not in str(refusal.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"jobs in PostgreSQL need psycopg: pip install 'psycopg\[binary\]'"):
        open_database("postgresql://host/name", file=tmp_path / "none")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match="it cannot be used"):
        open_database("", file=tmp_path / "jobs.sqlite")
