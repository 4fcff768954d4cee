"""The report as one file: what is in it, that names stay text, and that a browser shows it well at any width."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from example_scores import ALL_SECTIONS, CALIBRATED, HOSTILE, OTHER, make_report, make_scores, with_details
from PIL import Image

from evaluation.tables.report import headlines
from evaluation.tables.scores import ScoreTable, read_scores
from reporting.blocks import Cell, Section, ranged, shorten, to_table
from reporting.mistakes import LONG_SIDE_PX, thumbnail, worst_mistakes
from reporting.page import make_sections, write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def scores(folder: Path) -> ScoreTable:
    return with_details(make_scores(folder))


@pytest.fixture(scope="module")
def page(scores: ScoreTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(scores, tmp_path_factory.mktemp("report"))


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def tags(page: Path) -> Tags:
    return Tags(page.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------
# What is in it


def test_all_sections_in_order(tags: Tags) -> None:
    assert [each["id"] for each in tags.named("section")] == ALL_SECTIONS
    linked = [each["href"] for each in tags.named("a")]
    assert linked == ["#main", *(f"#{name}" for name in ALL_SECTIONS)]


def test_provenance_and_absence_are_told(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for told in (
        "--data-root &#39;my bench&#39;",
        "cd" * 32,
        "ab" * 32,
        "Absent (no folder of this name): Gone",
        "without BigGAN",
    ):
        assert told in text
    assert page.stat().st_size < 3_000_000


def test_names_are_no_markup(page: Path, tags: Tags) -> None:
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not tags.named("script")
    assert not [name for _, attributes in tags.tags for name in attributes if name.startswith("on")]
    (quoted,) = [each for each in tags.named("img") if "quoted" in (each["alt"] or "")][:1]
    assert (quoted["alt"] or "").startswith("\"quoted' onerror=alert(1) name.png, score 0.9")


def test_every_picture_has_words_and_every_heading_its_place(tags: Tags) -> None:
    assert all(each.get("alt") for each in tags.named("img"))
    assert all(each.get("aria-label") for each in tags.named("svg"))
    assert len(tags.named("figure")) == len(tags.named("figcaption"))
    assert {each.get("scope") for each in tags.named("th")} == {"row", "col"}
    assert len(tags.named("table")) == len(tags.named("caption"))
    ranks = [int(tag[1]) for tag, _ in tags.tags if re.fullmatch(r"h\d", tag)]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(ranks))
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_asks_no_network(tags: Tags) -> None:
    addresses = [
        value
        for _, attributes in tags.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert all((address or "").startswith(("#", "data:image/")) for address in addresses)
    assert not tags.named("link")


def test_thumbnails_are_small_and_can_be_left_out(tags: Tags, scores: ScoreTable, tmp_path: Path) -> None:
    encoded = [(each["src"] or "").partition("base64,")[2] for each in tags.named("img")]
    assert encoded
    for each in encoded:
        with Image.open(io.BytesIO(base64.b64decode(each))) as image:
            assert image.format == "JPEG"
            assert max(image.size) == LONG_SIDE_PX
    write_report(tmp_path / "plain.html", scores, thumbnails=False)
    assert not Tags((tmp_path / "plain.html").read_text(encoding="utf-8")).named("img")


def test_a_table_of_another_tool_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("filename,label,score\na.png,0,0.2\nb.png,1,0.7\n", encoding="utf-8")
    write_report(tmp_path / "report.html", read_scores(path))
    found = Tags((tmp_path / "report.html").read_text(encoding="utf-8"))
    named = [each["id"] for each in found.named("section")]
    assert named == [name for name in ALL_SECTIONS if name not in ("robustness", "audit", "prototypes")]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_makes_a_report(label: int, scores: ScoreTable, tmp_path: Path) -> None:
    frame = scores.frame[(scores.frame["label"] == label) & (scores.frame["degradation"] == "none")]
    write_report(tmp_path / "report.html", ScoreTable(frame, {}), thumbnails=False)
    assert "One class only" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_readable_makes_a_report(scores: ScoreTable, tmp_path: Path) -> None:
    lost = scores.frame[scores.frame["error"] != ""]
    write_report(tmp_path / "report.html", replace(scores, frame=lost))
    assert "damaged image: &lt;b&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_degraded_images_alone_make_a_report(scores: ScoreTable) -> None:
    frame = scores.frame[scores.frame["degradation"] != "none"]
    named = [each.anchor for each in make_sections(ScoreTable(frame, {}), audits={}, thumbnails=False)]
    assert "robustness" not in named


# ---------------------------------------------------------------------------------------------------------
# Its parts


def cells_of(section: Section, caption: str) -> list[list[str]]:
    (table,) = [block for block in section.blocks if block.kind == "table" and caption in block.caption]
    return [[cell.text for cell in row] for row in table.rows]


def test_figures_are_those_of_the_table(scores: ScoreTable) -> None:
    sections = {each.anchor: each for each in make_sections(scores, audits={}, thumbnails=False)}
    frame = scores.frame[(scores.frame["model"] == CALIBRATED) & (scores.frame["degradation"] == "none")]
    cameras = frame[(frame["source"] == "cameras") & (frame["error"] == "")]
    wrong = int((cameras["score"] >= 0.55).sum())
    rows = cells_of(sections["false-positives"], f"{CALIBRATED}: real images called fake, by source")
    (row,) = [row for row in rows if row[0] == "cameras"]
    assert row[1:3] == [str(len(cameras)), str(wrong)]
    assert row[3].startswith(f"{100 * wrong / len(cameras):.1f}")


def test_headlines_prefer_means_but_not_undefined_ones() -> None:
    table = pd.DataFrame(
        [
            ("m", "A", "x", 0.8),
            ("m", "A", "mean", 0.7),
            ("m", "A", "all images", 0.6),
            ("m", "B", "mean", None),
            ("m", "B", "all images", 0.5),
            ("m", "C", "C", 0.4),
            ("m", "D", "-", None),
            ("m", "MEAN", "mean", None),
        ],
        columns=["model", "benchmark", "subset", "balanced_accuracy"],
    )
    found = headlines(table)
    assert list(zip(found["benchmark"], found["subset"], strict=True)) == [
        ("A", "mean"),
        ("B", "all images"),
        ("C", "C"),
    ]


def test_worst_mistakes_are_the_farthest(scores: ScoreTable) -> None:
    worst = worst_mistakes(scores, model=OTHER, label=0, num=3)
    assert worst["score"].is_monotonic_decreasing
    assert (worst["score"] >= 0.5).all()
    assert "quoted" in worst["uri"].iloc[0]
    assert worst_mistakes(scores, model=OTHER, label=1)["score"].is_monotonic_increasing


def test_thumbnails_of_what_is_no_image(folder: Path, tmp_path: Path) -> None:
    assert thumbnail(folder / "2_0.png") is None
    assert thumbnail(tmp_path) is None
    assert thumbnail(Path("hub://owner/name/part.parquet#3")) is None
    assert thumbnail(Path("a\0b")) is None
    assert thumbnail(Path("x" * 5000)) is None


def test_cells() -> None:
    assert ranged(0.5, 0.4, 0.6) == Cell("0.500 [0.400, 0.600]", low=0.4, at=0.5, high=0.6)
    assert ranged(0.5, float("nan"), float("nan")) == Cell("0.500", at=0.5)
    assert ranged(float("nan"), 0, 0) == Cell("")
    assert shorten("a" * 60, limit=11) == "aaaa...aaaa"
    assert shorten("a\x00\nb") == "a??b"
    table = to_table(pd.DataFrame({"n": [1200], "x": [0.25]}), caption="", headings={"n": "n", "x": "x"})
    assert [cell.text for cell in table.rows[0]] == ["1,200", "0.250"]
