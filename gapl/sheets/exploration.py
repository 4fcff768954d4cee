"""A second look at images that were judged: where in each the score comes from, and how stable its verdict is.

This takes seconds for each image, so it is for those who asked for sheets.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from PIL import Image

from gapl.cli import printable
from gapl.decode import UnreadableImage, decode_image, to_rgb
from gapl.detector import Detector, Judged
from gapl.explain.words import in_words
from gapl.inputs.input import Input, read_within
from gapl.kept import Kept
from gapl.results import Result
from gapl.sheets.folder import Sheets

log = logging.getLogger(__name__)

FOUND = ("where", "stable")  # what is added to an explanation


class Exploration:
    """Explores images one at a time, in this process, each content once, and has their sheets written."""

    def __init__(self, detector: Detector, sheets: Sheets) -> None:
        """Take the detector that judged them. Raises OSError when nothing can be written beside the sheets."""
        self._detector, self._sheets, self._kept = detector, sheets, Kept(sheets.path)

    def keeping(self, image: Input) -> Input:
        """Return an image that can be read again after it was judged."""
        return self._kept.keeping(image)

    def explored(
        self, results: Iterable[Result], images: Iterable[Input], *, known: dict[str, Judged]
    ) -> Iterator[Result]:
        """Yield the results, explained by what is found, when their sheets are written; and write the index.

        images   of the results, in their order
        known    what was judged, by the SHA-256 of files; what is found is added to it

        Raises what `Sheets` does.
        """
        done: set[str] = set()
        with closing(self._kept):
            for result, image in zip(results, images, strict=True):
                shown = None
                if result.verdict and result.sha256 not in done:
                    shown = self._shown(image, result.sha256)
                self._kept.drop(image.name)
                if shown:
                    done.add(result.sha256)  # one that is gone may have a duplicate that is not
                    result = self._explain(result, shown, known, name=image.name)
                self._sheets.add(result, shown)
                yield result
        self._sheets.finish()

    def _shown(self, image: Input, sha256: str) -> Image.Image | None:
        """Return the image in RGB, as places in an explanation mean it; None where it has changed, or is gone."""
        kept = self._kept.get(image.name)
        try:
            encoded = kept.read_bytes() if kept else read_within(image)
            if hashlib.sha256(encoded).hexdigest() != sha256:
                raise UnreadableImage("it has changed since it was judged")
            return to_rgb(decode_image(encoded), conversion=self._detector.pixel.conversion)
        except (UnreadableImage, OSError, MemoryError) as error:
            log.warning("%s: its sheet has no picture: %s", printable(image.name), error or "too little memory")
            return None

    def _explain(self, result: Result, image: Image.Image, known: dict[str, Judged], *, name: str) -> Result:
        assert result.verdict
        explanation = dict(result.explanation or {})
        if not explanation.keys() >= set(FOUND):  # else a table has it, of a run that was stopped
            from gapl.explain.exploring import explore

            try:
                explanation |= explore(self._detector, image)
            except MemoryError:
                log.warning("%s: its sheet has no maps: too little memory", printable(name))
                return result
            explanation["in_words"] = in_words(explanation)
        known[result.sha256] = Judged(result.verdict, explanation)
        return replace(result, explanation=explanation)
