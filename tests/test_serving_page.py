"""The page of the service in a chromium: it shows what the service says of images, and asks nobody else."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from gapl import Detector
from gapl.explain.patches import PatchMap
from gapl.origin.finding import CAMERA, EDITED, GENERATED, SCANNED
from gapl.serving.page.route import FILES, POLICY
from tests.axe import PACKAGE, kept_axe, serious_findings
from tests.service_process import ServiceProcess
from tests.test_serving import form

if TYPE_CHECKING:
    from tests.conftest import MakeImage

WAIT_MS = 120_000  # in which whatever is waited for must have come
NUM = 30
EVIL = "=cmd|<b>x.png"  # a name that a program for tables would run, and a browser would make bold
SVG = "http://www.w3.org/2000/svg"
DROP = """([names, contents]) => {
    const given = new DataTransfer();
    names.forEach((name, i) => {
        const bytes = Uint8Array.from(atob(contents[i]), (c) => c.charCodeAt(0));
        given.items.add(new File([bytes], name, { type: "image/png" }));
    });
    return given;
}"""


@pytest.fixture(scope="module")
def images(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of different brightness, which the random tower tells apart."""
    folder = tmp_path_factory.mktemp("images")
    names = [EVIL, *(f"image {i}.png" for i in range(1, NUM - 1))]
    return [make_image(folder / each, seed=i, size=(80, 70), levels=8 + 8 * i) for i, each in enumerate(names)]


