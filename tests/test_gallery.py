"""The gallery of judged images, and how it works in a chromium."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from gapl.gallery import markup
from gapl.gallery.page import Gallery
from gapl.results import Method, Result
from gapl.thumbnail import make_thumbnail
from gapl.verdict import Verdict

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun

METHOD = Method("m<b>", "0" * 64, "full", "")
EVIL = "<img src=x onerror=alert(1)>\n'\"&.png"


def encoded(colour: str, size: tuple[int, int] = (400, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def result_of(path: str, score: float, **others: Any) -> Result:
    label = "fake" if score > 0.7 else "real" if score < 0.3 else "unsure"
    warnings = ("30% of it is transparent and shown on white",) if label == "unsure" else ()
    return Result(path, path[0] * 64, Verdict(score, 0.0, label, 0.7, 0.3, warnings), **others)


def write_gallery(path: Path) -> Path:
    gallery = Gallery(path, method=METHOD, overwrite=False)
    for name, score in (("a.png", 0.2), ("b.png", 0.9), ("c10.png", 0.5), ("c9.png", 0.81), (EVIL, 0.1)):
        result = result_of(f"in/{name}", score)
        result = Result(result.path, name[:2], result.verdict)
        gallery.show(result.sha256, make_thumbnail(encoded("red" if score > 0.5 else "blue")))
        gallery.add(result)
    gallery.add(Result("in/deep/copy.png", "a.", result_of("a", 0.2).verdict, duplicate_of="in/a.png"))
    gallery.add(Result("in/broken.png", "", None, "damaged image: <cut>"))
    gallery.finish()
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gallery(tmp_path_factory.mktemp("gallery") / "page.html")


# ---------------------------------------------------------------------------------------------------------
# The file


def test_names_are_escaped_and_nothing_is_outside(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;\\n&#x27;&quot;&amp;.png" in text
    assert "m&lt;b&gt;" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "unsafe" not in text
    assert "below 0.300 it is called real, from 0.700 on fake, between unsure" in text


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("in/", ["a.png", "deep/a.png", "deeper/b.png"]),
        ("", ["a.png", "in/a.png"]),
        ("/", ["a/b.png", "ab/b.png"]),
        ("s3://bucket/", ["a.png", "b.png"]),
        ("http://", ["one.org/a.png", "two.org/a.png"]),
        ("x.tar/./", ["a.png", "in/b.png"]),
        ("x.zip/", ["/etc/a.png", "b.png"]),
        ("x.zip//etc/", ["a.png"]),
    ],
)
def test_names_are_short_by_the_folder_of_all(folder: str, names: list[str]) -> None:
    paths = [folder + name for name in names]
    assert markup.common_folder(paths) == folder
    assert [markup.name(path, folder) for path in paths] == names


def test_only_a_gallery_is_replaced(page: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(ValueError, match=r"notes.html is there already, and no gallery; --overwrite replaces it"):
        Gallery(tmp_path / "notes.html", method=METHOD, overwrite=False)
    Gallery(tmp_path / "notes.html", method=METHOD, overwrite=True).finish()
    write_gallery(tmp_path / "notes.html")
    assert (tmp_path / "notes.html").read_bytes() == page.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.html"]


def test_thumbnails_are_small_and_as_viewers_show_them(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x112] = 6
    buffer = io.BytesIO()
    Image.new("RGBA", (400, 100), (0, 0, 0, 0)).save(buffer, "PNG", exif=turned)
    gallery = Gallery(tmp_path / "page.html", method=METHOD, overwrite=False)
    gallery.show("a" * 64, make_thumbnail(buffer.getvalue()))
    kept = gallery._thumbnails.get("a" * 64)
    assert kept
    assert kept.size == (40, 160)
    shown = Image.open(io.BytesIO(kept.jpeg))
    assert (shown.format, shown.size) == ("JPEG", kept.size)
    assert np.asarray(shown).min() == 255
    gallery.add(result_of("b", 0.1))
    gallery.finish()
    assert "no picture" in (tmp_path / "page.html").read_text()


def test_the_command_resumed(tiny_run: TinyRun, make_image: MakeImage, run_cli: RunCli, tmp_path: Path) -> None:
    import inference

    for i in range(3):
        make_image(tmp_path / f"in/{i}.png", seed=i)
    (tmp_path / "in/copy.png").write_bytes((tmp_path / "in/0.png").read_bytes())
    given = ("--model_path", tiny_run.stage2, "--allow-tiny", tmp_path / "in", "--out", tmp_path / "t.csv")
    assert run_cli(inference.main, *given).code == 0
    done = run_cli(inference.main, *given, "--gallery", tmp_path / "page.html")
    assert done.code == 0, done.err
    text = (tmp_path / "page.html").read_text()
    assert (text.count("data:image/jpeg"), text.count("1 duplicate<")) == (3, 1)
    refused = run_cli(inference.main, *given, "--gallery", tmp_path / "t.csv").only_error()
    assert "--out and --gallery are both" in refused


# ---------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def view(browser: Any, page: Path) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.complaints = []
    for event in ("console", "pageerror", "dialog"):
        opened.on(event, lambda complaint: opened.complaints.append(complaint))
    opened.goto(page.as_uri())
    yield opened
    assert opened.complaints == []
    opened.close()


def names(view: Any) -> list[str]:
    found: list[str] = view.evaluate(
        "[...document.querySelectorAll('#cards > :not([hidden]) .name')].map((name) => name.textContent)"
    )
    return found


def test_it_is_sorted_and_filtered(view: Any) -> None:
    evil = EVIL.replace("\n", "\\n")
    assert names(view) == ["b.png", "c9.png", "c10.png", "a.png", evil]
    view.select_option("#order", "real")
    assert names(view)[0] == evil
    view.select_option("#order", "unclear")
    assert names(view)[0] == "c10.png"
    view.select_option("#order", "name")
    assert names(view)[-2:] == ["c9.png", "c10.png"]
    view.fill("#name", "COPY")
    assert names(view) == ["a.png"]  # by the name of its duplicate
    assert view.text_content("#shown") == "1 of 6 shown"
    view.fill("#name", "")
    view.uncheck("input[value=real]")
    assert names(view) == ["b.png", "c9.png", "c10.png"]
    assert view.is_visible("text=damaged image: <cut>") or view.is_visible(".failures li")
    view.uncheck("input[value=unreadable]")
    assert not view.is_visible("#unreadable")
    view.fill("#name", "nothing like that")
    assert view.is_visible("#none")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_shown_at_any_width_and_in_the_dark(view: Any, scheme: str) -> None:
    view.emulate_media(color_scheme=scheme)
    for width in (320, 1280):
        view.set_viewport_size({"width": width, "height": 800})
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.evaluate("[...document.images].every((image) => image.naturalWidth > 0 && image.alt)")
    assert view.evaluate("document.images.length") == 5
    red, green, blue = map(
        int, re.findall(r"\d+", view.evaluate("getComputedStyle(document.body).backgroundColor"))
    )
    assert (red + green + blue > 600) == (scheme == "light")


def test_it_works_by_keys(view: Any) -> None:
    reached = []
    for _ in range(8):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.value || document.activeElement.textContent.trim()"))
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached[:5] == ["Skip to the images", "fake", "real", "unsure", "unreadable"]
    assert reached[-1] == "1 duplicate"
    view.keyboard.press("Enter")
    assert view.is_visible("text=deep/copy.png")


def test_nothing_can_be_put_into_it(view: Any) -> None:
    view.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.body.dataset.run = 'yes'";
            document.body.append(script);
        }"""
    )
    assert view.get_attribute("body", "data-run") is None
    assert "Content Security Policy" in view.complaints.pop().text
