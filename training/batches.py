"""Where the training loop gets its batches: images of a manifest, a stream of shards, or cached features.

Shape suffixes: B images of a micro-batch, N images of a table of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from data.images.views import TensorView
from data.loading.batches import Batch, Failure
from data.loading.epochs import batches_per_epoch, epoch_order, split_batches, train_batches
from data.loading.plan import BatchPlan, Rank
from data.records import Images, Manifest
from data.seeds import draw_seed
from data.shards.index import ShardIndex
from data.shards.order import Order
from data.shards.stream import stream_batches
from features.store import FeatureTable
from training.recipe import Recipe


@dataclass(frozen=True)
class FeatureBatch:
    """Cached features of a micro-batch, with the properties of a Batch that training needs.

    inputs    feature_BD
    labels_B  float32, 1 for fake
    failures  none: images that could not be read have no features
    """

    inputs: Tensor
    labels_B: Tensor
    failures: tuple[Failure, ...] = ()


MicroBatch = Batch | FeatureBatch  # what one forward pass takes


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of every epoch.

    draw        called with `epoch` and `first_batch`, both from 0; returns this rank's micro-batches from there to
                the end of the epoch, recipe.accumulate of them for each batch
    per_epoch   batches of an epoch
    num_images  of a batch, of all ranks together
    """

    draw: Callable[..., Iterable[MicroBatch]]
    per_epoch: int
    num_images: int


def image_batches(
    images: Images, view: TensorView, recipe: Recipe, rank: Rank, *, stream_parts: int
) -> TrainingBatches:
    """Draw new random views of the images in every epoch.

    stream_parts   of a stream of shards; the order of its images depends on it
    """
    plan = _plan(recipe, rank)
    per_epoch, num_images = _sizes(len(images), plan)
    if isinstance(images, ShardIndex):
        order = Order(recipe.balance, stream_parts)
        stream = Stream(lambda step: stream_batches(images, view, plan, order, first_step=step), per_epoch, plan)
        return TrainingBatches(stream.draw, per_epoch, num_images)
    assert isinstance(images, Manifest)
    draw = partial(train_batches, images, view, plan, sampling=recipe.sampling)
    return TrainingBatches(draw, per_epoch, num_images)


class Stream:
    """A stream of shards, cut into epochs.

    It runs on from one epoch to the next: opening it again means reading up to where it was.
    """

    def __init__(self, open_at: Callable[[int], Iterator[Batch]], per_epoch: int, plan: BatchPlan) -> None:
        self._open_at, self._per_epoch, self._micro_batches = open_at, per_epoch, plan.micro_batches
        self._next_step = -1

    def draw(self, *, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Draw the micro-batches of an epoch, see TrainingBatches."""
        step = epoch * self._per_epoch + first_batch
        if step != self._next_step:
            self._stream = self._open_at(step)
        self._next_step = (epoch + 1) * self._per_epoch
        return islice(self._stream, (self._per_epoch - first_batch) * self._micro_batches)


def feature_batches(
    views: Sequence[FeatureTable | Tensor], images: Manifest, recipe: Recipe, rank: Rank
) -> TrainingBatches:
    """Draw cached features. Each epoch takes the next of the views, which all have a row for each image."""
    plan = _plan(recipe, rank)
    labels_N = torch.tensor([float(record.label) for record in images])

    def draw(*, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
        order = epoch_order(images, sampling=recipe.sampling, seed=draw_seed(recipe.seed, epoch))
        for chosen in split_batches(order, plan, first_batch=first_batch):
            indices_B = torch.tensor(chosen)
            yield FeatureBatch(views[epoch % len(views)][indices_B], labels_N[indices_B])

    return TrainingBatches(draw, *_sizes(len(images), plan))


def _plan(recipe: Recipe, rank: Rank) -> BatchPlan:
    return BatchPlan(recipe.batch_size, recipe.accumulate, rank, recipe.seed, recipe.num_workers)


def _sizes(num_images: int, plan: BatchPlan) -> tuple[int, int]:
    """Return how many batches an epoch has, and how many images a batch has, of all ranks together."""
    in_all = plan.rank.world_size * plan.micro_batches
    return batches_per_epoch(num_images, plan.batch_size), min(plan.batch_size, num_images) // in_all * in_all
