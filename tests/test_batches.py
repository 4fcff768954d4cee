"""The batches of training: what all ranks draw together, and a stream that runs on from one epoch to the next."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from data.loading.batches import Batch
from data.loading.epochs import epoch_order
from data.loading.plan import BatchPlan, Rank
from data.records import Manifest, Record
from data.seeds import draw_seed
from gapl.labels import Label
from training.batches import Stream, feature_batches
from training.recipe import Recipe

FEATURES_ND = torch.arange(100.0).view(50, 2)
IMAGES = Manifest("fifty", tuple(Record(f"{i}.png", Label(i % 2), "noise") for i in range(50)))


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("first_batch", [0, 2])
def test_micro_batches_of_all_ranks_are_the_batches_of_one(
    world: int, micro_batches: int, first_batch: int
) -> None:
    recipe = Recipe(batch_size=12, accumulate=micro_batches, seed=5)
    ranks = [feature_batches([FEATURES_ND], IMAGES, recipe, Rank(rank, world)) for rank in range(world)]
    assert {(each.per_epoch, each.num_images) for each in ranks} == {(4, 12)}
    drawn = [list(each.draw(epoch=3, first_batch=first_batch)) for each in ranks]
    assert {len(each) for each in drawn} == {(4 - first_batch) * micro_batches}
    order = epoch_order(IMAGES, sampling="shuffle", seed=draw_seed(5, 3))
    for number in range(4 - first_batch):
        of_batch = slice(number * micro_batches, (number + 1) * micro_batches)
        batch = [micro_batch for each in drawn for micro_batch in each[of_batch]]
        expected = order[12 * (first_batch + number) :][:12]
        assert torch.equal(torch.cat([each.inputs for each in batch]), FEATURES_ND[expected])
        assert torch.cat([each.labels_B for each in batch]).tolist() == [i % 2 for i in expected]


def test_each_epoch_takes_the_next_view() -> None:
    batches = feature_batches([FEATURES_ND, -FEATURES_ND], IMAGES, Recipe(batch_size=50), Rank())
    signs = [next(iter(batches.draw(epoch=epoch, first_batch=0))).inputs.sum().sign() for epoch in range(4)]
    assert signs == [1, -1, 1, -1]


def test_only_batch_is_as_large_as_it_can_be() -> None:
    few = Manifest("five", IMAGES.records[:5])
    for world, micro_batches, size in ((1, 1, 5), (2, 1, 2), (2, 2, 1)):
        recipe = Recipe(batch_size=64, accumulate=micro_batches)
        batches = feature_batches([FEATURES_ND], few, recipe, Rank(world - 1, world))
        assert [len(each.labels_B) for each in batches.draw(epoch=0, first_batch=0)] == [size] * micro_batches
        assert (batches.per_epoch, batches.num_images) == (1, size * world * micro_batches)
    recipe = Recipe(batch_size=64, accumulate=3)
    with pytest.raises(ValueError, match="too few for 6 micro-batches"):
        list(feature_batches([FEATURES_ND], few, recipe, Rank(0, 2)).draw(epoch=0, first_batch=0))


def test_stream_is_opened_once_and_runs_on_through_the_epochs() -> None:
    opened: list[int] = []

    def open_at(step: int) -> Iterator[Batch]:
        opened.append(step)
        return (Batch(torch.tensor([number]), torch.ones(1), [], [], []) for number in count(2 * step))

    stream = Stream(open_at, per_epoch=3, plan=BatchPlan(4, micro_batches=2))

    def draw(epoch: int, first_batch: int) -> list[int]:
        return [int(each.inputs) for each in stream.draw(epoch=epoch, first_batch=first_batch)]

    assert draw(0, 1) == [2, 3, 4, 5], "continued after the first batch of two micro-batches"
    assert draw(1, 0) == [6, 7, 8, 9, 10, 11]
    assert opened == [1]
    assert draw(0, 0) == [0, 1, 2, 3, 4, 5]
    assert opened == [1, 0]
