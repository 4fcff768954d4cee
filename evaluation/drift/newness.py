"""Two streams -> how likely each image of now is of a kind that there was less of before.

If now is what was before, and a share of something new, then at least 1 - r of the images that look alike are
new, where r is the density of such images before over that of now. A classifier that tells the two streams apart
gives r (Sugiyama, Suzuki, Kanamori 2012, Density ratio estimation in machine learning). Each image is judged by a
classifier that has not seen it, nor others of its cluster, so that r is near 1 where nothing has changed.

Shape suffixes: M images of now; N images before, and then those; E width of an embedding.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from evaluation.drift.properties import NAMES, NUMBERS
from evaluation.drift.stream import Stream

FOLDS = 5
COMPONENTS = 16  # of the embeddings
LEAST = 20  # images of each stream: fewer tell nothing


def new_shares(before: Stream, now: Stream) -> np.ndarray:
    """Return share_M, from 0 to 1, of the images of now that have a score; zeros where the streams are small."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    num_before, num_now = len(before.readable), len(now.readable)
    if min(num_before, num_now) < LEAST:
        return np.zeros(num_now)
    is_now = np.repeat([0, 1], [num_before, num_now])
    classifier = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, random_state=0)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    probability = cross_val_predict(
        classifier, _properties(before, now), is_now, groups=_groups(before, now), cv=folds, method="predict_proba"
    )
    before_M, now_M = probability[num_before:].T
    ratio_M = before_M / np.maximum(now_M, 1e-9) * num_now / num_before
    return np.clip(1 - ratio_M, 0, 1)


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
