"""Sheets, which explain verdicts: what they say, what they never do, and how they work in a chromium."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from PIL import Image

from gapl.detector import Judged
from gapl.inputs.input import Input
from gapl.origin.finding import C2PA, GENERATED, PNG_TEXT, UNKNOWN_SIGNER, found
from gapl.pixels import PixelSpec
from gapl.results import Method, Result
from gapl.sheets import maps
from gapl.sheets.exploration import Exploration
from gapl.sheets.folder import Sheets
from gapl.verdict import Verdict

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

PROJECT = Path(__file__).resolve().parent.parent
EVIL = "<img src=x onerror=alert(1)>'\"&"
METHOD = Method(f"m{EVIL}", "ab" * 32, "full", "fpr1")
CONTRIBUTIONS = (0.774, -0.5, 0.333, 0.25, -0.2, 0.1, 0.1, 0.1, 0.1, -0.05)
BIAS = 0.123
LOGIT = sum(CONTRIBUTIONS) + BIAS
WHERE = {
    "tiles": {"reduced_by": 2, "side": 200, "tiles": [[0, 0, 0.9], [100, 0, 0.5]]},
    "patches": {"box": [50, 0, 200, 200], "map": [[0.4, -0.2], [0.0, 0.1]]},
}
STABLE = {
    "resaves": [
        {"name": f"JPEG 90 {EVIL}", "score": 0.8, "label": "fake"},
        {"name": "WebP 80", "score": 0.1, "label": "real"},
    ],
    "holds": 1,
    "label": "unsure",
}


def explanation() -> dict[str, Any]:
    prototypes = [
        {
            "index": i,
            "label": "fake" if each > 0 else "real",
            "attention": 0.1,
            "contribution": each,
            "described_as": f"FLUX 70% {EVIL}",
        }
        for i, each in enumerate(CONTRIBUTIONS)
    ]
    return {
        "prototypes": prototypes,
        "bias": BIAS,
        "family": {"name": f"FLUX {EVIL}", "probabilities": {f"FLUX {EVIL}": 0.75, "GAN": 0.25}},
        "unlike": {"distance": 0.6, "cut": 0.45, "is_unlike": True},
        "in_words": ["Words."],
    }


def result_of(path: str, score: float = 0.86, **others: Any) -> Result:
    label = "fake" if score > 0.66 else "real" if score < 0.2 else "unsure"
    verdict = Verdict(score, LOGIT, label, 0.66, 0.2, (f"small {EVIL}",))
    origin = (
        found(PNG_TEXT, "tEXt parameters", GENERATED, name=f"Midjourney {EVIL}", text=f"{EVIL} {'x' * 900}"),
        found(C2PA, "manifest", GENERATED, name="OpenAI", signature=UNKNOWN_SIGNER),
    )
    given = {"explanation": explanation() | {"where": WHERE, "stable": STABLE}, "origin": origin} | others
    return Result(path, f"{path[0]:a<64}", verdict, **given)


def write_sheets(folder: Path, *, overwrite: bool = False) -> Path:
    sheets = Sheets(folder, method=METHOD, overwrite=overwrite)
    picture = Image.effect_noise((3000, 2000), 50).convert("RGB")
    sheets.add(result_of(f"b/{EVIL.replace('/', '')}\n.png"), picture.resize((300, 200)))
    sheets.add(result_of("c/large.jpg", 0.1), picture)
    sheets.add(Result("b/copy.png", f"{'b':a<64}", result_of("b").verdict, duplicate_of="b/first.png"), None)
    sheets.add(Result(f"d/{EVIL}.png", "", None, f"damaged image: {EVIL}"), None)
    sheets.add(result_of("e/gone.png", 0.4, explanation={**explanation(), "family": None}), None)
    sheets.finish()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sheets(tmp_path_factory.mktemp("sheets") / "out")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------
# What they say


def test_a_sheet_says_all_that_is_known(folder: Path) -> None:
    text = text_of(folder / f"00001-{'b':a<12}.html")
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text.partition("<body")[2]))
    for said in (
        "A generator made this image, says the detector.",
        "below 0.200 it is called real, from 0.660 on fake, between unsure",
        "300 x 200 px",
        "2 tiles of 100 px of the image reduced by 2: scores from 0.50 to 0.90",
        "Covering changes the logit by -0.40 to +0.20.",
        "it does not turn into the opposite. In 1 it stays the same.",
        "All 10 prototypes answered alike, so they do not tell what the image is like.",
        "In 1 of 2, the verdict holds",
        "That is too few: take it as unsure.",
        "Made by a generator: Midjourney",
        "signed, but not by a signer who is known to be trusted",
        "Unlike anything in training: less certain.",
        "Its distance from them is 0.600; from 0.450 on",
        "GAN 25%",
        "In words Words.",
        "What this cannot tell",
        f"(sha256 {'ab' * 32}), views: full, operating point: fpr1. Made by gapl ",
    ):
        assert said in plain, said
    assert 'aria-label="Score 0.860' in text


def test_what_is_shown_adds_up_to_the_logit(folder: Path) -> None:
    text = text_of(folder / f"00001-{'b':a<12}.html")
    table = re.search(r'<section class="prototypes">.*?</section>', text, re.DOTALL)
    assert table
    values = [float(each) for each in re.findall(r'class="number">([+-][\d.]+)<', table[0])]
    assert len(values) == 8 + 3
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-9)
    assert values[-1] == pytest.approx(LOGIT, abs=0.005)


def test_what_is_not_known_is_left_out(folder: Path, tmp_path: Path) -> None:
    text = text_of(folder / f"00005-{'e':a<12}.html")
    assert "No picture: it could not be read again" in text
    assert "It is told only of images that are called fake." in text
    assert "it leans to real" in text
    assert "Is the verdict stable?" not in text
    sheets = Sheets(tmp_path, method=METHOD, overwrite=False)
    bare = {"prototypes": [], "bias": None, "note": "this detector has no prototypes", "in_words": []}
    sheets.add(result_of("f", explanation=bare, origin=None), Image.new("RGB", (9, 9)))
    sheets.finish()
    text = text_of(tmp_path / f"00001-{'f':a<12}.html")
    assert "This detector has no prototypes." in text
    for missing in ("<form", "Family of generators</h2>", "Is it like training?", "What the file says"):
        assert missing not in text


def test_files_that_are_only_called_alike_stay(tmp_path: Path) -> None:
    write_sheets(tmp_path)
    mine = tmp_path / f"my-00001-{'b':a<12}.html"
    mine.write_text(text_of(tmp_path / f"00001-{'b':a<12}.html"), encoding="utf-8")
    older = tmp_path / f"00077-{'b':a<12}.html"
    older.write_text(mine.read_text(encoding="utf-8"), encoding="utf-8")
    write_sheets(tmp_path, overwrite=True)
    assert mine.exists()
    assert not older.exists()


def test_overlapping_tiles_are_averaged_and_cut_at_the_edges() -> None:
    tiles = {"reduced_by": 1, "side": 200, "tiles": [[-20, 0, 0.9], [100, 0, 0.4]]}
    cells = list(maps._cells(tiles, 250, 150))
    assert [cell[:4] for cell in cells] == [(0, 0, 100, 150), (100, 0, 180, 150), (180, 0, 250, 150)]
    assert [cell.value for cell in cells] == pytest.approx(
        [1.0, 0.0, -0.649], abs=1e-3
    )  # of logits, beside the middle one


def test_the_index_lists_all_and_leads_to_the_sheets(folder: Path) -> None:
    text = text_of(folder / "index.html")
    links = re.findall(r'href="([^"#]+)"', text)
    assert sorted(links) == sorted(path.name for path in folder.glob("0*.html"))
    assert links == [f"00001-{'b':a<12}.html", f"00005-{'e':a<12}.html", f"00002-{'c':a<12}.html"]
    assert "<summary>1 duplicate</summary>" in text
    assert "Could not be read" in text
    assert "the verdict is not stable: take it as unsure" in text
    assert "family of generators: FLUX" in text
    assert "the file says: made by a generator (OpenAI)" in text
    assert text.count("<td>1 of 2</td>") == 2
    assert text.count("data:image/jpeg") == 2


# ---------------------------------------------------------------------------------------------------------
# What they never do


def test_texts_are_escaped_and_short_and_nothing_is_outside(folder: Path) -> None:
    for page in folder.iterdir():
        text = text_of(page)
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
        assert "x" * 300 not in text
        assert "unsafe" not in text
        assert "default-src 'none'" in text
        outside = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)\"", text)
        assert all(re.fullmatch(r"index\.html|\d{5}-[0-9a-f]{12}\.html", each) for each in outside)


def test_a_picture_has_at_most_1024_px(folder: Path) -> None:
    text = text_of(folder / f"00002-{'c':a<12}.html")
    assert "3,000 x 2,000 px, shown in 1,024 x 683 px" in text
    (jpeg,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert Image.open(io.BytesIO(base64.b64decode(jpeg))).size == (1024, 683)


def test_what_is_of_others_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"index.html is there already, and no index of sheets; --overwrite"):
        Sheets(tmp_path, method=METHOD, overwrite=False)
    name = f"00001-{'b':a<12}.html"
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="is there already, and no sheet; name another folder"):
        write_sheets(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_older_sheets_are_replaced_or_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_sheets(tmp_path)
    notes = tmp_path / "my-notes.html"
    notes.write_text("mine")
    for overwrite, left in ((False, 3), (True, 1)):
        sheets = Sheets(tmp_path, method=METHOD, overwrite=overwrite)
        sheets.add(Result("a", "", None, "gone"), None)
        sheets.add(result_of("b"), None)  # had another number before
        sheets.finish()
        assert len(list(tmp_path.glob("0*.html"))) == left
    assert "2 sheets of earlier runs are not in its index; --overwrite removes them" in caplog.text
    assert notes.read_text() == "mine"


# ---------------------------------------------------------------------------------------------------------
# The second look


@pytest.fixture
def explored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the images that were explored, by a double of what takes long."""
    sizes: list[tuple[int, int]] = []

    def explore(_detector: object, image: Image.Image) -> dict[str, Any]:
        sizes.append(image.size)
        return {"where": WHERE, "stable": STABLE}

    monkeypatch.setitem(sys.modules, "gapl.explain.exploring", SimpleNamespace(explore=explore))
    return sizes


