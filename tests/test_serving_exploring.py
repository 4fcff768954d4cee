"""What `/v1/explore` answers: maps and re-saves of one image at a time, behind the images of other requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

from gapl import Detector
from gapl.decode import decode_image
from gapl.detector import Seen
from gapl.engine import Outcome
from gapl.explain.exploring import explore
from gapl.serving.batching import Line, Wish
from gapl.verdict import Verdict
from tests.service_process import ServiceProcess, in_thread, wait_until, without
from tests.test_serving import SCHEMA, check_problem, form

if TYPE_CHECKING:
    from tests.conftest import MakeImage

SLOW = """
import time, gapl.__main__, gapl.serving.exploring
gapl.serving.exploring.explore = lambda detector, image: time.sleep(9) or {}
gapl.__main__.main()
"""
TIGHT = """
[explorations]
waiting = 1
deadline_seconds = 3
"""


@pytest.fixture(scope="module")
def image(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "a.png", size=(80, 70))


@pytest.fixture(scope="module")
def service(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tiny_onnx, tmp_path_factory.mktemp("service")) as running:
        running.wait_for_event("ready")
        yield running
        assert running.end() == 0


def test_it_finds_what_exploring_does(service: ServiceProcess, image: Path, tiny_onnx: Path) -> None:
    with service.client() as client:
        (row,) = client.post("/v1/explore", files=form(image)).json()
        (judged,) = client.post("/v1/detect", params={"explain": "true"}, files=form(image)).json()
        (other,) = client.post("/v1/explore", params={"operating_point": "fpr1"}, files=form(image)).json()
    jsonschema.validate([row], SCHEMA)
    explanation = row["explanation"]
    expected = explore(Detector.load(tiny_onnx), decode_image(image.read_bytes()))
    assert {name: explanation[name] for name in expected} == expected
    assert without(row, "explanation") == without(judged, "explanation")
    assert without(explanation, "in_words", *expected) == without(judged["explanation"], "in_words")
    assert explanation["in_words"][-1].startswith("The verdict holds in ")
    assert other["operating_point"] == "fpr1"


def test_one_image_is_explored(service: ServiceProcess, image: Path) -> None:
    with service.client() as client:
        assert check_problem(client.post("/v1/explore", files=form(image, image)), "too-large")["max_files"] == 1
        check_problem(client.post("/v1/explore", content=b"text"), "unreadable")
        check_problem(client.post("/v1/explore", params={"operating_point": "x"}, content=b"x"), "bad-request")
        assert client.get("/v1/model").json()["limits"] == {
            "files": 16,
            "bytes": 64 << 20,
            "megapixels": 100,
            "explored_megapixels": 50,
        }


def test_it_has_limits_of_its_own(tiny_onnx: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tight")
    with ServiceProcess(tiny_onnx, folder, config=TIGHT, command=("-c", SLOW, "serve")) as service:
        service.wait_for_event("ready")
        with service.client() as client:
            waiting = in_thread(client.post, "/v1/explore", files=form(image))
            wait_until(lambda: service.metric("gapl_waiting_explorations"))
            check_problem(client.post("/v1/explore", files=form(image)), "overloaded")
            assert client.post("/v1/detect", files=form(image)).status_code == 200
            answer = waiting.result()
            check_problem(answer, "too-late")
            assert answer.headers["retry-after"]
            assert service.metric("gapl_waiting_explorations") == 0


def test_large_images_are_not_explored(
    tiny_onnx: Path, make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("large")
    large = make_image(folder / "large.png", size=(90, 70))
    config = "[explorations]\nmegapixels = 0.006\n"
    with ServiceProcess(tiny_onnx, folder, config=config) as service, service.client() as client:
        service.wait_for_event("ready")
        refused = check_problem(client.post("/v1/explore", files=form(large)), "unreadable")
        assert refused["detail"].startswith("too many pixels")
        assert client.post("/v1/detect", files=form(large)).status_code == 200


# ---------------------------------------------------------------------------------------------------------
# The line


class Stub:
    """A detector that waits until it may go on, and notes what it was given."""

    def __init__(self) -> None:
        self.info = SimpleNamespace(calibration=None)
        self.may_go_on = threading.Event()
        self.done: list[str] = []

    def judge(self, seen: list[Seen]) -> list[Verdict]:
        self.may_go_on.wait()
        self.done.append("image")
        return [Verdict(0.5, 0.0, "fake", 0.5, 0.5) for _ in seen]

    def compute(self, seen: list[Seen]) -> Outcome:
        self.done.append("passes")
        return Outcome(np.zeros(len(seen)))


def test_requests_go_first_and_jobs_last() -> None:
    stub: Any = Stub()
    line = Line(stub, batch_size=1, note_batch=lambda *_: None)
    seen = Seen(np.zeros((3, 2, 2), np.float32), ())
    first = line.join(seen, Wish())
    job = line.join(seen, Wish(), is_job=True)
    passes: Future[Outcome] = in_thread(line.compute, np.zeros((5, 3, 2, 2), np.float32))
    wait_until(lambda: line._passes)
    second = line.join(seen, Wish())
    stub.may_go_on.set()
    for each in (first, second, job, passes):
        each.result()
    line.close()
    assert stub.done == ["image", "image", "passes", "image"]
