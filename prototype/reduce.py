"""Embeddings of a class -> a few unit vectors that stand for it: k-means, PCA, and two baselines.

Shape suffixes: N images, E embedding, K vectors of a class, P prototypes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor


def reduce_embeddings(
    embeddings_NE: Tensor, labels_N: Tensor, *, method: str, num_prototypes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """(prototypes_PE, labels_P): half of the prototypes for each class, real first (paper; released files).

    Raises ValueError for an unknown method, an odd number, or a class with too few images.
    """
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
    """Raises ValueError when so many images of each class cannot give the prototypes; says how many are needed."""
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
    """Centroids by scikit-learn, in order of falling cluster size."""
    # One thread: with more, the order in which partial sums are added changes the last bits.
    with threadpool_limits(limits=1):
        fitted = KMeans(count, n_init=10, random_state=seed).fit(embeddings_NE)
    sizes = np.bincount(fitted.labels_, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    return np.asarray(fitted.cluster_centers_)[order]


def pca(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Leading principal directions of the centred embeddings; the largest coordinate of each is positive.

    The seed has no effect. At most E directions exist.
    """
    if count > embeddings_NE.shape[1]:
        raise ValueError(f"{embeddings_NE.shape[1]}-dimensional embeddings have no {count} principal components")
    with threadpool_limits(limits=1):
        _, _, directions_EE = np.linalg.svd(embeddings_NE - embeddings_NE.mean(axis=0), full_matrices=False)
    directions_KE = directions_EE[:count]
    largest_K = np.abs(directions_KE).argmax(axis=1)
    return directions_KE * np.sign(directions_KE[np.arange(count), largest_K])[:, None]


def class_mean(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """One vector a class, whatever `count` is: the baseline without inner structure."""
    return embeddings_NE.mean(axis=0, keepdims=True)


def random_unit(embeddings_NE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Directions that know nothing of the data: the baseline of the paper's ablation."""
    return np.random.default_rng(seed).standard_normal((count, embeddings_NE.shape[1]))


METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "kmeans": kmeans,
    "pca": pca,
    "mean": class_mean,
    "random": random_unit,
}
