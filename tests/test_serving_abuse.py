"""Clients that behave badly: hostile files, headers and bodies that do not come. Others are answered."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import jsonschema
import pytest

from gapl.serving.limits import Gate
from gapl.serving.problems import Problem
from tests.service_process import ServiceProcess, wait_until
from tests.test_serving import SCHEMA, form
from timing.hostile_files import hostile_files

if TYPE_CHECKING:
    from tests.conftest import MakeImage

MOST = 20  # connections
REQUEST_S = 1.0  # for the headers of a request
# A service that is as patient as a test.
PATCH = f"import gapl.serving.connections as one, gapl.serving.uploads as two; one.MOST = {MOST}; " + (
    f"one.REQUEST_S = {REQUEST_S}; two.PATIENCE_S = 1.0; import gapl.__main__; gapl.__main__.main()"
)
CONFIG = """
[requests]
bytes = 1_000_000
memory_bytes = 1_000_000
"""


@pytest.fixture(scope="module")
def image(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "a.png", size=(80, 70))


@pytest.fixture(scope="module")
def service(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder, command = tmp_path_factory.mktemp("service"), ("-c", PATCH, "serve")
    with ServiceProcess(tiny_onnx, folder, config=CONFIG, command=command) as running:
        running.wait_for_event("ready")
        yield running
        assert not [line for line in running.log() if line["event"] == "failed"]


def connect(service: ServiceProcess, *sent: bytes) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=60)
    opened.sendall(b"".join(sent))
    return opened


def head(service: ServiceProcess, *lines: str) -> bytes:
    host = service.url.removeprefix("http://")
    return "\r\n".join(["POST /v1/detect HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def ask(service: ServiceProcess, image: Path) -> httpx2.Response:
    with service.client() as client:
        return client.post("/v1/detect", files=form(image))


def is_closed(connection: socket.socket) -> bool:
    """Wait for what comes, and tell whether nothing does."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# ---------------------------------------------------------------------------------------------------------
# Files


def test_each_hostile_file_has_an_outcome(tiny_onnx: Path, tmp_path: Path, image: Path) -> None:
    files = hostile_files(with_large=False)
    names = list(files)
    with ServiceProcess(tiny_onnx, tmp_path / "service") as service, service.client() as client:
        service.wait_for_event("ready")
        for start in range(0, len(names), 16):
            some = names[start : start + 16]
            answer = client.post("/v1/detect", files=[("image", (name, files[name])) for name in some])
            rows = answer.json() if answer.status_code == 200 else answer.json()["results"]
            assert [row["path"] for row in rows] == some
            jsonschema.validate(rows, SCHEMA)
        assert client.post("/v1/detect", files=form(image)).status_code == 200
        assert service.end() == 0
        assert not [line for line in service.log() if line["event"] == "failed"]


# ---------------------------------------------------------------------------------------------------------
# Connections


def test_connections_that_say_nothing_make_room(service: ServiceProcess, image: Path) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(service)) for _ in range(2 * MOST)]
        assert ask(service, image).status_code == 200
        assert all(is_closed(each) for each in silent[: MOST // 2])


@pytest.mark.parametrize("sent", [b"", b"POST /v1/det", b"POST /v1/detect HTTP/1.1\r\nHost: "])
def test_headers_that_do_not_come(service: ServiceProcess, image: Path, sent: bytes) -> None:
    with connect(service, sent) as slow:
        started = time.monotonic()
        assert ask(service, image).status_code == 200
        assert is_closed(slow)
        assert time.monotonic() - started >= REQUEST_S / 2


def test_a_body_without_end_after_the_answer(service: ServiceProcess, image: Path) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with connect(service, head(service, "Transfer-Encoding: chunked")) as endless:

        def is_over() -> bool:
            try:
                endless.sendall(piece)
            except ConnectionError:
                return True
            return False

        wait_until(is_over)
    assert ask(service, image).status_code == 200


def test_uploads_take_no_room_before_they_come(service: ServiceProcess, image: Path) -> None:
    chunked = head(service, "Transfer-Encoding: chunked"), b"1\r\nx\r\n"
    promised = head(service, "Content-Length: 900000"), b"x"
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(service, *sent)) for sent in (chunked, promised) * 2]
        assert ask(service, image).status_code == 200
        for each in slow:
            assert each.recv(999).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_shorter_than_its_length(service: ServiceProcess, image: Path) -> None:
    with connect(service, head(service, "Content-Length: 1000"), b"x") as lying:
        lying.shutdown(socket.SHUT_WR)
        assert is_closed(lying)
    with connect(service, head(service, "Content-Length: 1"), b"xGET / HTTP/1.1\r\n\r\n") as lying:
        assert lying.recv(999).startswith(b"HTTP/1.1 422 ")
    assert ask(service, image).status_code == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Content-Length: 99999999999",), 413),
        (("Content-Length: -1",), 400),
        (("Content-Length: 3", "Content-Length: 4"), 400),
        ((f"X-Long: {'x' * 100_000}",), 400),
    ],
)
def test_headers_that_lie(service: ServiceProcess, image: Path, lines: tuple[str, ...], status: int) -> None:
    with connect(service, head(service, *lines)) as lying:
        assert lying.recv(999).startswith(f"HTTP/1.1 {status} ".encode())
    assert ask(service, image).status_code == 200


def test_a_request_that_comes_at_the_end_is_answered(tiny_onnx: Path, tmp_path: Path, image: Path) -> None:
    encoded = image.read_bytes()
    with ServiceProcess(tiny_onnx, tmp_path / "service") as service:
        service.wait_for_event("ready")
        sent = head(service, f"Content-Length: {len(encoded)}") + encoded
        with connect(service, sent[:50]) as late:
            time.sleep(0.2)
            service.tell_to_end()
            time.sleep(0.3)
            late.sendall(sent[50:])
            assert late.recv(999).startswith(b"HTTP/1.1 200 ")
        assert service.process.wait(60) == 0


def test_an_answer_does_not_wait_for_the_client_to_confirm_its_headers(service: ServiceProcess) -> None:
    with service.client() as client:

        def median_s() -> float:
            return statistics.median(client.get("/healthz").elapsed.total_seconds() for _ in range(20))

        wait_until(lambda: median_s() < 0.03)  # a confirmation takes 0.04 s


# ---------------------------------------------------------------------------------------------------------
# Room


def test_room_is_taken_as_bytes_come() -> None:
    gate = Gate(requests=2, num_bytes=10)
    with gate.entered(10) as one, gate.entered(10) as other:  # who only promises takes nothing
        one(4)
        other(5)
        other(6)
        with pytest.raises(Problem):
            one(5)
        with pytest.raises(Problem), gate.entered(0):
            pass
    with gate.entered(10) as grow:
        grow(1)
        with pytest.raises(Problem), gate.entered(10):
            pass
    with gate.entered(10):
        pass
