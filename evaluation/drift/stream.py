"""A table of verdicts, of the command line or of `benchmarks.py run` -> a stream: each image once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.drift.judgement import Judgement
from evaluation.drift.results_table import is_table_of_results, read_results
from evaluation.tables.scores import CLEAN, ScoreTable, read_scores

FOLDER, SOURCE = CLUSTERS = ("folder", "source")


@dataclass(frozen=True)
class Stream:
    """The different images of a table.

    images      a row for each: `path`, `sha256`, `error` (empty where it has a score), `score`, `cluster` where
                images belong together, and what the table holds of: `distance` (from training), `family`,
                `warnings`, `format`, `side` (the short one, in px), `generator` and `source`
    vectors_NE  embeddings of the rows of `images`, of length 1, if the table has them for all that could be read
    duplicates  rows that were left out, since their content is in a row before them
    """

    path: Path
    judgement: Judgement
    images: pd.DataFrame
    duplicates: int
    vectors_NE: np.ndarray | None = None

    @property
    def readable(self) -> pd.DataFrame:
        """The images that have a score."""
        return self.images[self.images["error"] == ""]

    @property
    def readable_vectors(self) -> np.ndarray | None:
        """The embeddings of these, if the table has them."""
        return None if self.vectors_NE is None else self.vectors_NE[(self.images["error"] == "").to_numpy()]

    @property
    def drawn(self) -> str:
        """What one draw from the stream is, in the plural."""
        return "clusters" if "cluster" in self.images else "different images"

    @property
    def num_drawn(self) -> int:
        """How many of them have a score."""
        return int(self.readable["cluster"].nunique()) if "cluster" in self.images else len(self.readable)


def read_stream(path: Path, *, model: str | None = None, cluster: str | None = None) -> Stream:
    """Read a table of `--out` (parquet, CSV, JSON or JSONL), or the scores.parquet of `benchmarks.py run`.

    model    which detector of a table of scores; None: it has only one
    cluster  which images belong together: those of a "folder" or of a "source"; None: each stands for itself

    Of a table of scores, images without degradation count. Raises ValueError, one line, when the file is no such
    table, holds no verdict, or those of several detectors or options.
    """
    if is_table_of_results(path):
        if model is not None:
            raise ValueError(f"{path} holds results of one detector; --model is for tables of scores")
        frame, stated = read_results(path)
    else:
        frame, stated = _of_scores(path, read_scores(path), model=model)
    content = frame["sha256"].where(frame["sha256"] != "", "path " + frame["path"])
    once = frame[~content.duplicated()].reset_index(drop=True)
    if not (once["error"] == "").any():
        raise ValueError(f"{path}: none of its {len(once)} images has a verdict")
    if cluster:
        once = once.assign(cluster=_clusters(once, by=cluster, where=path))
    vectors_NE = _vectors(once.pop("embedding"), once["error"] == "") if "embedding" in once else None
    return Stream(path, stated, once, len(frame) - len(once), vectors_NE)


def _clusters(images: pd.DataFrame, *, by: str, where: Path) -> pd.Series:
    if by == FOLDER:
        return images["path"].str.replace("\\", "/", regex=False).str.rpartition("/")[0]
    if SOURCE not in images or (images[SOURCE] == "").any():
        raise ValueError(f"{where} does not name a source for each image; clusters may be folders")
    return images[SOURCE]


def check_comparable(before: Stream, now: Stream) -> None:
    """Raise ValueError unless both were judged alike."""
    first, second = before.judgement, now.judgement
    pairs = {
        "detectors": (first.sha256[:12], second.sha256[:12]),
        "views": (first.views, second.views),
        "operating points": (_point(first), _point(second)),
        "explainer files": (first.explainer[:12], second.explainer[:12]),
    }
    for what, (one, other) in pairs.items():
        if one != other and (what != "explainer files" or (one and other)):
            raise ValueError(
                f"{before.path} and {now.path} are of different {what}, {one} and {other}: a change of scores "
                "would say nothing of the images; judge both alike"
            )


def _point(judgement: Judgement) -> str:
    rule = judgement.rule
    return f"{judgement.operating_point or 'of the detector'} ({rule.real_below:.4g} to {rule.threshold:.4g})"


def _of_scores(path: Path, scores: ScoreTable, *, model: str | None) -> tuple[pd.DataFrame, Judgement]:
    """Return the images of one detector in a table of scores, and how they were judged."""
    found = ", ".join(scores.models)
    if model is None and len(scores.models) > 1:
        raise ValueError(f"{path} has scores of {found}; choose one with --model")
    name = model or scores.models[0]
    if name not in scores.models:
        raise ValueError(f"{path} has no scores of {name!r}; it has {found}")
    if name not in scores.detectors:
        raise ValueError(
            f"{path} does not say which detector file made its scores; expected a table of this project"
        )
    known, frame = scores.detectors[name], scores.frame
    rows = frame[(frame["model"] == name) & (frame["degradation"] == CLEAN)]
    images = rows.rename(columns={"uri": "path", "content_sha256": "sha256"})
    if rows.empty:
        raise ValueError(f"{path} has no scores of {name!r} without degradation")
    kept = ["path", "sha256", "error", "score", "generator", "source"]
    read = rows[rows["error"] == ""]
    if (read["format"] != "").all() and (read["width"] > 0).all():
        images = images.assign(side=rows[["width", "height"]].min(axis=1).astype(float))
        kept += ["format", "side"]
    kept += ["embedding"] if "embedding" in images else []
    return images[kept], Judgement(known.sha256, known.views, "", scores.rule(name))


def _vectors(embeddings: pd.Series, is_read: pd.Series) -> np.ndarray | None:
    """Return unit vectors, zeros for images without a score; None where one of the others has no embedding."""
    if embeddings[is_read].isna().any():
        return None
    width = len(embeddings[is_read].iloc[0])
    vectors_NE = np.zeros((len(embeddings), width))
    vectors_NE[is_read.to_numpy()] = np.stack(list(embeddings[is_read]))
    length_N1 = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    return vectors_NE / np.maximum(length_N1, 1e-12)
