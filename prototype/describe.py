"""Say what a prototype is like: which training images are nearest to it.

Shape suffixes: N images, P prototypes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gapl.explain.background import Described

SHOWN = 3  # names
LEAST = 0.1  # the share from which a name is shown
FEW = 5  # images: of fewer, nothing is said


def describe(similarity_NP: np.ndarray, names: Sequence[str]) -> list[Described]:
    """Return for each prototype the names of the images that are nearer to it than to others, with their shares.

    similarity_NP   of each image and prototype
    names           what each image is called here: the family of its generator, or the style of a real image
    """
    nearest_N = similarity_NP.argmax(axis=1)
    own: list[list[str]] = [[] for _ in range(similarity_NP.shape[1])]
    for index, name in zip(nearest_N, names, strict=True):
        own[index].append(name)
    return [_described(each) for each in own]


def _described(names: Sequence[str]) -> Described:
    if len(names) < FEW:
        return Described({})
    counted = Counter(names).most_common(SHOWN)
    return Described({name: count / len(names) for name, count in counted if count >= LEAST * len(names)})
