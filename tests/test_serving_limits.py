"""What the service refuses, and what it finishes: tokens, limits, overload, deadlines, ends."""

from __future__ import annotations

import hashlib
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from gapl import __main__ as command
from gapl.schema import build_spec
from gapl.serving.config import Config
from gapl.serving.limits import Admission
from gapl.serving.problems import KINDS, Problem
from gapl.serving.tokens import Rate, is_loopback
from tests.service_process import PROJECT, ServiceProcess, in_thread, wait_until
from tests.test_serving import check_problem, form

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

SMALL = """
origins = ["https://pages.example"]
[requests]
files = 2
bytes = 100_000
upload_seconds = 2
[tokens.ann]
sha256 = "{ann}"
[tokens.bob]
sha256 = "{bob}"
requests_per_minute = 2
"""
TIGHT = """
[requests]
files = 1
waiting = 3
deadline_seconds = 3
"""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def image(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "a.png", size=(80, 70))


@pytest.fixture(scope="module")
def small(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with tokens that takes little."""
    config = SMALL.format(ann=sha256("ann's"), bob=sha256("bob's"))
    with ServiceProcess(tiny_onnx, tmp_path_factory.mktemp("small"), config=config, token="ann's") as running:
        running.wait_for_event("ready")
        yield running


@pytest.fixture(scope="module")
def tight(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with room for three images."""
    with ServiceProcess(tiny_onnx, tmp_path_factory.mktemp("tight"), "--workers", 1, config=TIGHT) as running:
        running.wait_for_event("ready")
        yield running


def send(service: ServiceProcess, image: Path) -> httpx2.Response:
    with service.client() as client:
        return client.post("/v1/detect", files=form(image))


# ---------------------------------------------------------------------------------------------------------
# Tokens


def test_who_has_no_token_is_refused(small: ServiceProcess, image: Path) -> None:
    for token in ("", "wrong", "ann's "[:-2]):
        with small.client(token) as client:
            posted = ("/v1/detect", "/v1/explore", "/v1/batches")
            for path in (*posted, "/v1/batches/0", "/v1/model", "/metrics"):
                method = "POST" if path in posted else "GET"
                answer = client.request(method, path, params={"unknown": "name"})
                check_problem(answer, "no-token")
                assert answer.headers["www-authenticate"] == "Bearer"
            free = ("/healthz", "/readyz", "/openapi.json", "/", "/page/app.js")
            assert {client.get(path).status_code for path in free} == {200}
    assert send(small, image).status_code == 200
    # The line of a request is written after its answer.
    wait_until(lambda: [line for line in small.log() if line.get("token") == "ann" and line["status"] == 200])
    assert "ann's" not in str(small.log())


def test_a_token_has_its_own_rate(small: ServiceProcess, image: Path) -> None:
    with small.client("bob's") as client:
        for _ in range(2):
            assert client.post("/v1/detect", files=form(image)).status_code == 200
        refused = client.post("/v1/detect", files=form(image))
        check_problem(refused, "too-many-requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert client.get("/v1/model").status_code == 200
    assert send(small, image).status_code == 200


def test_rate() -> None:
    now = 0.0
    rate = Rate(3, clock=lambda: now)
    assert [rate.take() for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    now = 20.0
    assert [rate.take(), rate.take()] == [0, pytest.approx(20)]
    now = 1000.0
    assert [rate.take() for _ in range(4)] == [0, 0, 0, pytest.approx(20)]


def test_origins_that_are_named_may_ask(small: ServiceProcess) -> None:
    with small.client() as client:
        for origin, allowed in (("https://pages.example", True), ("https://other.example", False)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            assert (
                "access-control-allow-origin" in client.options("/v1/detect", headers=headers).headers
            ) == allowed


# ---------------------------------------------------------------------------------------------------------
# Limits


def test_what_is_too_large_or_too_much(small: ServiceProcess, image: Path) -> None:
    with small.client() as client:
        problem = check_problem(client.post("/v1/detect", content=bytes(100_001)), "too-large")
        assert problem["max_bytes"] == 100_000
        pieces = (bytes(60_000) for _ in range(2))  # whose length is not told before
        check_problem(client.post("/v1/detect", content=pieces), "too-large")
        problem = check_problem(client.post("/v1/detect", files=form(image, image, image)), "too-large")
        assert problem["max_files"] == 2
        assert client.post("/v1/detect", files=form(image, image)).status_code == 200


def test_an_upload_that_does_not_come(small: ServiceProcess) -> None:
    with connected(small, "POST", length=9) as slow:
        assert slow.recv(999).startswith(b"HTTP/1.1 408 ")


def connected(service: ServiceProcess, method: str, *, length: int, body: bytes = b"") -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=10)
    token = f"Authorization: Bearer {service.token}\r\n" if service.token else ""
    head = f"{method} /v1/detect HTTP/1.1\r\nHost: {host}:{port}\r\n{token}Content-Length: {length}\r\n\r\n"
    opened.sendall(head.encode() + body)
    return opened


# ---------------------------------------------------------------------------------------------------------
# Overload


def test_overload_deadline_and_recovery(tight: ServiceProcess, image: Path) -> None:
    with tight.decoders_stopped():
        waiting = [in_thread(send, tight, image) for _ in range(3)]
        tight.wait_for_images(3)
        refused = send(tight, image)
        check_problem(refused, "overloaded")
        assert refused.elapsed.total_seconds() < 3
        assert int(refused.headers["retry-after"]) >= 1
        for each in waiting:
            answer = each.result()
            check_problem(answer, "too-late")
            assert answer.headers["retry-after"]
            assert 3 <= answer.elapsed.total_seconds() < 20
        assert tight.metric("gapl_waiting_images") == 0
    assert send(tight, image).status_code == 200


def test_a_client_that_goes_makes_room(tight: ServiceProcess, image: Path) -> None:
    encoded = image.read_bytes()
    with tight.decoders_stopped():
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(connected(tight, "POST", length=len(encoded), body=encoded))
            tight.wait_for_images(3)
        tight.wait_for_images(0)
    assert send(tight, image).status_code == 200
    wait_until(lambda: any(line.get("status") == 499 for line in tight.log()))


def test_images_that_would_wait_too_long_are_not_let_in() -> None:
    admission = Admission(waiting=10, deadline_s=5)
    with admission.admitted(4):
        admission.check(6)
        with pytest.raises(Problem, match="4 images wait already"):
            admission.check(7)
        admission.note_batch(2, 4.0)
        with pytest.raises(Problem) as refusal:
            admission.check()
        assert refusal.value.retry_after_s == 8
    admission.check(10)


# ---------------------------------------------------------------------------------------------------------
# Start and end


def test_the_end_waits_for_what_was_accepted(tiny_onnx: Path, tmp_path: Path, make_image: MakeImage) -> None:
    images = [make_image(tmp_path / f"{i}.png", seed=i, size=(70 + i, 70)) for i in range(8)]
    with ServiceProcess(tiny_onnx, tmp_path / "service", "--batch-size", 4) as service:
        service.wait_for_event("ready")
        expected = [send(service, image).json() for image in images]
        assert len({rows[0]["score"] for rows in expected}) == 8
        with service.decoders_stopped():
            waiting = [in_thread(send, service, image) for image in images]
            service.wait_for_images(8)
            service.tell_to_end()
            wait_until(lambda: refuses_connections(service))
        answers = [each.result() for each in waiting]
        assert [(each.status_code, each.json()) for each in answers] == [(200, rows) for rows in expected]
        assert service.process.wait(20) == 0


def refuses_connections(service: ServiceProcess) -> bool:
    try:
        connected(service, "GET", length=0).close()
    except ConnectionError:
        return True
    return False


def test_it_answers_before_the_detector_is_there(tmp_path: Path) -> None:
    load = "gapl.detector.Detector.load = lambda *_, **__: threading.Event().wait()"
    command = ("-c", f"import threading, gapl.detector, gapl.__main__; {load}; gapl.__main__.main()", "serve")
    with ServiceProcess(tmp_path, tmp_path / "service", command=command) as service, service.client() as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/readyz", "/v1/model"):
            answer = client.get(path)
            check_problem(answer, "not-ready")
            assert answer.headers["retry-after"] == "1"
        assert service.end() == 0


def test_what_is_wrong_is_told_at_the_start(
    tmp_path: Path, run_cli: RunCli, tiny_onnx: Path, small: ServiceProcess
) -> None:
    def refused(*given: object, config: str = "") -> str:
        (tmp_path / "config.toml").write_text(config, encoding="utf-8")
        given = ("serve", "--config", tmp_path / "config.toml", "--jobs", tmp_path / "jobs", *given)
        return run_cli(command._main, *given).only_error()

    assert "--host 0.0.0.0 needs tokens" in refused("--host", "0.0.0.0")
    assert "--port" in refused("--port", "70000")
    assert "unknown field 'request'" in refused(config="[request]")
    assert "waiting is above 0, not 0" in refused(config="[requests]\nwaiting = 0")
    assert "files is at most waiting, which is 3" in refused(config="[requests]\nwaiting = 3")
    assert "sha256 is 64 hexadecimal digits" in refused(config='[tokens.a]\nsha256 = "secret"')
    assert "a token's name has up to 40" in refused(config=f'[tokens."a b"]\nsha256 = "{"0" * 64}"')
    assert "an origin is like https://example.org" in refused(config='origins = ["*"]')
    assert "config.toml: " in refused(config="no toml")
    port = small.url.rpartition(":")[2]
    assert f"cannot listen at 127.0.0.1:{port}" in refused("--port", port)


def test_a_new_token_works_in_a_configuration(run_cli: RunCli) -> None:
    done = run_cli(command._main, "serve", "--new-token", "team.a")
    token, _, config = done.out.partition("\n\n")
    assert tomllib.loads(config) == {"tokens": {"team.a": {"sha256": sha256(token)}}}
    assert "a token's name" in run_cli(command._main, "serve", "--new-token", "a b").only_error()


def test_the_page_has_the_defaults_and_all_problems() -> None:
    page = (PROJECT / "docs/serving.md").read_text(encoding="utf-8")
    (text,) = (each for each in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL) if "[requests]" in each)
    assert build_spec(Config, tomllib.loads(text)) == Config()
    told = {(int(status), kind) for status, kind in re.findall(r"\| (\d{3}) \| (`.*?`) \|", page)}
    named = {(status, name) for status, kinds in told for name in re.findall(r"`([\w-]+)`", kinds)}
    assert named == {
        (status, name) for name, (status, _) in KINDS.items() if name != "client-gone"
    }  # nobody gets it


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("a.b", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