def read_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_content_is_explored_once_and_rows_say_what_was_found(
    judge: RunCli, make_image: MakeImage, tmp_path: Path, explored: list[tuple[int, int]]
) -> None:
    image = make_image(tmp_path / "in/a.png", size=(70, 50))
    (tmp_path / "in/copy.png").write_bytes(image.read_bytes())
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    make_image(tmp_path / "in/z.png", seed=1, size=(64, 64))
    plain = read_rows(judge(tmp_path / "in", "--json", "--explain").out)
    done = judge(tmp_path / "in", "--json", "--sheets", tmp_path / "out")
    assert done.code == 1, done.err
    rows = read_rows(done.out)
    jsonschema.Draft202012Validator(
        json.loads((PROJECT / "docs/result.schema.json").read_text(encoding="utf-8"))
    ).validate(rows)
    assert explored == [(70, 50), (64, 64)]
    assert [row.get("explanation", {}).get("where") for row in rows] == [WHERE, None, WHERE, WHERE]
    for row, before in zip(rows, plain, strict=True):
        for added in ("where", "stable", "in_words"):
            for each in (row, before):
                each.get("explanation", {}).pop(added, None)
        assert row == before
    assert len(list((tmp_path / "out").iterdir())) == 3  # two sheets and the index; nothing that was kept


