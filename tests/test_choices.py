"""Names that options choose from are those that the code knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_holdout import indexed

from data import choices
from data.benchmarks.benchmark import Benchmark, apply_protocol
from data.images.augment import TRAIN_VIEWS, train_view
from data.loading.epochs import epoch_order
from data.records import Manifest, Record
from data.shards.order import Order, row_weights
from gapl.labels import Label

MANIFEST = Manifest("two", (Record("a", Label.REAL, "camera"), Record("b", Label.FAKE, "gan")))


def test_train_views() -> None:
    assert tuple(TRAIN_VIEWS) == choices.TRAIN_VIEWS
    with pytest.raises(ValueError, match="choose from " + ", ".join(choices.TRAIN_VIEWS)):
        train_view("none", size_px=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_samplings() -> None:
    for name in choices.SAMPLINGS:
        assert sorted(epoch_order(MANIFEST, sampling=name, seed=0)) == [0, 1]
    with pytest.raises(ValueError, match="choose from " + ", ".join(choices.SAMPLINGS)):
        epoch_order(MANIFEST, sampling="none", seed=0)


def test_balances() -> None:
    index = indexed()
    index = replace(index, architectures=index.generators)
    weights = {name: row_weights(index, np.arange(85), name).sum() for name in choices.BALANCES}
    assert weights == pytest.approx(dict.fromkeys(choices.BALANCES, 85), rel=0.2)
    with pytest.raises(ValueError, match="choose from " + ", ".join(choices.BALANCES)):
        Order("none")


def test_protocols() -> None:
    benchmark = Benchmark("two", ())
    for name in choices.PROTOCOLS:
        assert apply_protocol(benchmark, name).name == "two"
    with pytest.raises(ValueError, match="expected one of " + ", ".join(choices.PROTOCOLS)):
        apply_protocol(benchmark, "none")
