"""Write the judged images as one HTML file: thumbnails by score, which a reader sorts and filters."""

from __future__ import annotations

from pathlib import Path
from string import Template

from gapl.files.atomic import replacing
from gapl.files.refusal import begins_with, naming
from gapl.gallery import listing, markup
from gapl.gallery.thumbnails import Thumbnails
from gapl.results import Method, Result
from gapl.thumbnail import Thumbnail

KIND = "gapl-gallery"

_CARDS = f'<ol id="cards" class="cards" aria-label="Images">\n{listing.CUT}</ol>'
_CARD = Template(
    '<li class="card" data-label="$label" data-score="$score_full">$picture'
    '<p class="verdict"><b>$label</b> <span>$score</span></p>'
    '<svg class="scale" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">'
    '<rect class="$label" width="$percent" height="3"/></svg>'
    '<p class="name" title="$name">$name</p>$warnings$copies</li>\n'
)


class Gallery:
    """A page of results. Thumbnails wait on disk until the page is written, so memory does not grow with them."""

    def __init__(self, path: Path, *, method: Method, overwrite: bool) -> None:
        """Begin the page; an older gallery is replaced at the end.

        Raises ValueError when another file is there, OSError when nothing can be written there.
        """
        if path.exists() and not overwrite and not begins_with(path, listing.start(KIND)):
            raise ValueError(f"{path} is there already, and no gallery; --overwrite replaces it")
        self.path, self._method = path, method
        self._results: list[Result] = []
        self._thumbnails = Thumbnails(path)

    def show(self, sha256: str, thumbnail: Thumbnail) -> None:
        """Take the thumbnail of a content."""
        self._thumbnails.add(sha256, thumbnail)

    def add(self, result: Result) -> None:
        """Take a result for the page."""
        self._results.append(result)

    def finish(self) -> None:
        """Write the page, whole or not at all."""
        parts = listing.page(self._results, self._card, method=self._method, kind=KIND, items=_CARDS)
        with naming(self.path), replacing(self.path) as scratch, scratch.open("w", encoding="utf-8") as page:
            page.writelines(parts)
        self._thumbnails.close()

    def _card(self, result: Result, copies: list[str], folder: str) -> str:
        verdict = result.verdict
        assert verdict is not None
        name = markup.name(result.path, folder)
        return _CARD.substitute(
            label=markup.text(verdict.label),
            score_full=verdict.score,
            score=f"{verdict.score:.3f}",
            percent=f"{100 * verdict.score:.1f}",
            name=name,
            picture=self._thumbnails.framed(result.sha256, alt=name),
            warnings=listing.warnings(verdict),
            copies=listing.duplicates(copies, folder),
        )
