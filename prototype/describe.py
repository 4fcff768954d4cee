"""Say what a prototype is like: which training images answer to it.

Shape suffixes: N images, P prototypes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gapl.explain.background import Described

NEAREST = 40  # images that describe a prototype
SHOWN = 3  # names
LEAST = 0.1  # the share from which a name is shown


def describe(attention_NP: np.ndarray, names: Sequence[str]) -> list[Described]:
    """Return for each prototype the names of the images that attend to it most, with their shares.

    attention_NP   of each image
    names          what each image is called here: the family of its generator, or the style of a real image
    """
    nearest_PK = np.argsort(-attention_NP, axis=0, kind="stable")[:NEAREST].T
    return [_described([names[i] for i in nearest_K]) for nearest_K in nearest_PK]


def _described(names: Sequence[str]) -> Described:
    counted = Counter(names).most_common(SHOWN)
    return Described({name: count / len(names) for name, count in counted if count >= LEAST * len(names)})
