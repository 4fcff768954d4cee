"""A table of scores -> the images that a detector is most wrong about, with thumbnails where possible."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd

from evaluation.tables.scores import ScoreTable
from gapl.thumbnail import LONG_SIDE_PX, make_thumbnail
from reporting.blocks import Block, Gallery, Section, Thumbnail, Words, shorten

SHOWN = 12  # of each kind of mistake
MAX_FILE_BYTES = 64 << 20


def mistakes(scores: ScoreTable, *, thumbnails: bool) -> Section:
    """Return the section with the worst mistakes of each detector, by class."""
    blocks: list[Block] = []
    for model in scores.models:
        for label, what in ((0, "Real images with the highest scores"), (1, "Fakes with the lowest scores")):
            worst = worst_mistakes(scores, model=model, label=label)
            title = f"{model}: {what.lower()}" if len(scores.models) > 1 else what
            blocks.append(Words(heading=title))
            if worst.empty:
                blocks.append(Words(["There are no such mistakes."]))
                continue
            items = [_thumbnail(row, thumbnails=thumbnails) for _, row in worst.iterrows()]
            blocks.append(Gallery(f"{what}, the worst first; the detector is wrong about all of them.", items))
    meaning = (
        "No threshold corrects these errors without many new ones. Look for what the images have in common: a "
        "medium, a subject, a format. Some of them may have the wrong label."
    )
    return Section("mistakes", "The worst mistakes", meaning, blocks)


def worst_mistakes(scores: ScoreTable, *, model: str, label: int, num: int = SHOWN) -> pd.DataFrame:
    """Return the rows of real images (label 0) called fake, or of fakes (1) called real, the worst first."""
    rows = scores.readable(model)
    rows = rows[(rows["label"] == label) & ((rows["score"] >= scores.threshold(model)) != bool(label))]
    return rows.sort_values(["score", "logit", "uri"], ascending=[bool(label), bool(label), True]).head(num)


def thumbnail(path: Path, *, long_side_px: int = LONG_SIDE_PX) -> tuple[bytes, tuple[int, int]] | None:
    """Return a small JPEG and its (width, height) in pixels; None when the file is gone or is no image."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return None
        return make_thumbnail(path.read_bytes(), long_side_px=long_side_px)
    except (OSError, ValueError):
        return None


def _thumbnail(row: pd.Series, *, thumbnails: bool) -> Thumbnail:
    uri = str(row["uri"])
    name = shorten(Path(uri).name or uri, limit=40)
    origin = shorten(str(row["source"] or row["generator"] or row["benchmark"]), limit=40)
    score = f"{row['score']:.3f}"
    made = thumbnail(Path(uri)) if thumbnails else None
    if made is None:
        return Thumbnail(name, score, origin)
    encoded, (width, height) = made
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
    return Thumbnail(name, score, origin, source, width, height)
