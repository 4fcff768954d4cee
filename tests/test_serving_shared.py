"""Several services with one queue of jobs, in PostgreSQL: what one leaves, another finishes."""

from __future__ import annotations

import signal
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psycopg
import pytest

from tests.postgres_server import PostgresServer, postgres_server
from tests.service_process import ServiceProcess, wait_until
from tests.test_serving import check_problem, form
from tests.test_serving_jobs import SHORT, begin, rows

if TYPE_CHECKING:
    from tests.conftest import MakeImage

IMAGES = 20  # of a job


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_url()


@pytest.fixture
def two(tiny_onnx: Path, tmp_path: Path, url: str) -> Iterator[list[ServiceProcess]]:
    """Two services with one folder and one database."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(ServiceProcess(tiny_onnx, tmp_path / "service", "--jobs-url", url, config=SHORT))
            for _ in range(2)
        ]
        for each in services:
            each.wait_for_event("ready")
        yield services


@pytest.fixture(scope="module")
def archive(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i in range(IMAGES):
            archive.write(make_image(folder / f"{i}.png", seed=i, size=(200, 200)), f"{i}.png")
    return folder / "a.zip"


def found(client: httpx2.Client, path: str) -> int:
    return int(client.get(path).json()["found"])


def test_jobs_of_a_killed_service_are_finished_by_the_other(
    two: list[ServiceProcess], archive: Path, url: str
) -> None:
    one, other = two
    with one.client() as client:
        paths = [begin(client, files=form(archive, field="file")) for _ in range(6)]
        wait_until(lambda: any(0 < found(client, path) < IMAGES for path in paths))
    one.process.kill()
    with other.client() as client:
        results = [rows(client, path) for path in paths]
    names = [f"a.zip/{i}.png" for i in range(IMAGES)]
    assert [[row["path"] for row in each] for each in results] == [names] * len(paths)
    assert len({str(each) for each in results}) == 1
    with psycopg.connect(url) as connection:
        kept = connection.execute("select count(*), max(number) from results group by job").fetchall()
    assert kept == [(IMAGES, IMAGES - 1)] * len(paths)
    wait_until(lambda: not [each for each in other.jobs.iterdir() if each.is_dir()])


def test_a_service_that_wakes_up_too_late_writes_nothing(two: list[ServiceProcess], archive: Path) -> None:
    one, other = two
    other.process.send_signal(signal.SIGSTOP)
    with one.client() as client:
        path = begin(client, files=form(archive, field="file"))
        wait_until(lambda: 0 < found(client, path) < IMAGES)
    one.process.send_signal(signal.SIGSTOP)
    other.process.send_signal(signal.SIGCONT)
    with other.client() as client:
        expected = rows(client, path)
        one.process.send_signal(signal.SIGCONT)
        with one.client() as late:
            assert rows(late, path) == expected
            assert rows(late, begin(late, files=form(archive, field="file"))) == expected

    def done() -> list[str]:
        return [line["job"] for each in two for line in each.log() if line["event"] == "job"]

    wait_until(lambda: len(done()) >= 2)  # a job can be read before the log tells of it
    assert len(done()) == len(set(done())) == 2


def test_verdicts_are_given_without_the_database(
    two: list[ServiceProcess], archive: Path, server: PostgresServer
) -> None:
    with two[0].client() as client:
        path = begin(client, files=form(archive, field="file"))
        server.end()
        check_problem(client.get(path), "no-database")
        refused = client.post("/v1/batches", files=form(archive, field="file"))
        check_problem(refused, "no-database")
        assert refused.headers["retry-after"] == "10"
        image = zipfile.ZipFile(archive).read("0.png")
        assert client.post("/v1/detect", content=image).status_code == 200
        assert client.get("/readyz").status_code == 200
        assert "gapl_jobs_waiting NaN" in client.get("/metrics").text
        server.start()
        assert len(rows(client, path)) == IMAGES
