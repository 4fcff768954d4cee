"""Judge images batch by batch, each content once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from gapl.detector import Detector
from gapl.inputs.input import Input
from gapl.results import Result
from gapl.thumbnail import Thumbnail
from gapl.verdict import Verdict
from gapl.workers import Workers

Show = Callable[[str, Thumbnail], None]  # (SHA-256, thumbnail) of an image that was read


def judge_files(
    detector: Detector,
    images: list[Input],
    workers: Workers,
    *,
    batch_size: int,
    known: dict[str, Verdict],
    show: Show | None = None,
) -> Iterator[Result]:
    """Yield what is found of each image, in their order. The same content is judged once.

    While a batch is judged, the workers look at the next one. Of images only what the detector looks at is kept in
    memory: that of two batches, and of an image for each worker.

    known   verdicts by the SHA-256 of files, which those that are found are added to
    show    gets the thumbnails, where the workers make them
    """
    looks = zip(images, workers.look(images, ahead=batch_size), strict=True)
    while batch := list(islice(looks, batch_size)):
        new = {look.sha256: look.seen for _, look in batch if look.seen and look.sha256 not in known}
        known |= zip(new, detector.judge(list(new.values())), strict=True)
        for image, look in batch:
            if show and look.thumbnail:
                show(look.sha256, look.thumbnail)
            verdict = None if look.error else known[look.sha256]
            yield Result(image.name, look.sha256, verdict, look.error, origin=look.origin)
