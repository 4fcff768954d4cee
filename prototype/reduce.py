"""Reduce the embeddings of a class to a few unit vectors that stand for it: k-means, PCA, and two baselines.

Command lines import the names in METHODS from here, so torch and scikit-learn are imported only when they work.

Shape suffixes: N images, E embedding, K vectors of a class, P prototypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def reduce_embeddings(
    embeddings_NE: Tensor, labels_N: Tensor, *, method: str, num_prototypes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return prototypes_PE and labels_P: half of them for each class, real first (paper; released files).

    Raises ValueError for an unknown method, an odd number, or a class with too few images.
    """
    import torch

    counts = [int((labels_N == label).sum()) for label in (0, 1)]
    check_counts(method, num_prototypes, n_real=counts[0], n_fake=counts[1])
    reduced = []
    for label in (0, 1):
        of_class_NE = embeddings_NE[labels_N == label]
        vectors_KE = METHODS[method](of_class_NE.double().numpy(), num_prototypes // 2, seed + label)
        reduced.append(torch.from_numpy(vectors_KE).float())
    labels_P = torch.arange(2).repeat_interleave(torch.tensor([len(vectors) for vectors in reduced]))
    return torch.nn.functional.normalize(torch.cat(reduced), dim=1), labels_P


def check_counts(method: str, num_prototypes: int, *, n_real: int, n_fake: int) -> None:
    """Raise ValueError when that many images of each class cannot give the prototypes; say how many are needed."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if num_prototypes < 2 or num_prototypes % 2:
        raise ValueError(f"the number of prototypes is even and at least 2, not {num_prototypes}")
    per_class = num_prototypes // 2
    # Centred data of N images span N - 1 dimensions, so PCA needs one image more than components.
    needed = {"pca": per_class + 1, "mean": 1, "random": 0}.get(method, per_class)
    for name, count in (("real", n_real), ("fake", n_fake)):
        if count < needed:
            raise ValueError(
                f"{count} {name} images are too few for {per_class} {method} prototypes of that class; "
                f"at least {needed} are needed"
            )


def kmeans(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the centroids that scikit-learn finds, the largest cluster first."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # One thread: with more, the order in which partial sums are added changes the last bits.
    with threadpool_limits(limits=1):
        fitted = KMeans(count, n_init=10, random_state=seed).fit(embeddings_NE)
    sizes = np.bincount(fitted.labels_, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    return np.asarray(fitted.cluster_centers_)[order]


def pca(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the leading principal directions of the centred embeddings, the largest coordinate of each positive.

    The seed has no effect. Raises ValueError for more than E directions.
    """
    from threadpoolctl import threadpool_limits

    if count > embeddings_NE.shape[1]:
        raise ValueError(f"{embeddings_NE.shape[1]}-dimensional embeddings have no {count} principal components")
    with threadpool_limits(limits=1):
        _, _, directions_EE = np.linalg.svd(embeddings_NE - embeddings_NE.mean(axis=0), full_matrices=False)
    directions_KE = directions_EE[:count]
    largest_K = np.abs(directions_KE).argmax(axis=1)
    return directions_KE * np.sign(directions_KE[np.arange(count), largest_K])[:, None]


def class_mean(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return one vector, whatever `count` is: the baseline without inner structure."""
    return embeddings_NE.mean(axis=0, keepdims=True)


def random_unit(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return random directions that know nothing of the data: the baseline of the paper's ablation."""
    return np.random.default_rng(seed).standard_normal((count, embeddings_NE.shape[1]))


METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "kmeans": kmeans,
    "pca": pca,
    "mean": class_mean,
    "random": random_unit,
}
