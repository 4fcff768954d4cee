"""What each kind of database keeps of jobs: whose a job is, when another service may take it, what is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gapl.serving.batching import Wish
from gapl.serving.database import DatabaseError
from gapl.serving.job_files import JobFiles
from gapl.serving.jobs import Job, Jobs, open_database
from tests.postgres_server import PostgresServer, postgres_server

Open = Callable[[], Jobs]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def open_jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the jobs of a new database, or those of the same one again."""
    url = request.getfixturevalue("server").new_url() if request.param == "postgres" else ""
    with opening() as opened:
        yield lambda: opened(url, tmp_path / "jobs.sqlite")


@pytest.fixture
def share_jobs(server: PostgresServer) -> Iterator[Open]:
    """Opens the jobs of a new database, as another service each time."""
    url = server.new_url()
    with opening() as opened:
        yield lambda: opened(url, Path())


@contextmanager
def opening() -> Iterator[Callable[[str, Path], Jobs]]:
    """Close what was opened when the block ends."""
    with ExitStack() as stack:

        def open(url: str, file: Path) -> Jobs:
            jobs = Jobs(open_database(url, file=file))
            stack.callback(jobs.close)
            return jobs

        yield open


def add(jobs: Jobs, *ids: str, names: tuple[str, ...] = ("x",)) -> None:
    for moment, id in enumerate(ids):
        jobs.add(id, owner="ann", wish=Wish(), names=names, now=moment)


def taken(jobs: Jobs) -> Job:
    job = jobs.take()
    assert job
    return job


def end_leases(jobs: Jobs) -> None:
    with jobs._database.transaction() as execute:
        execute("update jobs set lease = 0")


def row(number: int) -> dict[str, str]:
    return {"path": str(number), "sha256": str(number)}


# ---------------------------------------------------------------------------------------------------------
# Of one service


def test_a_job_that_kills_the_service_is_counted(open_jobs: Open) -> None:
    jobs = open_jobs()
    add(jobs, "a")
    for starts in (1, 2, 3):
        job = taken(jobs)
        assert (job.id, job.starts, job.state) == ("a", starts, "running")
        assert taken(jobs).starts == starts  # the service goes on with what it has
        if not jobs._database.is_shared:
            jobs.close()
            jobs = open_jobs()
        else:
            end_leases(jobs)
            jobs = open_jobs()
    taken(jobs)
    jobs.pause("a")
    assert taken(jobs).starts == 1


