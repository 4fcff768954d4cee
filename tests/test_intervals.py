"""Bootstrap intervals against scikit-learn, scipy, hand-worked and simulated cases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from evaluation.intervals import FIGURES, Replicates, bootstrap, mean_replicates, wilson
from evaluation.metrics import compute_metrics


def simulated(seed: int, *, num: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores with ties."""
    generator = np.random.default_rng(seed)
    labels_N = generator.permutation(np.arange(num) % 3 == 0).astype(int)
    return labels_N, np.round(np.clip(generator.normal(0.4 + 0.2 * labels_N, 0.2), 0, 1), 2)


def test_figures_of_a_resample_are_those_of_its_images() -> None:
    """With a source for each image, drawing sources is drawing images; the draws are repeated here."""
    labels_N, scores_N = simulated(0)
    found = bootstrap(labels_N, scores_N, threshold=0.5, seed=7, num_resamples=5)
    generators = [np.random.default_rng([7, label]) for label in (0, 1)]
    for i in range(5):
        images = []
        for label, generator in enumerate(generators):
            of_class = np.flatnonzero(labels_N == label)
            images += list(of_class[generator.integers(len(of_class), size=len(of_class))])
        metrics = compute_metrics(labels_N[images], scores_N[images], threshold=0.5)
        expected = [getattr(metrics, name) for name in FIGURES]
        assert [found.values[name][i] for name in FIGURES] == pytest.approx(expected)
        assert found.values["ap"][i] == pytest.approx(
            sklearn.metrics.average_precision_score(labels_N[images], scores_N[images])
        )


def test_as_scipy_has_it() -> None:
    """The recall is a mean, the AUROC a statistic of two samples: both have a percentile bootstrap in scipy."""
    labels_N, scores_N = simulated(1, num=300)
    found = bootstrap(labels_N, scores_N, threshold=0.5, num_resamples=4000).intervals()
    fakes, reals = scores_N[labels_N == 1], scores_N[labels_N == 0]

    def auroc(fakes: np.ndarray, reals: np.ndarray, axis: int) -> np.ndarray:
        statistic = scipy.stats.mannwhitneyu(fakes, reals, axis=axis).statistic
        return statistic / (fakes.shape[axis] * reals.shape[axis])

    options = {"n_resamples": 2000, "method": "percentile", "rng": np.random.default_rng(0)}
    recall = scipy.stats.bootstrap(((fakes >= 0.5).astype(float),), np.mean, **options).confidence_interval
    area = scipy.stats.bootstrap((fakes, reals), auroc, batch=200, **options).confidence_interval
    assert found["fake_accuracy"] == pytest.approx((recall.low, recall.high), abs=0.011)
    assert found["auroc"] == pytest.approx((area.low, area.high), abs=0.01)


