"""A folder of sheets: one page for each image that explains its verdict, and an index of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from gapl.cli import printable
from gapl.explain.families import UNKNOWN
from gapl.files.atomic import replacing
from gapl.files.refusal import begins_with, naming
from gapl.gallery import listing, markup
from gapl.gallery.thumbnails import Thumbnails
from gapl.options import SHEETS_INDEX
from gapl.origin.finding import CAMERA, EDITED, GENERATED, SCANNED
from gapl.results import Method, Result
from gapl.sheets import bars, evidence, sheet
from gapl.thumbnail import shrink
from gapl.verdict import Verdict

log = logging.getLogger(__name__)

KIND = "gapl-sheets"
THUMBNAIL_PX = 96
DIGITS = 12  # of the SHA-256, in the name of a sheet
_NAME = re.compile(rf"\d{{5,}}-[0-9a-z]{{{DIGITS}}}\.html")

_TABLE = (
    '<table class="sheets"><caption>The name of an image leads to its sheet, which explains the verdict.</caption>'
    '<thead><tr><td></td><th scope="col">Image</th><th scope="col">Verdict and score</th>'
    f'<th scope="col">Holds in</th></tr></thead>\n<tbody id="cards">\n{listing.CUT}</tbody></table>'
)
_ROW = Template(
    '<tr data-label="$label" data-score="$score_full"><td>$picture</td>'
    '<td><a class="name" href="$sheet">$name</a>$notes$warnings$copies</td>'
    '<td class="scored"><p class="verdict"><b>$label</b> <span>$score</span></p>$scale</td><td>$holds</td></tr>\n'
)


class Sheets:
    """Writes each sheet as it comes, and at the end the index. Memory grows by a line of the index for each."""

    def __init__(self, folder: Path, *, method: Method, overwrite: bool) -> None:
        """Make the folder.

        Raises ValueError when another index is there, OSError when nothing can be written there.
        """
        self.path, self._method, self._overwrite = folder, method, overwrite
        self._index = folder / SHEETS_INDEX
        if self._index.exists() and not overwrite and not begins_with(self._index, listing.start(KIND)):
            raise ValueError(f"{self._index} is there already, and no index of sheets; --overwrite replaces it")
        self._results: list[Result] = []
        self._sheets: dict[str, str] = {}  # names of files, by the SHA-256 of images
        self._notes: dict[str, tuple[str, str]] = {}  # what else the index says of them, as HTML
        self._thumbnails = Thumbnails(self._index)

    def add(self, result: Result, image: Image.Image | None) -> None:
        """Write the sheet of a result. One without a verdict, or whose content has a sheet, is only in the index.

        A sheet without a picture is written anew for a duplicate that can be read.

        image   in RGB, as places in the explanation mean it; None where it cannot be read

        Raises ValueError when another file has the name of the sheet, OSError when it cannot be written.
        """
        self._results.append(replace(result, explanation=None, origin=None))
        if not result.verdict or (result.sha256 in self._sheets and not image):
            return
        new = f"{len(self._results):05d}-{result.sha256[:DIGITS]}.html"
        file = self._sheets.setdefault(result.sha256, new)
        self._notes[result.sha256] = _notes(result.row(self._method).get("explanation", {}), result.verdict)
        self._write(self.path / file, sheet.sheet(result, image, method=self._method))
        if image:
            self._thumbnails.add(result.sha256, shrink(image.copy(), long_side_px=THUMBNAIL_PX))

    def _write(self, path: Path, page: str) -> None:
        if path.exists() and not begins_with(path, listing.start(sheet.KIND)):
            raise ValueError(f"{path} is there already, and no sheet; name another folder for --sheets")
        with naming(path), replacing(path) as scratch:
            scratch.write_text(page, encoding="utf-8")

    def finish(self) -> None:
        """Write the index. Sheets of other images stay, unless they may be overwritten."""
        style = sheet.style()
        parts = listing.page(self._results, self._row, method=self._method, kind=KIND, items=_TABLE, style=style)
        with naming(self._index), replacing(self._index) as scratch, scratch.open("w", encoding="utf-8") as page:
            page.writelines(parts)
        self._thumbnails.close()
        self._remove_older()

    def _remove_older(self) -> None:
        """Remove sheets of earlier runs: those of the same images under other numbers, and others if we may."""
        own = set(self._sheets.values())
        contents = {_content(name) for name in own}
        found = (each for each in self.path.iterdir() if _NAME.fullmatch(each.name) and each.name not in own)
        older = [each for each in found if begins_with(each, listing.start(sheet.KIND))]
        removed = [each for each in older if self._overwrite or _content(each.name) in contents]
        for each in removed:
            each.unlink()
        if left := len(older) - len(removed):
            what = f"{left} sheets of earlier runs are not in its index; --overwrite removes them"
            log.warning("%s: %s", printable(self.path), what)

    def _row(self, result: Result, copies: list[str], folder: str) -> str:
        verdict = result.verdict
        assert verdict
        name = markup.name(result.path, folder)
        notes, holds = self._notes[result.sha256]
        return _ROW.substitute(
            label=markup.text(verdict.label),
            score_full=verdict.score,
            score=f"{verdict.score:.3f}",
            scale=bars.small_scale(verdict.score, verdict),
            picture=self._thumbnails.framed(result.sha256, alt=""),
            sheet=self._sheets[result.sha256],
            name=name,
            notes=notes,
            holds=holds,
            warnings=listing.warnings(verdict),
            copies=listing.duplicates(copies, folder),
        )


def _content(name: str) -> str:
    """Return the digits of an image in the name of its sheet."""
    return name.removesuffix(".html").rpartition("-")[2]


def _notes(explanation: Mapping[str, Any], verdict: Verdict) -> tuple[str, str]:
    """Return what the index says of an image beside its verdict, and in how many re-saves that holds."""
    lines = []
    if (family := explanation.get("family")) and family["name"] != UNKNOWN:
        lines.append(f"family of generators: {family['name']}")
    for each in explanation.get("origin", []):
        if each["says"] in (GENERATED, EDITED, CAMERA, SCANNED):
            lines.append(f"the file says: {each['says']}" + (f" ({each['name']})" if each["name"] else ""))
    if explanation.get("unlike", {}).get("is_unlike"):
        lines.append("unlike anything in training")
    stable = explanation.get("stable")
    holds = evidence.holds(stable) if stable else ""
    if evidence.is_unstable(explanation, verdict):
        lines.append("the verdict is not stable: take it as unsure")
    notes = "".join(f"<li>{markup.text(each)}</li>" for each in dict.fromkeys(lines))
    return f'<ul class="notes">{notes}</ul>' if notes else "", holds