def test_too_little_memory_costs_the_maps_of_one_image(
    judge: RunCli,
    make_image: MakeImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def explore(_detector: object, image: Image.Image) -> dict[str, Any]:
        if image.width > 64:
            raise MemoryError
        return {"where": WHERE, "stable": STABLE}

    monkeypatch.setitem(sys.modules, "gapl.explain.exploring", SimpleNamespace(explore=explore))
    make_image(tmp_path / "in/a.png", size=(70, 50))
    make_image(tmp_path / "in/z.png", seed=1, size=(64, 64))
    done = judge(tmp_path / "in", "--json", "--sheets", tmp_path / "out")
    assert done.code == 0, done.err
    assert "a.png: its sheet has no maps: too little memory" in caplog.text
    assert [row["explanation"].get("where") for row in read_rows(done.out)] == [None, WHERE]
    assert len(list((tmp_path / "out").glob("0*.html"))) == 2


def test_a_table_keeps_what_was_found(
    judge: RunCli, make_image: MakeImage, tmp_path: Path, explored: list[tuple[int, int]]
) -> None:
    make_image(tmp_path / "in/a.png")
    given = (tmp_path / "in", "--out", tmp_path / "t.csv")
    assert judge(*given, "--explain").code == 0
    for _ in range(2):
        assert judge(*given, "--sheets", tmp_path / "out").code == 0
    assert len(explored) == 1
    assert "tiles of 100 px" in "".join(map(text_of, (tmp_path / "out").glob("0*.html")))


def test_images_of_archives_are_read_once(
    judge: RunCli, make_image: MakeImage, tmp_path: Path, explored: list[tuple[int, int]]
) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for i in range(4):
            archive.write(make_image(tmp_path / "in" / f"{i}.png", seed=i, size=(60 + i, 60)), f"{i}.png")
    into = ("--sheets", tmp_path / "out", "--sort-into", tmp_path / "sorted")
    done = judge(tmp_path / "in.zip", *into)
    assert done.code == 0, done.err
    assert explored == [(60, 60), (61, 60), (62, 60), (63, 60)]
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 4
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_an_image_that_has_changed_has_a_sheet_without_a_picture(
    explored: list[tuple[int, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheets = Sheets(tmp_path, method=METHOD, overwrite=False)
    result = result_of("b", explanation=explanation())
    images = [Input("b", lambda: b"other", tmp_path / "b")]
    known: dict[str, Judged] = {}
    exploration = Exploration(SimpleNamespace(), sheets)  # type: ignore[arg-type]
    assert list(exploration.explored([result], images, known=known)) == [result]
    assert (explored, known) == ([], {})
    assert "b: its sheet has no picture: it has changed since it was judged" in caplog.text
    assert "No picture" in text_of(tmp_path / f"00001-{'b':a<12}.html")


def test_a_duplicate_has_the_picture_of_a_file_that_is_gone(
    explored: list[tuple[int, int]], make_image: MakeImage, tmp_path: Path
) -> None:
    encoded = make_image(tmp_path / "a.png", size=(70, 50)).read_bytes()
    sheets = Sheets(tmp_path / "out", method=METHOD, overwrite=False)
    found = replace(result_of("b", explanation=explanation()), sha256=hashlib.sha256(encoded).hexdigest())
    results = [found, replace(found, path="copy", duplicate_of="b")]
    images = [Input("b", lambda: b"other", tmp_path / "b"), Input("copy", lambda: encoded, tmp_path / "copy")]
    exploration = Exploration(SimpleNamespace(pixel=PixelSpec()), sheets)  # type: ignore[arg-type]
    rows = list(exploration.explored(results, images, known={}))
    assert explored == [(70, 50)]
    assert [row.explanation.get("where") for row in rows if row.explanation] == [None, WHERE]
    (page,) = (tmp_path / "out").glob("0*.html")
    assert page.name.startswith("00001-")
    assert "No picture" not in text_of(page)
    assert "70 x 50 px" in text_of(page)


def test_what_cannot_be_explored_is_refused(judge: RunCli, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.png")
    given = (image, "--sheets", tmp_path / "out")
    assert "choose --views full or fast" in judge(*given, "--views", "auto").only_error()
    assert "--ray makes a table; make --gallery, --sheets" in judge(*given, "--ray", 2).only_error()
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def view(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.complaints, opened.requests = [], []
    for event in ("console", "pageerror", "dialog"):
        opened.on(event, lambda complaint: opened.complaints.append(complaint))
    opened.on("request", lambda request: opened.requests.append(request.url))
    yield opened
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("data:", "file:"))] == []
    opened.close()


def is_shown(view: Any, selector: str) -> bool:
    return bool(view.evaluate(f"getComputedStyle(document.querySelector('{selector}')).display != 'none'"))


def test_maps_are_chosen_by_keys(view: Any, folder: Path) -> None:
    view.goto((folder / f"00001-{'b':a<12}.html").as_uri())
    assert (is_shown(view, "g.patches"), is_shown(view, "g.tiles")) == (True, False)
    view.focus("#show-patches")
    view.keyboard.press("ArrowRight")
    assert (is_shown(view, "g.patches"), is_shown(view, "g.tiles")) == (False, True)
    assert (is_shown(view, ".about-patches"), is_shown(view, ".about-tiles")) == (False, True)
    strength = "getComputedStyle(document.querySelector('.maps')).opacity"
    before = float(view.evaluate(strength))
    view.keyboard.press("Tab")
    view.keyboard.press("ArrowLeft")
    assert float(view.evaluate(strength)) == pytest.approx(before - 0.01)
    view.focus("#show-tiles")
    view.keyboard.press("ArrowRight")
    assert (is_shown(view, "g.patches"), is_shown(view, "g.tiles")) == (False, False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_shown_at_any_width_and_in_the_dark(view: Any, folder: Path, scheme: str) -> None:
    view.emulate_media(color_scheme=scheme)
    for page in sorted(folder.iterdir()):
        view.goto(page.as_uri())
        for width in (320, 390, 1280):
            view.set_viewport_size({"width": width, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), (page.name, width)
        assert view.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_the_index_is_filtered_and_leads_to_a_sheet(view: Any, folder: Path) -> None:
    view.goto((folder / "index.html").as_uri())
    names = "[...document.querySelectorAll('#cards > :not([hidden]) .name')].map((name) => name.textContent)"
    assert view.evaluate(names)[-1] == "c/large.jpg"
    view.select_option("#order", "real")
    assert view.evaluate(names)[0] == "c/large.jpg"
    view.fill("#name", "LARGE")
    assert view.evaluate(names) == ["c/large.jpg"]
    view.click("text=c/large.jpg")
    assert view.text_content("h1") == "Real"
    view.click("text=All images")
    assert view.text_content("h1") == "Judged images"
