"""The documents name files, headings and modules that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structure import LAYERS

from data.words import CLASSES, CLASSES_BESIDE
from gapl.columns import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for pattern in ("*.md", "*/*.md", "scripts/*.sh") for path in ROOT.glob(pattern))
FOLDERS = "|".join(
    [*(name for name in LAYERS if (ROOT / name).is_dir()), "assets", "docs", "requirements", "scripts"]
)
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/-]+\.(?:py|sh|yaml|md|txt|png|jpg)\b")
SCRIPT = re.compile(r"(?<![\w/.-])\w+\.py\b")  # at the root
MODULE = re.compile(rf"python -m ((?:{FOLDERS})[\w.]*\w)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def slugs(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


# The changelog also names what is gone.
@pytest.mark.parametrize(
    "page", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {*PATH.findall(text), *SCRIPT.findall(text)}
    named |= {module.replace(".", "/") for module in MODULE.findall(text)}
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or slugs(target).count(anchor) == 1, link  # of two such headings it finds the first


def test_what_is_not_there_is_found() -> None:
    text = "See `data/no/such.py`, models/tower.py, ../data/other.md and train.py; python -m data.none."
    assert PATH.findall(text) == ["data/no/such.py", "models/tower.py"]
    assert SCRIPT.findall(text) == ["train.py"]
    assert MODULE.findall(text) == ["data.none"]


def test_the_words_of_folders_and_manifests_are_listed() -> None:
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for table in (CLASSES, CLASSES_BESIDE, COLUMNS):
        for words in table.values():
            assert f"| {', '.join(words)} |" in text
