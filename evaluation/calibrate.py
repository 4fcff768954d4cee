"""Scores of held-out images -> a Calibration: probabilities, thresholds, and a band of scores that decide nothing.

Only images that neither training nor a benchmark has seen may be used; `check_no_overlap` refuses others. The
promised error rates hold for images like the held-out ones (exchangeable with them), on average over draws of
these. Fitting a and b to the same images does not break the promise, because scores keep the order of the logits.
The calibration errors are measured on these very images, so they are a little optimistic.

The threshold "balanced" is the score from which an image is more likely a fake: 0.5. It follows from the fit to
all images. The threshold that is best on the held-out images depends on few of them, and was worse on new sources
(studies/calibration.py).

Temperature: Guo et al. 2017, On calibration of modern neural networks. Platt: Platt 1999, Probabilistic outputs
for support vector machines. Thresholds with a promise: split-conformal quantiles, of each class apart (Mondrian):
Vovk, Gammerman, Shafer 2005, Algorithmic learning in a random world; Angelopoulos, Bates 2021, arXiv:2107.07511.

Shape suffixes: N images, D parameters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from evaluation.metrics import calibration_error
from gapl.calibration import BALANCED, METHODS, Calibration, score_of

MIN_IMAGES = 20  # of each class: two parameters from fewer say little


def calibrate(
    frame: pd.DataFrame,
    *,
    method: str = "platt",
    alpha: float = 0.05,
    fprs: Sequence[float] = (0.01, 0.05),
) -> Calibration:
    """Fit a calibration to held-out images: columns uri, content_sha256, label, logit, error.

    method           "temperature" (a * logit) or "platt" (a * logit + b), by maximum likelihood with a > 0
    alpha            error rate of the verdicts outside of the unsure band, in each class
    fprs             an operating point for each: at most that share of real images is called fake

    Both classes weigh the same, however many images they have.
    Raises ValueError with the numbers: too few images, one class only, scores that are missing or rank nothing.
    """
    held_out, notes = _require_held_out(frame, method=method, alpha=alpha, fprs=fprs)
    logit_N, label_N = held_out["logit"].to_numpy(float), held_out["label"].to_numpy(int)
    weight_N = class_weights(label_N)
    a, b = fit(logit_N, label_N, method=method, weight_N=weight_N)
    score_N = score_of(a * logit_N + b)
    real_N, fake_N = score_N[label_N == 0], score_N[label_N == 1]
    low, high = unsure_band(real_N, fake_N, alpha=alpha)
    points = {f"fpr{100 * rate:g}": fpr_threshold(real_N, fpr=rate) for rate in fprs}
    return Calibration(
        method=method,
        a=a,
        b=b,
        operating_points={BALANCED: 0.5, **points},
        band_low=low,
        band_high=high,
        alpha=alpha,
        n_real=len(real_N),
        n_fake=len(fake_N),
        ece_before=calibration_error(label_N, score_of(logit_N), weights_N=weight_N),
        ece_after=calibration_error(label_N, score_N, weights_N=weight_N),
        data_sha256=_data_sha256(held_out),
        note="; ".join(notes),
    )


# ---------------------------------------------------------------------------------------------------------
# Held-out images


def _require_held_out(
    frame: pd.DataFrame, *, method: str, alpha: float, fprs: Sequence[float]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the images to fit to, each once, and notes on them. Raises ValueError when they do not suffice."""
    if method not in METHODS:
        raise ValueError(f"unknown calibration method {method!r}; choose from {', '.join(METHODS)}")
    for rate in (alpha, *fprs):
        if not 0 < rate < 0.5:
            raise ValueError(f"error rate {rate}; expected a number above 0 and below 0.5")
    held_out, notes = _scored_once(frame)
    counts = held_out["label"].value_counts()
    _check_enough(int(counts.get(0, 0)), "real images", (alpha, *fprs))
    _check_enough(int(counts.get(1, 0)), "fakes", (alpha,))
    if is_separable(held_out["logit"].to_numpy(float), held_out["label"].to_numpy(int), method=method):
        notes.append("no error on the held-out images, so that targets were smoothed (Platt 1999)")
    return held_out, notes


