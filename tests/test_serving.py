"""What the service answers: verdicts, problems, what it says of itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import jsonschema
import openapi_spec_validator
import pytest

from gapl import __main__ as command
from gapl.files.checksum import sha256_of
from gapl.serving import openapi
from gapl.serving.problems import KINDS
from tests.service_process import PROJECT, ServiceProcess, in_thread, wait_until, without

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

HANDED_ON_S = 0.3  # in which an image that was let in is with a decoder
SCHEMA = json.loads((PROJECT / "docs/result.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def service(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tiny_onnx, tmp_path_factory.mktemp("service")) as running:
        running.wait_for_event("ready")
        yield running
        assert running.end() == 0
        assert running.log()[-1]["event"] == "ended"


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def images(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    return [make_image(folder / f"{i}.png", seed=i, size=(80 + i, 70)) for i in range(3)]


def form(*paths: Path, field: str = "image") -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (path.name, path.read_bytes())) for path in paths]


def rows_of_cli(run_cli: RunCli, model: Path, *given: object) -> list[dict[str, Any]]:
    """What the command line says of images, called by their names."""
    done = run_cli(command._main, "--model_path", model, "--json", *given)
    return [row | {"path": Path(row["path"]).name} for row in map(json.loads, done.out.splitlines())]


def check_problem(answer: httpx2.Response, kind: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    status, title = KINDS[kind]
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["type"]) == (status, f"urn:gapl:problem:{kind}"), problem
    assert (problem["status"], problem["title"]) == (status, title)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


# ---------------------------------------------------------------------------------------------------------
# Verdicts


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, ()),
        ({"explain": "true"}, ("--explain",)),
        ({"operating_point": "fpr1"}, ("--operating-point", "fpr1")),
        ({"operating_point": "balanced", "explain": "1"}, ("--operating-point", "balanced", "--explain")),
    ],
)
def test_rows_are_those_of_the_command_line(
    client: httpx2.Client,
    images: list[Path],
    tiny_onnx: Path,
    run_cli: RunCli,
    query: dict[str, str],
    options: tuple[str, ...],
) -> None:
    broken = images[0].with_name("broken.png")
    broken.write_bytes(images[0].read_bytes()[:100])
    asked = [*images, broken]
    expected = rows_of_cli(run_cli, tiny_onnx, *asked, *options)
    answer = client.post("/v1/detect", params=query, files=form(*asked))
    assert answer.status_code == 200, answer.text
    assert answer.json() == expected
    jsonschema.validate(answer.json(), SCHEMA)
    assert expected[3]["error"].startswith("damaged image")


def test_an_image_may_be_the_body(client: httpx2.Client, images: list[Path]) -> None:
    (whole,) = client.post("/v1/detect", content=images[0].read_bytes()).json()
    (part,) = client.post("/v1/detect", files=form(images[0])).json()
    assert whole["path"] == "image"
    assert without(whole, "path") == without(part, "path")
    assert whole["sha256"] == sha256_of(images[0])


def test_torch_says_the_same(client: httpx2.Client, images: list[Path], tiny_onnx: Path, tmp_path: Path) -> None:
    options = ("--engine", "torch", "--device", "cpu", "--allow-tiny")
    source = tiny_onnx.parent.with_name("tiny.safetensors")
    with ServiceProcess(source, tmp_path, *options, command=("serve.py",)) as other, other.client() as asked:
        other.wait_for_event("ready")
        found, expected = (each.post("/v1/detect", files=form(*images)).json() for each in (asked, client))
    assert [row["model"] for row in found] == [str(source)] * 3
    assert [row["logit"] for row in found] == pytest.approx([row["logit"] for row in expected], abs=1e-4)


def test_a_content_that_comes_again_is_judged_again(client: httpx2.Client, images: list[Path]) -> None:
    first, second, third = client.post("/v1/detect", files=form(images[0], images[1], images[0])).json()
    assert (third["path"], third["duplicate_of"]) == ("0.png (2)", "0.png")
    assert third["score"] == first["score"] != second["score"]
    assert client.post("/v1/detect", files=form(images[0])).json() == [first]


def test_an_image_that_cannot_be_read(client: httpx2.Client, images: list[Path]) -> None:
    problem = check_problem(client.post("/v1/detect", content=images[0].read_bytes()[:100]), "unreadable")
    assert problem["detail"].startswith("damaged image")
    jsonschema.validate(problem["results"], SCHEMA)
    assert problem["results"][0]["error"] == problem["detail"]
    assert check_problem(client.post("/v1/detect", content=b"text"), "unreadable")["detail"].startswith(
        "not an image"
    )


def test_requests_that_are_not_understood(client: httpx2.Client, images: list[Path]) -> None:
    def refused(**given: Any) -> str:
        detail: str = check_problem(client.post("/v1/detect", **given), "bad-request")["detail"]
        return detail

    points = "an unknown operating point; this detector has balanced, fpr1"
    assert refused(params={"operating_point": "fpr2"}, content=b"x") == points
    unknown = "the query has a name that is unknown here; known: explain, operating_point"
    assert refused(params={"operating-point": "fpr1"}, content=b"x") == unknown
    for path in ("/v1/model", "/v1/batches/0"):
        detail = check_problem(client.get(path, params={"a": "b"}), "bad-request")["detail"]
        assert detail == "the query has a name that is unknown here; known: none"
    assert refused(params={"explain": "much"}, content=b"x").startswith("explain: ")
    assert refused(content=b"").startswith("nothing was sent; send a file in the field 'image'")
    assert refused(files=form(images[0], field="file")) == "the form has a field 'file'; expected 'image'"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    assert refused(headers=kind, content=head + b"pixels") == "the form ends too early"
    assert refused(headers=kind, content=b"no form") == "the form is damaged"
    assert refused(headers={"Content-Type": "multipart/form-data"}, content=b"x") == "the form has no boundary"
    long = {"Content-Type": f"multipart/form-data; boundary={'b' * 257}"}
    for path in ("/v1/detect", "/v1/explore", "/v1/batches"):
        answer = client.post(path, headers=long, content=b"x")
        assert check_problem(answer, "bad-request")["detail"] == "the form is damaged"


def test_pages_of_other_sites_are_refused(client: httpx2.Client, service: ServiceProcess) -> None:
    hosts, origins = ("evil.example", "["), ("https://evil.example", "null", "http://[")
    for headers in (*({"Host": host} for host in hosts), *({"Origin": origin} for origin in origins)):
        check_problem(client.post("/v1/detect", headers=headers, content=b"x"), "foreign-page")
    assert client.get("/v1/model", headers={"Origin": service.url}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/v1/model").headers


# ---------------------------------------------------------------------------------------------------------
# What a decoder does


def test_a_killed_decoder_costs_one_request(service: ServiceProcess, images: list[Path]) -> None:
    with service.client() as client:
        with service.decoders_stopped() as decoders:
            asked = [in_thread(client.post, "/v1/detect", files=form(image)) for image in images[:2]]
            service.wait_for_images(2)
            time.sleep(HANDED_ON_S)
            decoders[0].kill()
            wait_until(lambda: any(each.done() for each in asked))
        answers = [each.result() for each in asked]
        assert sorted(each.status_code for each in answers) == [200, 422]
        (lost,) = (each for each in answers if each.status_code == 422)
        assert check_problem(lost, "unreadable")["detail"] == "what decodes it crashed (SIGKILL)"
        assert client.post("/v1/detect", files=form(*images)).status_code == 200


def test_a_mistake_of_ours_is_told_without_its_message(
    tiny_onnx: Path, tmp_path: Path, images: list[Path]
) -> None:
    fail = "def fail(*_): raise ValueError('a secret name')\ngapl.detector.Detector.judge = fail"
    command = ("-c", f"import gapl.detector, gapl.__main__\n{fail}\ngapl.__main__.main()", "serve")
    with ServiceProcess(tiny_onnx, tmp_path, command=command) as service, service.client() as client:
        service.wait_for_event("ready")
        for _ in range(2):
            check_problem(client.post("/v1/detect", files=form(images[0])), "internal")
        first = service.wait_for_event("failed", count=2)
        assert first["error"] == "ValueError"
        assert first["raised_in"][-1].endswith(" fail")
        assert "secret" not in str(service.log())


# ---------------------------------------------------------------------------------------------------------
# What it says of itself


def test_model_and_health(client: httpx2.Client, tiny_onnx: Path) -> None:
    model = client.get("/v1/model").json()
    assert (model["model"], model["model_sha256"]) == (str(tiny_onnx), sha256_of(tiny_onnx))
    assert model["calibration"]["operating_points"].keys() == {"balanced", "fpr1"}
    assert (model["views"], model["card"]) == ("full", None)
    assert (client.get("/healthz").text, client.get("/readyz").text) == ("ok\n", "ready\n")


def test_headers_and_request_ids(client: httpx2.Client) -> None:
    for path in ("/healthz", "/v1/model", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    assert client.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"
    assert client.put("/v1/batches/0").headers["allow"] == "DELETE, GET"
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/detect", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.json()["detail"] == "/openapi.json lists the paths and their methods"
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_log_says_nothing_of_an_image(
    service: ServiceProcess, client: httpx2.Client, images: list[Path]
) -> None:
    named = [("image", ("a-secret-name.png", images[0].read_bytes()))]
    answer = client.post("/v1/detect", files=named, headers={"X-Request-ID": "logged"})
    lines = wait_until(lambda: [line for line in service.log() if line.get("request_id") == "logged"])
    (line,) = lines
    assert (line["route"], line["status"], line["images"]) == ("/v1/detect", 200, 1)
    assert line["bytes"] > images[0].stat().st_size
    (row,) = answer.json()
    text = json.dumps(service.log())
    assert not [each for each in ("a-secret-name", row["sha256"], str(row["score"])) if each in text]


def test_metrics_count(service: ServiceProcess, client: httpx2.Client, images: list[Path]) -> None:
    def counted() -> tuple[float, ...]:
        names = ('images_total{outcome="judged"}', 'images_total{outcome="unreadable"}', "batch_images_sum")
        return tuple(service.metric(f"gapl_{name}") for name in names)

    before = counted()
    client.post("/v1/detect", files=[*form(*images), ("image", ("x", b"text"))])
    judged, unreadable, in_batches = (now - then for now, then in zip(counted(), before, strict=True))
    assert (judged, unreadable, in_batches) == (3, 1, 3)
    assert service.metric("gapl_ready") == 1
    check_problem(client.post("/v1/detect", content=b"text"), "unreadable")
    assert service.metric('gapl_refused_total{kind="unreadable"}') > 0
    wait_until(lambda: service.metric('gapl_requests_total{route="/v1/detect",status="200"}') > 0)


def test_openapi_is_valid_and_its_examples_are(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    assert {"/v1/detect", "/v1/batches", "/v1/model", "/metrics", "/healthz", "/readyz"} <= document[
        "paths"
    ].keys()
    assert document["components"]["schemas"]["Result"] == SCHEMA["items"]
    schemas = openapi.schemas()
    for name, example in (("Result", openapi._RESULT), ("Problem", openapi._PROBLEM), ("Job", openapi._JOB)):
        jsonschema.validate(example, schemas[name])
