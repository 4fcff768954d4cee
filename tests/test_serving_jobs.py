"""Jobs of the service: archives and many files, which go on after the service was killed."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import jsonschema
import pytest

from gapl import __main__ as command
from gapl.results import COLUMNS
from tests.postgres_server import PostgresServer, postgres_server
from tests.service_process import ServiceProcess, wait_until
from tests.test_serving import SCHEMA, check_problem, form
from tests.test_serving_limits import sha256

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

CONFIG = """
[batches]
files = 5
images = 6
bytes = 1_000_000
waiting = 2
[tokens.ann]
sha256 = "{ann}"
[tokens.bob]
sha256 = "{bob}"
"""
SHORT = """
[batches]
lease_seconds = 3
"""
# Services that delete a job when the first page of its results is read, or whose disk is full.
DELETING = """
import gapl.__main__
from gapl.serving import jobs

read = jobs.Jobs._read

def read_and_delete(self, query, *values):
    found = read(self, query, *values)
    if query.startswith("select number"):
        self.delete(values[0])
    return found

jobs.PAGE, jobs.Jobs._read = 2, read_and_delete
gapl.__main__.main()
"""
FULL = """
import errno, gapl.__main__
from gapl.serving import job_files

def make(self):
    raise OSError(errno.ENOSPC, "No space left on device")