def test_rows_of_another_detector_are_forgotten(open_jobs: Open) -> None:
    jobs = open_jobs()
    jobs.add("a", owner="", wish=Wish("fpr1", True), names=["x", "y"], now=1)
    assert taken(jobs).wish == Wish("fpr1", True)
    jobs.begin("a", method="one")
    for number in range(3):
        assert jobs.add_row("a", number, {"path": str(number), "sha256": str(number // 2)})
    assert jobs.judged("a") == {"0": "0", "1": "2"}
    jobs.begin("a", method="one")
    assert [row["path"] for row in jobs.rows("a")] == ["0", "1", "2"]
    jobs.begin("a", method="two")
    assert list(jobs.rows("a")) == []
    jobs.delete("a")
    assert not jobs.add_row("a", 0, row(0))
    assert (jobs.get("a"), jobs.take()) == (None, None)


def test_old_jobs_are_found(open_jobs: Open) -> None:
    jobs = open_jobs()
    add(jobs, *"abcd")
    for id, now, error in (("a", 10, ""), ("b", 4, "why")):
        assert taken(jobs).id == id
        assert jobs.end(id, now=now, error=error)
        assert not jobs.end(id, now=now)
    assert taken(jobs).id == "c"
    assert set(jobs.older_than(5)) == {"b", "d"}
    assert jobs.num_open("ann") == 2
    assert [jobs.num_in(state) for state in ("waiting", "running", "done", "failed")] == [1, 1, 1, 1]
    assert jobs.ids() == set("abcd")


def test_texts_of_strangers_come_back(open_jobs: Open) -> None:
    jobs = open_jobs()
    names = ("nul\0", "\udcff", "\u202ename\n", "'; drop table jobs; --", "%s ? %(a)s")
    add(jobs, "a", names=names)
    taken(jobs)
    jobs.begin("a", method="m")
    jobs.note_images("a", 5, {f"no image ({names[0]})": 1})
    for number, name in enumerate(names):
        assert jobs.add_row("a", number, {"path": name, "sha256": str(number), "error": names[1]})
    assert jobs.end("a", now=1, error=names[1])
    assert tuple(jobs.uploads("a")) == names
    assert tuple(row["path"] for row in jobs.rows("a")) == names
    job = jobs.get("a")
    assert job
    assert (job.error, job.left_out, job.num_unreadable) == (names[1], {"no image (nul\0)": 1}, 5)


def test_rows_of_many_pages_come_in_order(open_jobs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapl.serving.jobs.PAGE", 3)
    jobs = open_jobs()
    add(jobs, "a")
    taken(jobs)
    for number in range(10):
        assert jobs.add_row("a", number, row(number))
    assert [int(each["path"]) for each in jobs.rows("a")] == list(range(10))


def test_what_raises_changes_nothing(open_jobs: Open) -> None:
    jobs = open_jobs()
    add(jobs, "a")
    taken(jobs)
    assert jobs.add_row("a", 0, row(0))
    for _ in range(2):
        with pytest.raises(DatabaseError):
            jobs.add_row("a", 0, row(1))
    assert list(jobs.rows("a")) == [row(0)]


def test_tables_of_another_version_are_refused(open_jobs: Open) -> None:
    jobs = open_jobs()
    with jobs._database.transaction() as execute:
        execute("update about set value = '1' where name = 'version'")
    jobs.close()
    with pytest.raises(ValueError, match="its tables are of version 1, not 2"):
        open_jobs()


def test_a_folder_belongs_to_one_database(open_jobs: Open, tmp_path: Path) -> None:
    jobs, mark = open_jobs(), tmp_path / "folder/queue"
    mark.parent.mkdir()
    jobs.check_folder(mark)
    jobs.check_folder(mark)
    with pytest.raises(ValueError, match=r"is not of .*, whose services share one; name it with --jobs"):
        jobs.check_folder(tmp_path / "queue")
    mark.write_text("0")
    with pytest.raises(ValueError, match="is of another database"):
        jobs.check_folder(mark)


def test_files_of_uploads_that_became_no_job(tmp_path: Path) -> None:
    files, now = JobFiles(tmp_path), time.time()
    old, new = files.make(), files.make()
    os.utime(files.folder(old), (now - 99, now - 99))
    (tmp_path / "mine").mkdir()
    assert files.ids(before=now - 50) == {old}
    assert files.ids(before=now + 50) == {old, new}


# ---------------------------------------------------------------------------------------------------------
# Of several services


def test_each_job_is_taken_once(share_jobs: Open) -> None:
    services = [share_jobs() for _ in range(4)]
    ids = [f"{number:03}" for number in range(40)]
    add(services[0], *ids)

    def do_all(jobs: Jobs) -> list[str]:
        done = []
        while job := jobs.take():
            assert jobs.add_row(job.id, 0, row(0))
            assert jobs.end(job.id, now=1)
            done.append(job.id)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(do_all, services))
    assert sorted(id for each in done for id in each) == ids
    assert all(done)


def test_a_job_is_taken_over_when_its_lease_is_over(share_jobs: Open) -> None:
    one, other = share_jobs(), share_jobs()
    add(one, "a")
    taken(one)
    for number in range(2):
        assert one.add_row("a", number, row(number))
    assert other.take() is None
    end_leases(one)
    assert one.renew("a")
    assert other.take() is None
    end_leases(one)
    job = taken(other)
    assert (job.id, job.starts, job.num_found) == ("a", 2, 2)
    assert not one.renew("a")
    assert not one.add_row("a", 2, row(9))
    one.begin("a", method="another")
    one.note_images("a", 9, {})
    one.pause("a")
    assert not one.end("a", now=1)
    assert one.take() is None
    assert other.add_row("a", 2, row(2))
    assert other.end("a", now=1)
    assert list(one.rows("a")) == [row(0), row(1), row(2)]
    found = one.get("a")
    assert found
    assert (found.state, found.num_images) == ("done", None)


def test_a_paused_job_is_taken_at_once(share_jobs: Open) -> None:
    one, other = share_jobs(), share_jobs()
    add(one, "a", "b")
    assert taken(one).id == "a"
    one.pause("a")
    job = taken(other)
    assert (job.id, job.starts) == ("a", 1)
    assert taken(one).id == "b"


def test_services_that_start_at_once_make_the_tables_once(share_jobs: Open) -> None:
    with ThreadPoolExecutor(4) as pool:
        for jobs in pool.map(lambda _: share_jobs(), range(4)):
            assert jobs.ids() == set()


def test_a_database_that_went_away_is_found_again(share_jobs: Open, server: PostgresServer) -> None:
    jobs = share_jobs()
    add(jobs, "a")
    taken(jobs)
    server.end()
    for _ in range(2):
        with pytest.raises(DatabaseError):
            jobs.num_in("running")
    server.start()
    assert jobs.num_in("running") == 1
    assert taken(jobs).starts == 1  # it is not the job that ended the service
