"""Judge images batch by batch, each content once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from gapl.detector import Detector, Judged
from gapl.inputs.input import Input
from gapl.results import Result
from gapl.thumbnail import Thumbnail
from gapl.workers import Workers

Show = Callable[[str, Thumbnail], None]  # (SHA-256, thumbnail) of an image that was read


def judge_files(
    detector: Detector,
    images: list[Input],
    workers: Workers,
    *,
    batch_size: int,
    known: dict[str, Judged],
    explain: bool = False,
    show: Show | None = None,
) -> Iterator[Result]:
    """Yield what is found of each image, in their order. The same content is judged once.

    While a batch is judged, the workers look at the next one. Of images only what the detector looks at is kept in
    memory: that of two batches, and of an image for each worker.

    known    what was judged, by the SHA-256 of files; what is found is added to it
    explain  whether verdicts are explained
    show     gets the thumbnails, where the workers make them
    """
    looks = zip(images, workers.look(images, ahead=batch_size), strict=True)
    while batch := list(islice(looks, batch_size)):
        new = {look.sha256: look.seen for _, look in batch if look.seen and look.sha256 not in known}
        seen = list(new.values())
        judged = detector.explain(seen) if explain else list(map(Judged, detector.judge(seen)))
        known |= zip(new, judged, strict=True)
        for image, look in batch:
            if show and look.thumbnail:
                show(look.sha256, look.thumbnail)
            found = Result(image.name, look.sha256, None, look.error, origin=look.origin)
            yield found if look.error else replace(found, **known[look.sha256]._asdict())