job_files.JobFiles.make = make
gapl.__main__.main()
"""
Row = dict[str, Any]
Start = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def images(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    return [make_image(folder / f"{i}.png", seed=i, size=(80 + i, 70)) for i in range(4)]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def start(request: pytest.FixtureRequest, tiny_onnx: Path) -> Start:
    """Starts services whose jobs are in a file, or in a database for each folder."""
    urls: dict[Path, str] = {}

    def start(folder: Path, **given: Any) -> ServiceProcess:
        if request.param == "postgres" and folder not in urls:
            urls[folder] = request.getfixturevalue("server").new_url()
        return ServiceProcess(tiny_onnx, folder, "--jobs-url", urls.get(folder, ""), **given)

    return start


@pytest.fixture(scope="module")
def service(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    config = CONFIG.format(ann=sha256("ann's"), bob=sha256("bob's"))
    with start(tmp_path_factory.mktemp("service"), config=config, token="ann's") as running:
        running.wait_for_event("ready")
        yield running


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


def begin(client: httpx2.Client, **given: Any) -> str:
    """Begin a job and return its path."""
    answer = client.post("/v1/batches", **given)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/batches/{answer.json()['id']}"
    return str(answer.headers["location"])


def wait_for_end(client: httpx2.Client, path: str) -> Row:
    job: Row = wait_until(lambda: (it := client.get(path).json())["state"] in ("done", "failed") and it)
    return job


def rows(client: httpx2.Client, path: str) -> list[Row]:
    assert wait_for_end(client, path)["state"] == "done"
    answer = client.get(f"{path}/results")
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]


def rows_of_cli(run_cli: RunCli, model: Path, archive: Path, *options: str) -> list[Row]:
    """What the command line says of an archive, called by its name."""
    done = run_cli(command._main, "--model_path", model, "--json", archive, *options)

    def short(path: str) -> str:
        return path.replace(str(archive), archive.name)

    found = (json.loads(line) for line in done.out.splitlines())
    return [row | {name: short(row[name]) for name in ("path", "duplicate_of")} for row in found]


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def archive(images: list[Path], tmp_path: Path) -> Path:
    """Images, one of them twice, a broken one, and what is none."""
    encoded = [image.read_bytes() for image in images]
    members = {"in/a.png": encoded[0], "b.png": encoded[1], "broken.png": encoded[2][:80], "again.png": encoded[0]}
    return make_zip(tmp_path / "some.zip", members | {"notes.txt": b"text", "inner.zip": b"PK\3\4"})


# ---------------------------------------------------------------------------------------------------------
# Results


@pytest.mark.parametrize("explain", [False, True])
def test_an_archive_gives_the_rows_of_the_command_line(
    client: httpx2.Client, archive: Path, tiny_onnx: Path, run_cli: RunCli, explain: bool
) -> None:
    query = {"explain": str(explain), "operating_point": "fpr1"}
    path = begin(client, params=query, files=form(archive, field="file"))
    found = rows(client, path)
    options = ("--operating-point", "fpr1", *(["--explain"] if explain else []))
    assert found == rows_of_cli(run_cli, tiny_onnx, archive, *options)
    jsonschema.validate(found, SCHEMA)
    assert found[3]["duplicate_of"] == "some.zip/in/a.png"
    job = client.get(path).json()
    assert (job["images"], job["found"], job["unreadable"]) == (4, 4, 1)
    assert job["left_out"] == {"no image (.txt)": 1, "an archive inside an archive": 1}
    answer = client.get(f"{path}/results", params={"format": "csv"})
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(table[0]) == list(COLUMNS)
    assert [row["path"] for row in table] == [row["path"] for row in found]
    assert [row["score"] for row in table] == [str(row.get("score", "")) for row in found]


def test_several_files_of_all_kinds(client: httpx2.Client, images: list[Path], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "more.tgz", "w:gz") as tar:
        tar.add(images[1], "b.png")
    (tmp_path / "list.csv").write_text("filename\n/etc/passwd\n")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    asked = [images[0], tmp_path / "more.tgz", tmp_path / "list.csv", tmp_path / "bad.zip", images[0]]
    found = rows(client, begin(client, files=form(*asked, field="file")))
    assert [row["path"] for row in found] == ["0.png", "more.tgz/b.png", "list.csv", "bad.zip", "0.png (2)"]
    assert ["error" in row for row in found] == [False, False, True, True, False]
    no_image = make_zip(tmp_path / "no.zip", {"a.txt": b"text"})
    _, empty = rows(client, begin(client, files=form(images[0], no_image, field="file")))
    assert (empty["path"], empty["error"]) == ("no.zip", "no images in it")
    assert found[2]["error"].startswith("of the kind list, which is not read here")
    assert found[3]["error"].startswith("damaged, or no zip archive")
    assert found[4]["duplicate_of"] == "0.png"


def test_files_are_deleted_when_the_job_is_done(
    client: httpx2.Client, service: ServiceProcess, images: list[Path]
) -> None:
    path = begin(client, content=images[0].read_bytes())
    assert [row["path"] for row in rows(client, path)] == ["image"]
    wait_until(lambda: not [each for each in service.jobs.iterdir() if each.is_dir()])
    assert client.delete(path).status_code == 204
    check_problem(client.get(path), "not-found")
    check_problem(client.get(f"{path}/results"), "not-found")


def test_a_job_that_cannot_be_done(client: httpx2.Client, tmp_path: Path, images: list[Path]) -> None:
    def failed(path: Path) -> str:
        job = begin(client, files=form(path, field="file"))
        found = wait_for_end(client, job)
        assert found["state"] == "failed"
        assert check_problem(client.get(f"{job}/results"), "not-done")["state"] == "failed"
        client.delete(job)
        return str(found["error"])

    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    assert failed(tmp_path / "bad.zip").startswith("bad.zip: damaged, or no zip archive")
    assert failed(make_zip(tmp_path / "no.zip", {"a.txt": b"text"})) == "no image files; found 1 x no image (.txt)"
    many = make_zip(tmp_path / "many.zip", {f"{i}.png": images[0].read_bytes() for i in range(7)})
    assert failed(many) == "7 images; a job has at most 6"


def test_results_that_are_deleted_while_they_are_sent_are_broken_off(
    start: Start, tmp_path: Path, images: list[Path]
) -> None:
    with start(tmp_path, command=("-c", DELETING, "serve")) as service, service.client() as client:
        service.wait_for_event("ready")
        for format in ("jsonl", "csv"):
            path = begin(client, files=form(*images, field="file"))
            assert wait_for_end(client, path)["found"] == 4
            with pytest.raises(httpx2.RemoteProtocolError):
                client.get(f"{path}/results", params={"format": format})
            check_problem(client.get(path), "not-found")


def test_a_full_disk_is_told(tiny_onnx: Path, tmp_path: Path) -> None:
    with ServiceProcess(tiny_onnx, tmp_path, command=("-c", FULL, "serve")) as service, service.client() as client:
        service.wait_for_event("ready")
        check_problem(client.post("/v1/batches", content=b"x"), "no-space")


# ---------------------------------------------------------------------------------------------------------
# Who may have what


def test_jobs_belong_to_their_token(client: httpx2.Client, service: ServiceProcess, images: list[Path]) -> None:
    path = begin(client, content=images[0].read_bytes())
    with service.client("bob's") as other:
        check_problem(other.get(path), "not-found")
        check_problem(other.delete(path), "not-found")
    wait_for_end(client, path)


@pytest.mark.parametrize("id", ["0" * 32, "%00", "%FF", "..%2Fmine", "a" * 9999])
def test_ids_of_no_job(client: httpx2.Client, id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/results")):
        answer = client.request(method, f"/v1/batches/{id}{path}")
        assert answer.status_code == 404
        assert answer.json()["status"] == 404


def test_what_is_too_much(client: httpx2.Client, service: ServiceProcess, images: list[Path]) -> None:
    check_problem(client.post("/v1/batches", content=bytes(1_000_001)), "too-large")
    check_problem(client.post("/v1/batches", files=form(*images[:3], *images[:3], field="file")), "too-large")
    check_problem(client.post("/v1/batches", files=form(images[0])), "bad-request")
    wait_until(lambda: not [each for each in service.jobs.iterdir() if each.is_dir()])


def test_a_folder_of_others_is_refused(service: ServiceProcess, run_cli: RunCli) -> None:
    taken = "another process uses it; name another folder with --jobs"
    foreign = "this folder is of another database; name it with --jobs"
    done = run_cli(command._main, "serve", "--port", 0, "--jobs", service.jobs)
    assert done.only_error().endswith((taken, foreign))


# ---------------------------------------------------------------------------------------------------------
# Kills


def test_a_job_goes_on_after_a_kill(
    start: Start, tiny_onnx: Path, tmp_path: Path, make_image: MakeImage, run_cli: RunCli
) -> None:
    encoded = [make_image(tmp_path / f"{i}.png", seed=i, size=(300, 300)).read_bytes() for i in range(6)]
    archive = make_zip(tmp_path / "a.zip", {f"{i}.png": encoded[i % 6] for i in range(60)})
    folder = tmp_path / "service"
    with start(folder, config=SHORT) as service, service.client() as client:
        service.wait_for_event("ready")
        path = begin(client, files=form(archive, field="file"))
        job = wait_until(lambda: (it := client.get(path).json())["found"] >= 8 and it)
        assert job["found"] < 60
        check_problem(client.get(f"{path}/results"), "not-done")
        for name, age_s in (("0" * 32, 9999), ("1" * 32, 0), ("mine", 9999)):
            (service.jobs / name).mkdir()
            os.utime(service.jobs / name, (time.time() - age_s,) * 2)
    with start(folder, config=SHORT) as service, service.client() as client:
        service.wait_for_event("ready")
        found = rows(client, path)
        assert found == rows_of_cli(run_cli, tiny_onnx, archive)
        assert found[59]["duplicate_of"] == "a.zip/5.png"
        wait_until(lambda: {each.name for each in service.jobs.iterdir() if each.is_dir()} == {"1" * 32, "mine"})


def test_a_job_goes_on_after_an_orderly_end(start: Start, tmp_path: Path, make_image: MakeImage) -> None:
    encoded = make_image(tmp_path / "a.png", size=(300, 300)).read_bytes()
    archive = make_zip(tmp_path / "a.zip", {f"{i}.png": encoded for i in range(60)})
    folder = tmp_path / "service"
    with start(folder) as service, service.client() as client:
        service.wait_for_event("ready")
        path = begin(client, files=form(archive, field="file"))
        wait_until(lambda: client.get(path).json()["found"] >= 4)
        assert service.end() == 0
    with start(folder) as service, service.client() as client:  # at once, although no lease is over
        service.wait_for_event("ready")
        assert len(rows(client, path)) == 60
