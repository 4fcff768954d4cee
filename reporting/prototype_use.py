"""Embeddings and attention of scored images -> which prototypes respond to which source, and a map of the images.

A table of scores has them when it was made with `run --details`. Shape suffixes: N images, G sources,
P prototypes, E embedding.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from evaluation.tables.scores import ScoreTable
from gapl.labels import Label
from reporting import plots
from reporting.blocks import Block, Section, Words
from reporting.svg import to_picture

MAX_MAPPED = 5000  # images of a map; of more, so many are drawn


def prototype_use(scores: ScoreTable) -> Section | None:
    """Return the section, or None for a table without embeddings and attention.

    How many prototypes stand for real images is in the table where the detector's file says it, as "num_real".
    """
    blocks: list[Block] = []
    for model in scores.models:
        rows = scores.readable(model)
        found = _attention(scores, rows, model=model) + _map(rows, model=model)
        if found:
            blocks += [Words(heading=model), *found]
    if not blocks:
        return None
    meaning = (
        "The detector describes an image as a mixture of prototypes: vectors that stand for real images and for "
        "generators. If the row of a generator looks like those of real images, no prototype stands for it, and "
        "on the map its images are among the real images."
    )
    return Section("prototypes", "Prototypes and embeddings", meaning, blocks)


def mean_attention(rows: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return the names of the sources, real images first, and their mean attention_GP."""
    names, means = [], []
    for (label, source), of_source in rows.groupby(["label", "source"], sort=True):
        names.append(f"{source or 'unnamed'} ({Label(label).word})")
        means.append(np.stack(of_source["attention"].to_list()).mean(axis=0))
    return names, np.stack(means)


def _attention(scores: ScoreTable, rows: pd.DataFrame, *, model: str) -> list[Block]:
    rows = _with_vectors(rows, "attention")
    if rows.empty:
        return []
    names, attention_GP = mean_attention(rows)
    known = scores.detectors.get(model)
    num_real = known.prototypes.get("num_real") if known else None
    figure = plots.attention(attention_GP, names=names, num_real=num_real)
    label = (
        f"Heat map of the mean attention of {len(names)} sources to {attention_GP.shape[1]} prototypes of {model}"
    )
    caption = "Mean attention of the images of a source to each prototype; bright means much."
    return [to_picture(figure, label=label, caption=caption, is_wide=True)]


def _map(rows: pd.DataFrame, *, model: str) -> list[Block]:
    rows = _with_vectors(rows, "embedding")
    if len(rows) < 3:
        return []
    drawn = rows.sample(min(len(rows), MAX_MAPPED), random_state=0)
    embedding_NE = np.stack(drawn["embedding"].to_list()).astype(np.float64)
    pca = PCA(2, svd_solver="full").fit(embedding_NE)
    share = pca.explained_variance_ratio_
    figure = plots.embedding_map(
        pca.transform(embedding_NE),
        drawn["label"].to_numpy(int),
        axis_names=(f"first component, {share[0]:.0%} of variance", f"second, {share[1]:.0%}"),
    )
    label = f"Map of the embeddings of {len(drawn)} images by {model}, real images and fakes"
    caption = f"Embeddings of {len(drawn):,} of {len(rows):,} images on their two principal components."
    return [to_picture(figure, label=label, caption=caption)]


def _with_vectors(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows that have a vector as long as the first one."""
    if column not in rows:
        return rows.iloc[:0]
    lengths = rows[column].map(lambda value: len(value) if isinstance(value, np.ndarray | list | tuple) else 0)
    some = lengths[lengths > 0]
    return rows[lengths == some.iloc[0]] if len(some) else rows.iloc[:0]
