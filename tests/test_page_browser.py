"""The report in a chromium: no network is asked, and it can be read at any width, in the dark, by keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from example_scores import ALL_SECTIONS, make_report, make_scores, with_details

INK = ("figure svg text", "fill")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = with_details(make_scores(tmp_path_factory.mktemp("images")))
    return make_report(scores, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint(browser: Any, page: Path, width: int, scheme: str) -> None:
    complaints: list[str] = []
    requests: list[str] = []
    view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("dialog", lambda dialog: complaints.append(dialog.message))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(page.as_uri())
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    ink, paper, drawn = (
        _brightness(view, *where) for where in (("body", "color"), ("body", "backgroundColor"), INK)
    )
    assert (ink > 180 and paper < 60) if scheme == "dark" else (ink < 60 and paper > 230)
    assert drawn == ink
    view.close()


def _brightness(view: Any, selector: str, name: str) -> float:
    colour = view.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_tab_reaches_the_links_in_order(browser: Any, page: Path) -> None:
    view = browser.new_page()
    view.goto(page.as_uri())
    reached = []
    for _ in range(1 + len(ALL_SECTIONS)):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.getAttribute('href')"))
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert view.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    assert reached == ["#main", *(f"#{name}" for name in ALL_SECTIONS)]
    view.close()


def test_the_skip_link_skips(browser: Any, page: Path) -> None:
    view = browser.new_page()
    view.goto(page.as_uri())
    view.keyboard.press("Tab")
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "main"
    view.close()


def test_wide_tables_scroll_in_their_box(browser: Any, page: Path) -> None:
    view = browser.new_page(viewport={"width": 390, "height": 844})
    view.goto(page.as_uri())
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert view.evaluate(f"{boxes}.some(box => box.scrollWidth > box.clientWidth)")
    assert view.evaluate(f"{boxes}.every(box => box.tabIndex === 0)")
    captions = "[...document.querySelectorAll('caption')]"
    assert view.evaluate(f"{captions}.every(caption => caption.getBoundingClientRect().width <= innerWidth)")
    view.close()