def _scored_once(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the images that have a score, each once, and notes on the rows that were left out."""
    for name in ("model", "degradation"):
        if name in frame and frame[name].nunique() > 1:
            found = ", ".join(map(repr, frame[name].unique()))
            raise ValueError(f"scores of more than one {name} ({found}); calibrate one at a time")
    read = frame[frame["error"].fillna("") == ""]
    if missing := int((~np.isfinite(read["logit"].to_numpy(float))).sum()):
        raise ValueError(f"{missing} of {len(read)} images have a logit that is not finite, and no error says why")
    if wrong := sorted(set(read["label"]) - {0, 1}):
        raise ValueError(f"labels {wrong}; expected 0 (real) and 1 (fake)")
    image = _images(read)
    if both := int((read["label"].groupby(image).nunique() > 1).sum()):
        raise ValueError(f"{both} images are labelled real and fake at once; correct or remove them")
    once = read[~image.duplicated()]
    left_out = {"without a score": len(frame) - len(read), "that occur again": len(read) - len(once)}
    return once, [f"{count} rows {why} left out" for why, count in left_out.items() if count]


def _images(frame: pd.DataFrame) -> pd.Series:
    """Return what tells images apart: their content, or their name in a table without hashes."""
    return frame["content_sha256"].where(frame["content_sha256"] != "", frame["uri"])


def _check_enough(found: int, what: str, rates: Sequence[float]) -> None:
    strictest = min(rates)
    needed = max(MIN_IMAGES, images_needed(strictest))
    if found < needed:
        reason = f"an error rate of {100 * strictest:g} %" if needed > MIN_IMAGES else "a fit"
        raise ValueError(f"{found} {what} held out, but {reason} needs {needed}")


def images_needed(rate: float) -> int:
    """Return the fewest images of a class that an error rate can be promised from: 99 for 1 %, 19 for 5 %."""
    return math.ceil(1 / Fraction(str(rate))) - 1


def class_weights(label_N: np.ndarray) -> np.ndarray:
    """Return a weight for each image, 1 on average, that gives both classes the same sum."""
    counts = np.bincount(label_N, minlength=2)
    return (len(label_N) / (2 * counts))[label_N]


def _data_sha256(held_out: pd.DataFrame) -> str:
    lines = sorted(f"{image} {label}\n" for image, label in zip(_images(held_out), held_out["label"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_no_overlap(held_out: pd.DataFrame, benchmark: pd.DataFrame) -> None:
    """Raise ValueError when an image of the benchmark was held out for calibration, by content_sha256.

    A scored image without that hash is refused too, because it cannot be told.
    """
    for name, frame in (("held-out", held_out), ("benchmark", benchmark)):
        if unknown := int(((frame["content_sha256"] == "") & (frame["error"].fillna("") == "")).sum()):
            raise ValueError(f"{unknown} {name} rows have no content_sha256; overlap cannot be ruled out")
    contents = set(held_out["content_sha256"]) - {""}
    shared = benchmark[benchmark["content_sha256"].isin(contents)].drop_duplicates("content_sha256")
    if len(shared):
        raise ValueError(
            f"{len(shared)} images of the benchmark are among the {len(contents)} that calibrate the detector, "
            f"such as {shared['uri'].iloc[0]}; hold out others"
        )


def split_by_source(frame: pd.DataFrame, *, seed: int, share: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows into those of a `share` of the sources, to calibrate on, and those of the others, to report on.

    Fakes are split by `generator`, real images by `source`, or by `generator` if that is empty. Of an odd number
    the second part has one more. A class with a single source is split by image. Rows of an image stay together.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} of the sources; expected a number between 0 and 1")
    image = _images(frame)
    source = frame["source"].where((frame["label"] == 0) & (frame["source"] != ""), frame["generator"])
    first = pd.DataFrame({"image": image, "label": frame["label"], "source": source}).drop_duplicates("image")
    generator = np.random.default_rng(seed)
    in_first: set[str] = set()
    for _, of_class in first.groupby("label"):
        unit = "source" if of_class["source"].nunique() > 1 else "image"
        names = generator.permutation(sorted(of_class[unit].unique()))
        count = min(len(names) - 1, max(1, int(share * len(names))))
        in_first |= set(of_class.loc[of_class[unit].isin(names[:count]), "image"])
    is_first = image.isin(in_first)
    return frame[is_first], frame[~is_first]


def few_of_each_source(frame: pd.DataFrame, count: int, *, seed: int = 0) -> pd.DataFrame:
    """Draw at most `count` images of each source, so that no large one decides the threshold for all others.

    Fakes count by `generator`, and real images by `source`, or by `generator` if that is empty or missing.
    """
    source = frame["generator"]
    if "source" in frame:
        source = frame["source"].where((frame["label"] == 0) & (frame["source"] != ""), source)
    order = pd.Series(np.random.default_rng(seed).permutation(len(frame)), index=frame.index)
    return frame[order.groupby([frame["label"], source]).rank() <= count]


# ---------------------------------------------------------------------------------------------------------
# Probabilities


def is_separable(logit_N: np.ndarray, label_N: np.ndarray, *, method: str) -> bool:
    """Return whether a threshold (a logit of 0 for temperature) makes no error: the likelihood has no maximum."""
    highest_real, lowest_fake = logit_N[label_N == 0].max(), logit_N[label_N == 1].min()
    return bool(highest_real <= lowest_fake and (method == "platt" or highest_real <= 0 <= lowest_fake))


def fit(logit_N: np.ndarray, label_N: np.ndarray, *, method: str, weight_N: np.ndarray) -> tuple[float, float]:
    """Return the a and b of sigmoid(a * logit + b) that maximise the weighted likelihood.

    Classes that do not overlap get Platt's targets, (n + 1) / (n + 2) for the n fakes and 1 / (n + 2) for the n
    real images, instead of 1 and 0: they keep a finite.
    """
    spread = float(logit_N.std())
    if spread == 0:
        raise ValueError(f"all {len(logit_N)} images have the logit {logit_N[0]:g}; there is nothing to calibrate")
    centre = float(logit_N.mean()) if method == "platt" else 0.0
    x_N = (logit_N - centre) / spread
    x_ND = np.column_stack([x_N, np.ones_like(x_N)]) if method == "platt" else x_N[:, None]
    target_N = label_N.astype(float)
    if is_separable(logit_N, label_N, method=method):
        n_real, n_fake = np.bincount(label_N, minlength=2)
        target_N = np.where(label_N == 1, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    share_N = weight_N / weight_N.sum()

    def loss(theta_D: np.ndarray) -> float:
        z_N = x_ND @ theta_D
        return float(share_N @ (np.logaddexp(0, z_N) - target_N * z_N))

    def gradient(theta_D: np.ndarray) -> np.ndarray:
        return np.asarray(x_ND.T @ (share_N * (expit(x_ND @ theta_D) - target_N)))

    def curvature(theta_D: np.ndarray) -> np.ndarray:
        p_N = expit(x_ND @ theta_D)
        return np.asarray((x_ND.T * (share_N * p_N * (1 - p_N))) @ x_ND)

    start_D = np.zeros(x_ND.shape[1])
    found = minimize(loss, start_D, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9})
    a = float(found.x[0]) / spread
    if a <= 0:
        raise ValueError(f"the best slope is {a:.3g}: fakes do not score above real images; nothing to calibrate")
    return a, float(found.x[1]) - a * centre if method == "platt" else 0.0


# ---------------------------------------------------------------------------------------------------------
# Thresholds


def fpr_threshold(real_N: np.ndarray, *, fpr: float) -> float:
    """Return the threshold that a new real image reaches with a probability of at most `fpr`.

    It is just above the ceil((n + 1) (1 - fpr))-th lowest of the n real images' scores.
    """
    quantile = _conformal(real_N, rate=fpr)
    if quantile >= 1:
        raise ValueError(f"more than {100 * fpr:g} % of {len(real_N)} real images score 1; no threshold is above")
    return float(np.nextafter(quantile, 1))


def unsure_band(real_N: np.ndarray, fake_N: np.ndarray, *, alpha: float) -> tuple[float, float]:
    """Return the lowest and the highest score at which neither class can be ruled out at error rate `alpha`.

    Real is ruled out above the (1 - alpha) conformal quantile of real images, fake below the alpha quantile of
    fakes. When the quantiles cross, every score rules a class out: the ends are equal, in the middle between them.
    """
    high = _conformal(real_N, rate=alpha)
    low = -_conformal(-fake_N, rate=alpha)
    if low > high:
        middle = (low + high) / 2
        return (middle, middle) if middle > high else (low, low)
    if low == high:
        return (float(np.nextafter(low, 0)), high) if low > 0 else (low, float(np.nextafter(high, 1)))
    return low, high


def _conformal(score_N: np.ndarray, *, rate: float) -> float:
    """Return the score that a new one of the same kind exceeds with a probability of at most `rate`."""
    n = len(score_N)
    rank = math.ceil((n + 1) * (1 - Fraction(str(rate))))
    if rank > n:
        raise ValueError(f"an error rate of {100 * rate:g} % needs {images_needed(rate)} images, not {n}")
    return float(np.partition(score_N, rank - 1)[rank - 1])