@pytest.fixture(scope="module")
def detector(tiny_onnx: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector of the tests, calibrated so that the images have all labels, also by operating points."""
    logit_N = np.array([verdict.logit for verdict in Detector.load(tiny_onnx)(list(images))])
    model = onnx.load(tiny_onnx)
    (entry,) = (each for each in model.metadata_props if each.key == "header")
    header = json.loads(entry.value)
    a = 2 / float(logit_N.std())
    header["calibration"] |= {"method": "platt", "a": a, "b": -a * float(logit_N.mean())}
    entry.value = json.dumps(header)
    path = tmp_path_factory.mktemp("detector") / "spread.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def service(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(detector, tmp_path_factory.mktemp("service")) as running:
        running.wait_for_event("ready")
        yield running


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, service: ServiceProcess) -> Iterator[Open]:
    """`open_page(url="", **options)` opens the page as somebody new. What it asks and complains of is checked."""
    with opened(browser, service.url) as opening:
        yield opening


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Open]:
    contexts, complaints, asked = [], [], []

    def opening(**options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(address)
        view.wait_for_selector("#detector:not(:empty), #token:not([hidden])")
        return view

    yield opening
    for each in contexts:
        each.close()
    refused = "Failed to load resource: "  # a browser tells of each answer that is a problem
    assert [each for each in complaints if not each.startswith(refused)] == []
    assert [url for url in asked if not url.startswith((f"{address}/", f"blob:{address}/"))] == []


def payload(path: Path) -> dict[str, Any]:
    return {"name": path.name, "mimeType": "image/png", "buffer": path.read_bytes()}


def broken(images: list[Path]) -> dict[str, Any]:
    return payload(images[0]) | {"name": "broken.png", "buffer": images[0].read_bytes()[:100]}


def judge(view: Any, *files: Any) -> None:
    """Choose files, and wait until all are judged."""
    view.set_input_files("#file", [each if isinstance(each, dict) else payload(each) for each in files])
    view.wait_for_selector("tbody tr:nth-child(1)", state="attached")
    view.wait_for_selector("#progress", state="hidden")


def names(view: Any) -> list[str]:
    """The names in the table, in the order in which they are shown."""
    return [each.inner_text() for each in view.locator("#rows tr:visible .name").all()]


def labels(view: Any, cell: str = ".scored") -> list[str]:
    return [each.lower() for each in view.locator(f"#rows tr:visible {cell} b").all_text_contents()]


def said(service: ServiceProcess, images: list[Path], **query: str) -> list[dict[str, Any]]:
    """What the service says of images itself, in requests as large as they may be."""
    with service.client() as client:
        parts = [images[i : i + 16] for i in range(0, len(images), 16)]
        answers = [client.post("/v1/detect", params=query, files=form(*part)) for part in parts]
    return [row for answer in answers for row in answer.json()]


# ---------------------------------------------------------------------------------------------------------
# Its files


def test_only_its_files_are_sent(service: ServiceProcess) -> None:
    with service.client() as client:
        for path in ("/", *(f"/page/{name}" for name in FILES)):
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-content-type-options"] == "nosniff"
            same = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (same.status_code, same.content) == (304, b"")
        for name in ("route.py", "__init__.py", "%2e%2e%2fapp.py", "..%2Fapp.py", "other.js", ""):
            assert client.get(f"/page/{name}").status_code == 404
    kinds = {
        "index.html": "text/html",
        "app.js": "text/javascript",
        "page.css": "text/css",
        "icon.svg": "image/svg",
    }
    with service.client() as client:
        for name, kind in kinds.items():
            assert client.get(f"/page/{name}").headers["content-type"].startswith(kind)


def test_all_of_its_folder_is_listed_and_nothing_is_inline() -> None:
    folder = FILES["index.html"].parent
    assert {path.name for path in folder.iterdir() if path.suffix != ".py" and path.is_file()} <= set(FILES)
    sources = {path.name: path.read_text(encoding="utf-8") for path in FILES.values() if path.suffix != ".svg"}
    for text in sources.values():
        assert not [
            each for each in ("http://", "https://", "innerHTML", "eval(") if each in text.replace(SVG, "")
        ]
    assert not [each for each in ("<style", "style=", "onclick", "<script>") if each in sources["index.html"]]


# ---------------------------------------------------------------------------------------------------------
# One image


def test_a_verdict_is_that_of_the_service(open_page: Open, service: ServiceProcess, images: list[Path]) -> None:
    view = open_page()
    judge(view, images[3])
    (row,) = said(service, images[3:4], explain="true")
    assert view.inner_text("#headline").lower() == row["label"]
    assert view.title() == "Real or generated?"
    scale = view.get_attribute("#sheet .score", "aria-label")
    band = f"unsure from {row['real_below']:.3f} to {row['threshold']:.3f}"
    assert scale.startswith(f"Score {row['score']:.3f} on a scale from 0, real, to 1, fake; {band}")
    told = view.text_content("#status")
    assert told.startswith("image 3.png: ")
    assert f"Score {row['score']:.3f}. Warning: {row['warnings'][0]}." in told
    assert view.locator("#sheet .warnings li").all_text_contents() == row["warnings"]
    assert "no record of its origin" in view.inner_text("#sheet .origin")
    assert view.locator("#sheet .words li").all_text_contents() == row["explanation"]["in_words"]
    assert f"sha256 {row['sha256']}" in view.inner_text("#sheet")


def test_it_looks_closer_at_one_image(open_page: Open, images: list[Path]) -> None:
    view = open_page()
    judge(view, images[5])
    view.focus("#closer")
    view.keyboard.press("Enter")
    view.wait_for_selector("#layers")
    assert "the verdict holds in" in view.text_content("#status")
    assert view.evaluate("document.activeElement.id") == "show-patches"
    assert view.locator(".maps .patches rect:visible").count() == 14 * 14 + 1
    view.keyboard.press("ArrowDown")
    assert view.locator(".maps .tiles rect:visible").count() > 1
    assert view.locator(".maps .patches rect:visible").count() == 0
    view.keyboard.press("Tab")
    view.keyboard.press("Home")
    assert float(view.evaluate("getComputedStyle(document.querySelector('.maps')).opacity")) == pytest.approx(0.1)
    assert view.locator("#sheet .stable tbody tr").count() == 6
    assert view.locator("#closer").count() == 0


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_images_are_dropped_and_pasted(open_page: Open, images: list[Path], event: str) -> None:
    view = open_page()
    give(view, event, images[:2])
    view.wait_for_selector("#rows .scored b >> nth=1")
    assert names(view) == [EVIL, "image 1.png"]
    give(view, event, [])
    assert view.inner_text("#trouble").startswith("That is no file" if event == "drop" else "There is no image")


def test_of_a_dropped_folder_whatever_can_be_read_is_judged(open_page: Open, images: list[Path]) -> None:
    view = open_page()
    view.evaluate(
        """([names, contents]) => {
            const refuse = (_resolve, reject) => reject(new DOMException("", "NotReadableError"));
            const read = names.map((name, i) => {
                const bytes = Uint8Array.from(atob(contents[i]), (c) => c.charCodeAt(0));
                return { name, isFile: true, file: (resolve) => resolve(new File([bytes], name)) };
            });
            const locked = { name: "locked", isDirectory: true, createReader: () => ({ readEntries: refuse }) };
            const parts = [[read[0], { name: "gone.png", isFile: true, file: refuse }, locked, read[1]], []];
            const createReader = () => ({ readEntries: (resolve) => resolve(parts.shift()) });
            const folder = { name: "folder", isDirectory: true, createReader };
            const dataTransfer = { items: [{ webkitGetAsEntry: () => folder }], files: [] };
            document.dispatchEvent(Object.assign(new Event("drop"), { dataTransfer }));
        }""",
        [
            [path.name for path in images[:2]],
            [base64.b64encode(path.read_bytes()).decode() for path in images[:2]],
        ],
    )
    view.wait_for_selector("#rows .scored b >> nth=1")
    assert names(view) == [EVIL, "image 1.png"]
    assert view.inner_text("#trouble") == "2 of the files and folders could not be read."


def test_maps_fit_a_picture_that_was_shrunk_before(open_page: Open) -> None:
    view = open_page()
    script = """async ([where, width, height]) => {
        const { fits } = await import("/page/maps.js");
        return [fits(where, { width, height }), fits(where, { width: height, height: width })];
    }"""
    small = (157, 205, 2192, 2192)  # in a picture of 5009 x 5201 px that was made half as large
    where = {"tiles": {"reduced_by": 2}, "patches": PatchMap(small, np.zeros((14, 14))).enlarged(2).as_json()}
    assert view.evaluate(script, [where, 5009, 5201]) == [True, False]


@pytest.mark.parametrize("says", [GENERATED, EDITED, CAMERA, SCANNED])
def test_the_table_notes_what_a_file_says(open_page: Open, says: str) -> None:
    script = "(row) => import('/page/evidence.js').then(({ notesOf }) => notesOf(row))"
    row = {"label": "real", "explanation": {"origin": [{"says": says, "name": "X"}]}}
    assert open_page().evaluate(script, row) == [f"the file says: {says} (X)"]


def give(view: Any, event: str, files: list[Path]) -> None:
    """Drop or paste files as a browser does."""
    contents = [base64.b64encode(path.read_bytes()).decode() for path in files]
    given = view.evaluate_handle(DROP, [[path.name for path in files], contents])
    if event == "drop":
        view.dispatch_event("main", "drop", {"dataTransfer": given})
    else:
        made = "(given) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: given }))"
        view.evaluate(made, given)


# ---------------------------------------------------------------------------------------------------------
# Many images


@pytest.fixture(scope="module")
def many(browser: Any, service: ServiceProcess, images: list[Path]) -> Iterator[Any]:
    """The page with 30 files, a broken one among them. Tests leave its controls as they were."""
    with opened(browser, service.url) as opening:
        view = opening()
        judge(view, *images[:9], broken(images), *images[9:])
        yield view


def test_all_are_judged_and_the_broken_one_is_told(many: Any, service: ServiceProcess, images: list[Path]) -> None:
    rows = said(service, images)
    expected = [row["label"] for row in rows]
    assert set(expected) == {"fake", "real", "unsure"}
    assert labels(many) == expected
    counts = ", ".join(f"{expected.count(each)} {each}" for each in ("fake", "real", "unsure"))
    assert many.text_content("#status") == f"{NUM} images: {counts}, 1 unreadable."
    broken = many.locator("#rows tr[data-label=unreadable]")
    assert "Damaged image" in broken.inner_text()
    assert broken.locator("button").count() == 0  # nothing would come of it
    assert many.inner_text("#shown") == f"{NUM} of {NUM} shown"
    assert many.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_they_are_sorted(many: Any, service: ServiceProcess, images: list[Path]) -> None:
    scores = {row["path"]: row["score"] for row in said(service, images)}
    likeliest_first = sorted(scores, key=lambda name: -scores[name])
    many.select_option("#order", "fake")
    assert names(many) == [*likeliest_first, "broken.png"]
    many.select_option("#order", "real")
    assert names(many) == [*likeliest_first[::-1], "broken.png"]
    many.select_option("#order", "name")
    assert names(many)[-3:] == ["image 26.png", "image 27.png", "image 28.png"]
    many.select_option("#order", "added")
    assert names(many)[:2] == [EVIL, "image 1.png"]


def test_they_are_filtered_and_saved(many: Any, service: ServiceProcess, images: list[Path]) -> None:
    rows = said(service, images)
    many.uncheck("#label-real")
    many.uncheck("#label-unsure")
    many.fill("#name", "IMAGE 1")
    wanted = [row for row in rows if row["label"] == "fake" and "image 1" in row["path"]]
    found = saved(many)
    assert [row["path"] for row in found] == [row["path"] for row in wanted]
    assert [float(row["score"]) for row in found] == [row["score"] for row in wanted]
    many.check("#label-real")
    many.check("#label-unsure")
    many.fill("#name", "broken")
    (unread,) = saved(many)
    assert (unread["label"], unread["score"], unread["error"][:13]) == ("unreadable", "", "Damaged image")
    many.fill("#name", "cmd")
    (evil,) = saved(many)
    assert evil["path"] == f"'{EVIL}"
    assert evil["sha256"] == hashlib.sha256(images[0].read_bytes()).hexdigest()
    many.fill("#name", "no such name")
    assert many.is_visible("#none")
    assert many.is_hidden("#download")
    many.fill("#name", "")


def saved(view: Any) -> list[dict[str, str]]:
    """The rows that the page saves."""
    with view.expect_download() as download:
        view.click("#download")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def test_two_operating_points_are_compared(many: Any, service: ServiceProcess, images: list[Path]) -> None:
    point, other = "balanced", "fpr1"
    many.select_option("#point", point)
    many.select_option("#other", other)
    one, two = ([row["label"] for row in said(service, images, operating_point=name)] for name in (point, other))
    assert labels(many) == one
    assert labels(many, ".compared") == two
    changed = [path.name for path, *pair in zip(images, one, two, strict=True) if pair[0] != pair[1]]
    assert changed
    assert many.inner_text("#comparison").startswith(f"{len(changed)} of {NUM - 1} labels change from {point} ")
    many.check("#changed")
    assert names(many) == changed
    found = saved(many)
    assert {(row["label"], row["other_label"]) for row in found} == {("fake", "real")}
    assert {(row["decided_by"], row["other_decided_by"]) for row in found} == {(point, other)}
    many.uncheck("#changed")
    many.select_option("#point", "")
    many.select_option("#other", "nothing")
    assert labels(many) == [row["label"] for row in said(service, images)]


def test_sheets_lead_to_their_neighbours_and_back(many: Any) -> None:
    many.click("text=image 1.png")
    assert many.inner_text("#sheet .name") == "image 1.png"
    many.click("#after")
    assert many.inner_text("#sheet .name") == "image 2.png"
    assert many.evaluate("document.activeElement.id") == "headline"
    many.go_back()
    assert many.inner_text("#sheet .name") == "image 1.png"
    many.click("#all")
    assert many.is_visible("#rows")
    assert many.evaluate("document.activeElement.id") == "list-title"


# ---------------------------------------------------------------------------------------------------------
# For everyone


def test_it_works_by_keyboard_alone(open_page: Open, images: list[Path]) -> None:
    view = open_page()
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.className") == "skip"
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.id") == "file"
    assert view.evaluate("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
    view.evaluate("""document.querySelector("#file").addEventListener("click", (event) => {
        event.preventDefault(); // instead of the dialog
        document.body.dataset.asked = "yes";
    })""")
    view.keyboard.press("Enter")
    view.wait_for_selector("body[data-asked]")
    view.set_input_files("#file", [payload(path) for path in images[:2]])
    view.wait_for_selector("#rows .scored b >> nth=1")
    reached = []
    for _ in range(12):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.id || document.activeElement.className"))
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if reached[-1] == "name" and "clear" in reached:
            break
    assert [each for each in reached if not each.startswith("label-")] == [
        *("name", "order", "point", "other", "download", "clear", "name")
    ]
    view.keyboard.press("Enter")
    view.wait_for_selector("#headline")
    assert view.evaluate("document.activeElement.id") == "headline"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_narrow_and_dark_where_it_is_asked_to_be(
    browser: Any, service: ServiceProcess, images: list[Path], scheme: str
) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, service.url) as opening:
        view = opening(**options)
        for files in ([], [images[2]], [images[1], broken(images)]):
            if files:
                judge(view, *files)
            assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        view.click("text=image 2.png")
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = view.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(paper) < 60) if scheme == "dark" else (min(paper) > 230)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, images: list[Path], scheme: str) -> None:
    if kept_axe() is None:
        pytest.skip(f"{PACKAGE} is not in the cache; `python tests/axe.py` downloads it")
    view = open_page(color_scheme=scheme, bypass_csp=True)
    assert serious_findings(view) == []
    judge(view, images[0], broken(images))
    assert serious_findings(view) == []
    judge(view, images[1])
    assert serious_findings(view) == []


# ---------------------------------------------------------------------------------------------------------
# What goes wrong


def test_a_token_is_asked_for(
    browser: Any, detector: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = f'[tokens.ann]\nsha256 = "{hashlib.sha256(b"a-token").hexdigest()}"\n'
    folder = tmp_path_factory.mktemp("tokens")
    with ServiceProcess(detector, folder, config=config, token="a-token") as service:
        service.wait_for_event("ready")
        with opened(browser, service.url) as opening:
            view = opening()
            assert "only to those who have a token" in view.inner_text("#token-why")
            assert view.evaluate("document.activeElement.id") == "token-text"
            for wrong, told in (("wrong", "does not know this token"), ("\u00fc", "cannot be a token")):
                view.fill("#token-text", wrong)
                view.keyboard.press("Enter")
                view.wait_for_selector(f"#token-why:text('{told}')")
            view.fill("#token-text", "a-token")
            view.keyboard.press("Enter")
            view.wait_for_selector("#token", state="hidden")
            judge(view, images[0])
            assert view.locator("#sheet .score").count() == 1
            kept = view.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]")
            assert kept == [["a-token"], 0, ""]


def test_problems_are_told_in_words(
    browser: Any, detector: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = "[requests]\nbytes = 40_000\nfiles = 1\nwaiting = 1\n"
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(50_000)}
    with ServiceProcess(detector, tmp_path_factory.mktemp("small"), config=config) as service:
        service.wait_for_event("ready")
        with opened(browser, service.url) as opening:
            view = opening()
            judge(view, *images[:3], large)  # two at a time, of which one is told to come again
            assert labels(view) != []
            assert view.locator("#rows .scored b").count() == 3
            assert "The file is too large: the service takes up to" in view.inner_text("#rows tr:nth-child(4)")
            view.context.set_offline(True)
            view.set_input_files("#file", [str(images[4]), str(images[5])])
            view.wait_for_selector("#again:text('Try again (2)')")
            assert "The connection to the service was lost." in view.inner_text("#rows tr:nth-child(5)")
            view.context.set_offline(False)
            view.click("#again")
            view.wait_for_selector("#again", state="hidden")
            view.wait_for_selector("#progress", state="hidden")
            assert view.locator("#rows .scored b").count() == 5


def test_a_request_that_is_told_to_come_again_does(open_page: Open, images: list[Path]) -> None:
    view = open_page()
    problem = {"type": "urn:gapl:problem:overloaded", "title": "The service has too much to do", "status": 503}
    answers = iter([True])

    def refuse_once(route: Any) -> None:
        if next(answers, False):
            headers = {"Retry-After": "2", "Content-Type": "application/problem+json"}
            route.fulfill(status=503, headers=headers, body=json.dumps(problem))
        else:
            route.continue_()

    view.route("**/v1/detect*", refuse_once)
    view.set_input_files("#file", str(images[0]))
    view.wait_for_selector("#headline:text('Not judged yet')")
    view.wait_for_selector("#sheet .lead:text('The service has too much to do. Trying again in 2 s.')")
    view.wait_for_selector("#sheet .score")


def test_where_what_decodes_has_ended_a_reader_may_try_again(open_page: Open, images: list[Path]) -> None:
    view = open_page()
    detail = "took longer than 60 s"
    problem = {"type": "urn:gapl:problem:unreadable", "detail": detail, "status": 422}
    body = json.dumps(problem | {"results": [{"path": "image", "sha256": "", "error": detail}]})
    view.route("**/v1/detect*", lambda route: route.fulfill(status=422, body=body), times=1)
    judge(view, images[0])
    view.wait_for_selector("#sheet .lead:text('Took longer than 60 s.')")
    view.click("#try-again")
    view.wait_for_selector("#sheet .score")
