"""Two streams -> how likely each image of now is of a kind that there was less of before.

If now is what was before, and a share of something new, then at least 1 - r of the images that look alike are
new, where r is the density of such images before over that of now. A classifier that tells the two streams apart
gives r (Sugiyama, Suzuki, Kanamori 2012, Density ratio estimation in machine learning). Each image is judged by a
classifier that has not seen it, nor others of its cluster. Where these do not tell the streams apart better than
chance, nothing is called new.

Shape suffixes: M images of now; N images before, and then those; E width of an embedding.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import logit

from evaluation.drift.properties import NAMES, NUMBERS
from evaluation.drift.stream import Stream

FOLDS = 5
COMPONENTS = 16  # of the embeddings
LEAST = 20  # images of each stream: fewer tell nothing
LEAST_ALIKE = 5  # images in a leaf of a tree
SURE = 2.0  # standard errors of chance by which the classifier must tell the streams apart


def new_shares(before: Stream, now: Stream) -> np.ndarray:
    """Return share_M, from 0 to 1, of the images of now that have a score; zeros where the streams look alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    num_before, num_now = len(before.readable), len(now.readable)
    unknown_M, is_now = np.zeros(num_now), np.repeat([False, True], [num_before, num_now])
    groups = _groups(before, now)
    num_groups = [len(np.unique(groups[part])) for part in (~is_now, is_now)]
    if min(num_before, num_now) < LEAST or min(num_groups) < FOLDS:
        return unknown_M
    values, probability = _properties(before, now), np.empty(len(is_now))
    fold = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % FOLDS
    for number in range(FOLDS):
        others = fold != number
        if is_now[others].all() or not is_now[others].any():
            return unknown_M
        classifier = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=8, min_samples_leaf=LEAST_ALIKE, random_state=0
        )
        classifier.fit(values[others], is_now[others])
        if not others.all():
            probability[~others] = classifier.predict_proba(values[~others])[:, 1]
    # The standard error of an AUROC that is chance (Mann, Whitney 1947).
    chance = np.sqrt((sum(num_groups) + 1) / (12 * num_groups[0] * num_groups[1]))
    if roc_auc_score(is_now, probability) < 0.5 + SURE * chance:
        return unknown_M
    now_M = np.maximum(_calibrated(probability, is_now)[num_before:], 1e-9)
    return np.clip(1 - (1 - now_M) / now_M * num_now / num_before, 0, 1)


def _calibrated(probability: np.ndarray, is_now: np.ndarray) -> np.ndarray:
    """Return probabilities that are as sure as they are right (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression

    logit_N1 = logit(np.clip(probability, 1e-6, 1 - 1e-6))[:, None]
    found: np.ndarray = LogisticRegression().fit(logit_N1, is_now).predict_proba(logit_N1)[:, 1]
    return found


def _properties(before: Stream, now: Stream) -> np.ndarray:
    """Return what both tables hold of each image: numbers, names as 0 and 1, and embeddings in fewer numbers."""
    first, second = before.readable, now.readable
    both = pd.concat([first, second], ignore_index=True)
    shared = set(first) & set(second)
    parts = [both[name].to_numpy(float)[:, None] for name in ("score", *NUMBERS) if name in shared]
    parts += [pd.get_dummies(both[name]).to_numpy(float) for name in NAMES if name in shared]
    vectors = [each for each in (before.readable_vectors, now.readable_vectors) if each is not None]
    if len(vectors) == 2:
        from sklearn.decomposition import PCA

        vectors_NE = np.concatenate(vectors)
        parts.append(PCA(min(COMPONENTS, *vectors_NE.shape), random_state=0).fit_transform(vectors_NE))
    return np.hstack(parts)


def _groups(before: Stream, now: Stream) -> np.ndarray:
    """Return what images may not be on both sides of: their cluster, or else their content."""
    both = pd.concat([before.readable, now.readable], ignore_index=True)
    if "cluster" in both:
        return pd.factorize(both["cluster"])[0]
    return pd.factorize(both["sha256"].where(both["sha256"] != "", both.index.astype(str)))[0]
