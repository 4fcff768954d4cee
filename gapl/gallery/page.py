"""Write the judged images as one HTML file: thumbnails by score, which a reader sorts and filters.

Styles, script and pictures are inside the file, and its Content-Security-Policy lets it load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template

from gapl.cli import printable
from gapl.files.atomic import replacing
from gapl.files.refusal import naming
from gapl.results import UNREADABLE, Method, Result
from gapl.thumbnail import Thumbnail
from gapl.verdict import LABELS

TEMPLATES = Path(__file__).parent
START = b'<!doctype html>\n<html lang="en" data-page="gapl-gallery">'  # of page.html: such a file may be replaced

_CARD = Template(
    '<li class="card" data-label="$label" data-score="$score_full">$picture'
    '<p class="verdict"><b>$label</b> <span>$score</span></p>'
    '<svg class="scale" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">'
    '<rect class="$label" width="$percent" height="3"/></svg>'
    '<p class="name" title="$name">$name</p>$warnings$copies</li>\n'
)
_PICTURE = Template(
    '<div class="frame"><img src="data:image/jpeg;base64,$jpeg" width="$width" height="$height" alt="$name"></div>'
)
_GONE = '<div class="frame">no picture</div>'
_FAILURE = Template(
    '<li data-label="unreadable"><span class="name">$name</span> <span class="why">$why</span></li>\n'
)
_CHOICE = Template(
    '<label class="$label"><input type="checkbox" value="$label" checked> $label <span>$count</span></label>'
)


class Gallery:
    """A page of results. Thumbnails wait on disk until the page is written, so memory does not grow with them."""

    def __init__(self, path: Path, *, method: Method, overwrite: bool) -> None:
        """Begin the page; an older gallery is replaced at the end.

        Raises ValueError when another file is there, OSError when nothing can be written there.
        """
        if path.exists() and not overwrite and not _is_gallery(path):
            raise ValueError(f"{path} is there already, and no gallery; --overwrite replaces it")
        self.path, self._method = path, method
        self._results: list[Result] = []
        self._places: dict[str, tuple[int, int, tuple[int, int]]] = {}  # of thumbnails: start, length, size
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._thumbnails = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - until the page is written

    def show(self, sha256: str, thumbnail: Thumbnail) -> None:
        """Take the thumbnail of a content."""
        if sha256 not in self._places:
            with naming(self.path):
                self._places[sha256] = (self._thumbnails.tell(), len(thumbnail.jpeg), thumbnail.size)
                self._thumbnails.write(thumbnail.jpeg)

    def add(self, result: Result) -> None:
        """Take a result for the page."""
        self._results.append(result)

    def finish(self) -> None:
        """Write the page, whole or not at all."""
        with naming(self.path), replacing(self.path) as scratch, scratch.open("w", encoding="utf-8") as page:
            page.writelines(self._parts())
        self._thumbnails.close()

    def _parts(self) -> Iterator[str]:
        folder = _common_folder(result.path for result in self._results)
        copies: dict[str, list[str]] = {}
        for result in self._results:
            if result.duplicate_of:
                copies.setdefault(result.sha256, []).append(result.path)
        shown = [each for each in self._results if each.verdict and not each.duplicate_of]
        shown.sort(key=lambda each: -each.verdict.score if each.verdict else 0)
        failed = [each for each in self._results if not each.verdict]
        head, between, tail = _page(self._results, self._method, folder).split("<!--cut-->")
        yield head
        for result in shown:
            yield self._card(result, copies.get(result.sha256, []), folder)
        yield between
        for result in failed:
            yield _FAILURE.substitute(name=_name(result.path, folder), why=_text(result.error))
        yield tail

    def _card(self, result: Result, copies: list[str], folder: str) -> str:
        verdict = result.verdict
        assert verdict is not None
        name = _name(result.path, folder)
        warnings = "".join(f"<li>{_text(each)}</li>" for each in verdict.warnings)
        names = "".join(f"<li>{_name(each, folder)}</li>" for each in copies)
        count = f"{len(copies)} duplicate{'s' * (len(copies) > 1)}"
        return _CARD.substitute(
            label=_text(verdict.label),
            score_full=verdict.score,
            score=f"{verdict.score:.3f}",
            percent=f"{100 * verdict.score:.1f}",
            name=name,
            picture=self._picture(result.sha256, name),
            warnings=f'<ul class="warnings">{warnings}</ul>' if warnings else "",
            copies=f"<details><summary>{count}</summary><ul>{names}</ul></details>" if copies else "",
        )

    def _picture(self, sha256: str, name: str) -> str:
        if sha256 not in self._places:
            return _GONE
        start, length, (width, height) = self._places[sha256]
        self._thumbnails.seek(start)
        jpeg = base64.b64encode(self._thumbnails.read(length)).decode()
        return _PICTURE.substitute(jpeg=jpeg, width=width, height=height, name=name)


def _is_gallery(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(START)) == START


def _page(results: list[Result], method: Method, folder: str) -> str:
    """Return the page without its pictures: <!--cut--> marks where they belong, and what could not be read."""
    counts = Counter(each.verdict.label if each.verdict else UNREADABLE for each in results)
    style, script = (TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    duplicates = sum(bool(each.duplicate_of) for each in results)
    options = [f"views: {method.views}"]
    if method.operating_point:
        options.append(f"operating point: {method.operating_point}")
    choices = "".join(
        _CHOICE.substitute(label=label, count=f"{counts[label]:,}")
        for label in (*LABELS, UNREADABLE)
        if counts[label]
    )
    page = Template(TEMPLATES.joinpath("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        total=f"{len(results):,}",
        folder=f" in {_text(folder)}" if folder else "",
        duplicates=f" {duplicates:,} of them are duplicates: each content is shown once." if duplicates else "",
        rule=_rule(results),
        model=_text(method.model),
        model_sha256=method.model_sha256,
        options=_text(", ".join(options)),
        choices=choices,
        no_failures="" if counts[UNREADABLE] else " hidden",
    )


def _rule(results: list[Result]) -> str:
    """Return how scores become labels, which is the same for all results of a run."""
    verdict = next((each.verdict for each in results if each.verdict), None)
    if verdict is None:
        return ""
    below, fake = f"{verdict.real_below:.3f}", f"{verdict.threshold:.3f}"
    unsure = ", between unsure" if below != fake else ""
    return f": below {below} it is called real, from {fake} on fake{unsure}"


def _hash(text: str) -> str:
    """Return how a Content-Security-Policy names a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _common_folder(paths: Iterable[str]) -> str:
    """Return the folder that all paths are in; empty where there is none."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 - a name need not be that of a file
    try:
        return os.path.commonpath(folders)
    except ValueError:  # absolute and relative ones, or other drives
        return ""


def _name(path: str, folder: str) -> str:
    return _text(path[len(folder) :].lstrip(os.sep) if folder else path)


def _text(text: str) -> str:
    return html.escape(printable(text))