def test_percentiles_by_hand() -> None:
    replicates = Replicates({"auroc": np.arange(101) / 100}, "images")
    assert replicates.intervals()["auroc"] == pytest.approx((0.025, 0.975))
    assert replicates.intervals(level=0.5)["auroc"] == pytest.approx((0.25, 0.75))


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Scores of a known recall and AUROC, 150 times: 95 % of 150 is 142.5 with a standard deviation of 2.7."""
    generator = np.random.default_rng(0)
    labels_N = np.arange(200) % 2
    recall, area = scipy.stats.norm.cdf(1.0), scipy.stats.norm.cdf(1.0 / np.sqrt(2))
    covered = np.zeros(2, dtype=int)
    for seed in range(150):
        scores_N = scipy.stats.norm.cdf(generator.normal(labels_N.astype(float)))
        found = bootstrap(labels_N, scores_N, threshold=0.5, seed=seed, num_resamples=300).intervals()
        for i, (name, truth) in enumerate((("balanced_accuracy", (recall + 0.5) / 2), ("auroc", area))):
            low, high = found[name]
            covered[i] += low <= truth <= high
    assert (covered >= 132).all()
    assert (covered <= 149).all()


def test_alike_sources_make_the_interval_wide() -> None:
    """Every source is right or wrong as a whole: 200 images say no more than 20 sources."""
    labels_N = np.arange(200) % 2
    sources_N = [f"{label} {i // 20}" for i, label in enumerate(labels_N)]
    right_S = np.random.default_rng(0).random(20) < 0.7
    score_of = {
        source: float(label == right)
        for source, label, right in zip(sorted(set(sources_N)), np.repeat([0, 1], 10), right_S, strict=True)
    }
    scores_N = np.array([score_of[source] for source in sources_N])
    by_source = bootstrap(labels_N, scores_N, threshold=0.5, sources_N=sources_N)
    by_image = bootstrap(labels_N, scores_N, threshold=0.5)
    assert (by_source.unit, by_image.unit) == ("sources", "images")
    widths = [np.diff(each.intervals()["fake_accuracy"])[0] for each in (by_source, by_image)]
    assert widths[0] == pytest.approx(np.sqrt(10) * widths[1], rel=0.25)
    # A resample's recall is a share of the ten sources.
    assert np.allclose(by_source.values["fake_accuracy"] * 10 % 1, 0)


def test_sources_of_unequal_size_are_drawn_whole() -> None:
    labels_N = np.repeat([0, 1], [10, 15])
    sources_N = [*"aabbccddee", *"fghijjjjjjjjjjj"]
    scores_N = np.array([0.0] * 10 + [0.0] * 4 + [1.0] * 11)
    found = bootstrap(labels_N, scores_N, threshold=0.5, sources_N=sources_N, num_resamples=400).values
    # Of k draws of j, 11 images each: recall 11 k / (11 k + 5 - k).
    shares = {round(11 * k / (11 * k + 5 - k), 9) for k in range(6)}
    assert set(np.round(found["fake_accuracy"], 9)) <= shares
    assert set(found["real_accuracy"]) == {1}


@pytest.mark.parametrize(("num_real", "num_fake", "unit"), [(5, 5, "sources"), (4, 9, "images"), (9, 1, "images")])
def test_few_sources_of_either_class_are_not_drawn(num_real: int, num_fake: int, unit: str) -> None:
    labels_N, scores_N = np.repeat([0, 1], 20), np.linspace(0, 1, 40)
    sources_N = [f"r{i % num_real}" for i in range(20)] + [f"f{i % num_fake}" for i in range(20)]
    assert bootstrap(labels_N, scores_N, threshold=0.5, sources_N=sources_N, num_resamples=10).unit == unit


def test_single_class_has_its_recall() -> None:
    found = bootstrap(np.ones(20, dtype=int), np.linspace(0, 1, 20), threshold=0.5, sources_N=[*"abcde"] * 4)
    assert sorted(found.values) == ["accuracy", "fake_accuracy"]
    assert found.unit == "sources"
    assert np.array_equal(found.values["accuracy"], found.values["fake_accuracy"])
    assert bootstrap(np.array([], dtype=int), np.array([]), threshold=0.5).intervals() == {}


def test_seed_decides() -> None:
    labels_N, scores_N = simulated(2)
    runs = [bootstrap(labels_N, scores_N, threshold=0.5, seed=seed, num_resamples=50) for seed in (0, 0, 1)]
    assert np.array_equal(runs[0].values["auroc"], runs[1].values["auroc"])
    assert not np.array_equal(runs[0].values["auroc"], runs[2].values["auroc"])


def test_draws_do_not_depend_on_the_scores_and_shared_images_are_drawn_alike() -> None:
    labels_N, scores_N = simulated(3)
    other_N = np.random.default_rng(0).permutation(scores_N)
    uris = [f"{label} {i}" for i, label in enumerate(labels_N)]
    renamed = [uri if uri[0] == "0" else f"{uri} of another subset" for uri in uris]
    first = bootstrap(labels_N, scores_N, threshold=0.5, uris_N=uris, num_resamples=50).values
    second = bootstrap(labels_N, scores_N, threshold=0.5, uris_N=renamed, num_resamples=50).values
    assert np.array_equal(first["real_accuracy"], second["real_accuracy"])
    assert not np.array_equal(first["fake_accuracy"], second["fake_accuracy"])
    # The same decisions by other scores: as right in each resample.
    same_calls = bootstrap(labels_N, (scores_N >= 0.5) * 0.6, threshold=0.5, uris_N=uris, num_resamples=50).values
    assert np.array_equal(first["accuracy"], same_calls["accuracy"])
    assert not np.array_equal(
        first["accuracy"],
        bootstrap(labels_N, other_N, threshold=0.5, uris_N=uris, num_resamples=50).values["accuracy"],
    )


def test_mean_of_parts_is_that_of_each_resample() -> None:
    parts = [
        Replicates({"auroc": np.array([0.1, 0.3]), "ap": np.array([1.0, 1.0])}, "images"),
        Replicates({"auroc": np.array([0.3, 0.9])}, "sources"),
    ]
    mean = mean_replicates(parts)
    assert list(mean.values) == ["auroc"]
    assert mean.values["auroc"] == pytest.approx([0.2, 0.6])
    assert mean.unit == "images, sources"
    assert mean_replicates([]).intervals() == {}


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_interval_is_that_of_scipy(level: float) -> None:
    cases = [(0, 1), (1, 1), (0, 10), (50, 100), (3, 7), (999, 1000)]
    count_K, n_K = np.array(cases).T
    low_K, high_K = wilson(count_K, n_K, level=level)
    for (count, n), low, high in zip(cases, low_K, high_K, strict=True):
        expected = scipy.stats.binomtest(count, n).proportion_ci(level, method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert wilson(count, n, level=level) == pytest.approx((low, high), abs=1e-15)
