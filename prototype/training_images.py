"""What can be learnt from training images: descriptions of prototypes, families of generators, a memory.

Families are not kept where they were not found to be told apart on sources that were left out.

Shape suffixes: N images, D width of a feature, E embedding, F families, P prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gapl.explain.background import Described
from gapl.explain.families import BIAS, WEIGHT, FamilySpec
from gapl.explain.memory import MEMORY, Memory, MemorySpec
from gapl.labels import Label
from prototype.describe import describe

NUM_FOLDS = 5
PRECISION = 0.9  # of families that are named
MIN_COVERAGE = 0.05  # a family is named of so many fakes, or of none
MIN_NAMED = 20  # fakes, on which the precision is measured
STRENGTH = 1e-3  # scikit-learn's C
NEAREST = 5
FAR = 0.9  # the share of unseen images that is nearer than the cut
MIN_HELD_OUT = 20  # images


@dataclass(frozen=True)
class TrainingImages:
    """Images of training sources, and of sources that training held out.

    features_ND   in all views
    whole_ND      the same by the whole image alone; None: the detector has one view
    similarity_NP  the cosine of each embedding and prototype
    kinds_N       the family of each fake's generator, or the style of a real image; None: not known
    held_out_N    whether training held its source out
    """

    features_ND: np.ndarray
    whole_ND: np.ndarray | None
    embeddings_NE: np.ndarray
    similarity_NP: np.ndarray
    labels_N: np.ndarray
    sources_N: np.ndarray
    kinds_N: np.ndarray
    held_out_N: np.ndarray


@dataclass(frozen=True)
class Learnt:
    """What an explainer file is made of, and in a line how good it was found to be."""

    described: tuple[Described, ...]
    families: FamilySpec | None
    memory: MemorySpec | None
    tensors: Mapping[str, np.ndarray]
    summary: str


def learn(images: TrainingImages, *, seed: int) -> Learnt:
    """Learn all of it. Folds are drawn by the seed."""
    known_N = ~images.held_out_N & (images.kinds_N != None)  # noqa: E711 - of each
    described = describe(images.similarity_NP[known_N], images.kinds_N[known_N].tolist())
    families = learn_families(images, seed=seed)
    memory = learn_memory(images)
    said = [f"{sum(bool(each.shares) for each in described)} of {len(described)} prototypes described"]
    said.append(_of_families(families[0]) if families else "families of generators cannot be told apart")
    said.append(f"unlike training from a distance of {memory[0].cut:.3f}" if memory else "no memory")
    tensors = (families[1] if families else {}) | (memory[1] if memory else {})
    return Learnt(
        tuple(described), families and families[0], memory and memory[0], tensors, summary="; ".join(said)
    )


def _of_families(spec: FamilySpec) -> str:
    return f"of left-out sources {spec.coverage:.0%} of the fakes get a family, {spec.precision:.0%} the right one"


def learn_families(images: TrainingImages, *, seed: int) -> tuple[FamilySpec, dict[str, np.ndarray]] | None:
    """Fit a classifier of families to the fakes of training sources; None where it is of no use.

    It is of use if, of sources left out, it names the right family more often than the largest family would be
    right, and names one of MIN_NAMED fakes or more with the precision of PRECISION: of fewer, chance does.
    """
    fit_N = (images.labels_N == Label.FAKE) & (images.kinds_N != None) & ~images.held_out_N  # noqa: E711 - of each
    target_N, sources_N = images.kinds_N[fit_N].astype(str), images.sources_N[fit_N]
    names, counts = np.unique(target_N, return_counts=True)
    if len(names) < 2 or len(set(sources_N)) < NUM_FOLDS or len(target_N) < MIN_NAMED:
        return None
    looks = [images.features_ND[fit_N]] + ([] if images.whole_ND is None else [images.whole_ND[fit_N]])
    fitted = _fit(np.concatenate(looks), np.tile(target_N, len(looks)), np.tile(sources_N, len(looks)), seed=seed)
    probability_NF = fitted.left_out_MF[: len(target_N)]  # by all views
    right_N = names[probability_NF.argmax(axis=1)] == target_N
    least, precision, coverage = least_probability(probability_NF.max(axis=1), right_N)
    is_measured = coverage * len(target_N) >= max(MIN_NAMED, MIN_COVERAGE * len(target_N))
    if right_N.mean() <= counts.max() / counts.sum() or not is_measured:
        return None
    spec = FamilySpec(tuple(map(str, names)), least=least, precision=precision, coverage=coverage)
    return spec, {WEIGHT: fitted.weight_FD.astype(np.float32), BIAS: fitted.bias_F.astype(np.float32)}


class _Fitted(NamedTuple):
    """A linear classifier, and the probabilities that it gives to rows whose sources it has not seen."""

    weight_FD: np.ndarray
    bias_F: np.ndarray
    left_out_MF: np.ndarray


def _fit(features_MD: np.ndarray, target_M: np.ndarray, sources_M: np.ndarray, *, seed: int) -> _Fitted:
    """Fit a classifier to all rows, and one to those of the other folds for each fold of sources."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=3000)
    pipeline = make_pipeline(StandardScaler(), classifier)
    folds = GroupKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    left_out_MF = cross_val_predict(
        pipeline, features_MD, target_M, groups=sources_M, cv=folds, method="predict_proba"
    )
    scaler = pipeline.fit(features_MD, target_M)[0]
    weight_FD = classifier.coef_ / scaler.scale_
    return _Fitted(weight_FD, classifier.intercept_ - weight_FD @ scaler.mean_, left_out_MF)


def least_probability(probability_N: np.ndarray, right_N: np.ndarray) -> tuple[float, float, float]:
    """Return (least, precision, coverage): from which probability on answers have the precision of PRECISION.

    It is the smallest such, so that coverage is the largest; (1, 0, 0) where there is none.
    """
    order_N = np.argsort(-probability_N, kind="stable")
    precision_N = np.cumsum(right_N[order_N]) / np.arange(1, len(order_N) + 1)
    if not (good := np.flatnonzero(precision_N >= PRECISION)).size:
        return 1.0, 0.0, 0.0
    last = int(good[-1])
    return float(probability_N[order_N[last]]), float(precision_N[last]), (last + 1) / len(order_N)


def learn_memory(images: TrainingImages) -> tuple[MemorySpec, dict[str, np.ndarray]] | None:
    """Keep the embeddings of training sources. The cut is a distance that few images of held-out sources have.

    None where training held out too few images to tell.
    """
    kept_NE = images.embeddings_NE[~images.held_out_N].astype(np.float16)
    if images.held_out_N.sum() < MIN_HELD_OUT or len(kept_NE) < NEAREST:
        return None
    measure = Memory(MemorySpec(NEAREST, cut=1.0), memory_NE=kept_NE)
    cut = float(np.quantile(measure.distances(images.embeddings_NE[images.held_out_N]), FAR))
    return MemorySpec(NEAREST, cut), {MEMORY: kept_NE}
