"""Which image is seen when, in which view, by which process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from data.images.augment import train_view
from data.images.views import eval_tensor_view
from data.loading.batches import Batch
from data.loading.epochs import batches_per_epoch, epoch_order, ordered_batches, train_batches
from data.loading.plan import BatchPlan, Rank
from data.records import Manifest, Record
from data.sources import open_source
from gapl.labels import Label
from gapl.pixels import PixelSpec

if TYPE_CHECKING:
    from tests.conftest import MakeImage

PROJECT = Path(__file__).resolve().parent.parent


def listed(**images: int) -> Manifest:
    """A manifest without files: `real_a=3` is three real images of the source `a`."""
    records = [
        Record(f"{name}/{i}", Label[name.split("_")[0].upper()], name.split("_")[1])
        for name, count in images.items()
        for i in range(count)
    ]
    return Manifest("listed", tuple(records))


def test_split_is_disjoint_whole_seeded_and_of_each_class() -> None:
    manifest = listed(real_a=100, fake_b=40, fake_c=20)
    rest, part = manifest.split(0.05, seed=1)
    uris = [{record.uri for record in side} for side in (rest, part)]
    assert not uris[0] & uris[1]
    assert uris[0] | uris[1] == {record.uri for record in manifest}
    assert (part.count(Label.REAL), part.count(Label.FAKE)) == (5, 3)
    assert manifest.split(0.05, seed=1) == (rest, part)
    assert manifest.split(0.05, seed=2)[1] != part
    shuffled = Manifest("listed", manifest.records[::-1])
    assert {record.uri for record in shuffled.split(0.05, seed=1)[1]} == uris[1]


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9, 0.99])
def test_split_leaves_both_sides_an_image_of_each_class(fraction: float) -> None:
    for side in listed(real_a=3, fake_b=2).split(fraction, seed=0):
        assert side.count(Label.REAL) >= 1
        assert side.count(Label.FAKE) >= 1


def test_no_validation_part() -> None:
    manifest = listed(real_a=3, fake_b=2)
    rest, part = manifest.split(0, seed=0)
    assert rest == manifest
    assert len(part) == 0


def test_shuffle_gives_every_image_once() -> None:
    manifest = listed(real_a=30, fake_b=50)
    order = epoch_order(manifest, sampling="shuffle", seed=4)
    assert sorted(order) == list(range(80))
    assert order == epoch_order(manifest, sampling="shuffle", seed=4)
    assert order != epoch_order(manifest, sampling="shuffle", seed=5)


@pytest.mark.parametrize("sampling", ["class", "source"])
@pytest.mark.parametrize("images", [{"real_a": 4, "fake_b": 60, "fake_c": 7}, {"real_a": 30, "fake_b": 10}])
def test_every_pair_holds_one_of_each_class(sampling: str, images: dict[str, int]) -> None:
    manifest = listed(**images)
    order = epoch_order(manifest, sampling=sampling, seed=0)
    labels = [manifest.records[index].label for index in order]
    assert len(order) == len(manifest)
    assert labels == [Label(position % 2) for position in range(len(order))]
    assert order == epoch_order(manifest, sampling=sampling, seed=0)


def test_smaller_class_repeats_evenly_and_the_larger_does_not() -> None:
    manifest = listed(real_a=7, fake_b=73)
    drawn = Counter(epoch_order(manifest, sampling="class", seed=3))
    assert {drawn[index] for index in range(7)} == {5, 6}
    assert max(drawn[index] for index in range(7, 80)) == 1


def test_sources_are_drawn_by_the_root_of_their_size() -> None:
    manifest = listed(real_a=4000, fake_large=3600, fake_small=400)
    order = epoch_order(manifest, sampling="source", seed=0)
    drawn = Counter(manifest.records[index].generator for index in order)
    assert drawn["a"] == 4000
    assert drawn["large"] / drawn["small"] == pytest.approx(3, rel=0.15)


def test_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown sampling 'sorted'; choose from shuffle, class, source"):
        epoch_order(listed(real_a=1, fake_b=1), sampling="sorted", seed=0)


def draw(manifest: Manifest, *, num_workers: int = 0, seed: int = 3, epoch: int = 1) -> tuple[list[str], Tensor]:
    """(uris, pixels_NCHW) of one epoch of the random views of the release."""
    view = train_view("release", size_px=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    plan = BatchPlan(8, seed=seed, num_workers=num_workers)
    loader = train_batches(manifest, view, plan, sampling="class", epoch=epoch)
    batches = list(loader)
    uris = [record.uri for batch in batches for record in batch.records]
    labels_N = torch.cat([batch.labels_B for batch in batches])
    assert labels_N.tolist() == [float("1_fake" in uri) for uri in uris]
    return uris, torch.cat([batch.pixels_BCHW for batch in batches])


def test_epoch_is_the_same_with_and_without_workers_and_leaves_the_generator_alone(tiny_root: Path) -> None:
    manifest = open_source(tiny_root / "train")
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    uris, pixels_NCHW = draw(manifest)
    assert torch.equal(torch.rand(1), expected)
    assert pixels_NCHW.shape == (40, 3, 24, 24)
    for num_workers in (0, 2):
        again_uris, again_NCHW = draw(manifest, num_workers=num_workers)
        assert again_uris == uris
        assert torch.equal(again_NCHW, pixels_NCHW)


HELD = """
import sys
from data.loading.epochs import ordered_batches
from data.sources import open_source
from data.images.views import eval_tensor_view
from gapl.pixels import PixelSpec
view = eval_tensor_view(PixelSpec(size_px=24))
batches = iter(ordered_batches(open_source(sys.argv[1]), view, batch_size=2, num_workers=2))
next(batches)
raise RuntimeError("as if the GPU were full")
"""


def test_an_error_that_holds_a_loader_ends_the_process_and_its_workers(tiny_root: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", HELD, str(tiny_root / "train")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: as if the GPU were full"


@pytest.mark.parametrize("changed", [{"seed": 4}, {"epoch": 2}])
def test_another_seed_or_epoch_is_another_order_and_other_views(tiny_root: Path, changed: dict[str, int]) -> None:
    manifest = open_source(tiny_root / "train")
    uris, pixels_NCHW = draw(manifest)
    other_uris, other_NCHW = draw(manifest, **changed)
    assert other_uris != uris
    common = sorted(set(uris) & set(other_uris))
    same = [torch.equal(pixels_NCHW[uris.index(u)], other_NCHW[other_uris.index(u)]) for u in common]
    assert len(same) > 20
    assert not any(same)


def test_image_that_comes_again_is_seen_in_another_view(tiny_root: Path) -> None:
    """Within an epoch, where the smaller class repeats, and at the same place of the next epoch."""
    folders = open_source(tiny_root / "train")
    real = next(record for record in folders if record.label == Label.REAL)
    fakes = [record for record in folders if record.label == Label.FAKE][:5]
    pixels_NCHW = torch.cat([draw(Manifest("few", (real, *fakes)), epoch=epoch)[1] for epoch in (1, 2)])
    views = [pixels_CHW.numpy().tobytes() for pixels_CHW in pixels_NCHW[::2]]  # reals are at even places
    assert len(views) == len(set(views)) == 6


def test_number_of_batches_is_as_announced(tiny_root: Path) -> None:
    manifest = open_source(tiny_root / "train")
    view = train_view("crop", size_px=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    for batch_size in (7, 40, 64):
        loader = train_batches(manifest, view, BatchPlan(batch_size), sampling="shuffle", epoch=0)
        assert len(list(loader)) == batches_per_epoch(40, batch_size)


def test_broken_image_is_a_failure_and_the_others_are_read(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "0_real/a.png", size=(30, 20))
    (tmp_path / "0_real/b.png").write_text("no image")
    make_image(tmp_path / "1_fake/c.png", size=(20, 30))
    view = eval_tensor_view(PixelSpec(size_px=16))
    manifest = open_source(tmp_path)
    (tmp_path / "1_fake/c.png").unlink()
    (batch,) = ordered_batches(manifest, view, batch_size=4, num_workers=0)
    assert [record.uri for record in batch.records] == [str(tmp_path / "0_real/a.png")]
    assert batch.sizes == [(30, 20)]
    assert batch.pixels_BCHW.shape == (1, 3, 16, 16)
    assert [Path(failure.record.uri).name for failure in batch.failures] == ["b.png", "c.png"]
    assert all(failure.reason for failure in batch.failures)


def test_unreadable_image_of_training_is_replaced_from_its_class(tmp_path: Path, make_image: MakeImage) -> None:
    for i in range(3):
        make_image(tmp_path / f"0_real/{i}.png", seed=i, size=(30, 20))
        make_image(tmp_path / f"1_fake/{i}.png", seed=i, size=(20, 30), levels=100)
    (tmp_path / "1_fake/1.png").write_text("no image")
    (batch,) = draw_batches(open_source(tmp_path), batch_size=6)
    assert [Path(failure.record.uri).name for failure in batch.failures] == ["1.png"]
    assert batch.labels_B.tolist() == [0, 1] * 3
    fakes = [(record.uri, pixels) for record, pixels in zip(batch.records, batch.pixels_BCHW, strict=True)][1::2]
    assert {Path(uri).name for uri, _ in fakes} == {"0.png", "2.png"}
    twice = [pixels for uri, pixels in fakes if sum(other == uri for other, _ in fakes) == 2]
    assert not torch.equal(*twice), "the replacement is another view"
    (again,) = draw_batches(open_source(tmp_path), batch_size=6)
    assert torch.equal(again.pixels_BCHW, batch.pixels_BCHW)


def test_class_of_which_nothing_can_be_read_makes_a_batch_shorter(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "0_real/0.png")
    make_image(tmp_path / "1_fake/0.png").write_text("no image")
    (batch,) = draw_batches(open_source(tmp_path), batch_size=2)
    assert batch.labels_B.tolist() == [0]
    assert len(batch.failures) == 1


def draw_batches(manifest: Manifest, *, first_batch: int = 0, **options: Any) -> list[Batch]:
    view = train_view("crop", size_px=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    plan = BatchPlan(**options, seed=3)
    return list(train_batches(manifest, view, plan, sampling="class", epoch=0, first_batch=first_batch))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_micro_batches_of_two_ranks_are_the_batches_of_one(tiny_root: Path, micro_batches: int) -> None:
    manifest = open_source(tiny_root / "train")
    whole = draw_batches(manifest, batch_size=8)
    parts = [
        draw_batches(manifest, batch_size=8, micro_batches=micro_batches, rank=Rank(rank, 2)) for rank in range(2)
    ]
    assert [len(part) for part in parts] == [micro_batches * len(whole)] * 2
    for number, batch in enumerate(whole):
        joined = [each for part in parts for each in part[micro_batches * number : micro_batches * (number + 1)]]
        assert torch.equal(torch.cat([each.pixels_BCHW for each in joined]), batch.pixels_BCHW)
        assert all(each.labels_B.mean() == 0.5 for each in joined), "each part has as many of either class"


def test_epoch_can_be_entered_in_its_middle(tiny_root: Path) -> None:
    manifest = open_source(tiny_root / "train")
    whole, rest = (draw_batches(manifest, batch_size=8, first_batch=first) for first in (0, 3))
    assert len(whole) == 5
    assert all(torch.equal(a.pixels_BCHW, b.pixels_BCHW) for a, b in zip(whole[3:], rest, strict=True))


def test_too_few_images_for_the_processes_are_refused(tiny_root: Path) -> None:
    few = Manifest("few", open_source(tiny_root / "train").records[11:14])
    with pytest.raises(ValueError, match="3 training images in batches of 8 are too few for 4 micro-batches"):
        draw_batches(few, batch_size=8, micro_batches=2, rank=Rank(1, 2))


def test_images_in_order_are_shared_without_a_rest(tiny_root: Path) -> None:
    manifest = open_source(tiny_root / "train").draw(7, seed=0)
    view = eval_tensor_view(PixelSpec(size_px=16))
    seen = [
        record.uri
        for rank in range(3)
        for batch in ordered_batches(manifest, view, batch_size=2, num_workers=0, rank=Rank(rank, 3))
        for record in batch.records
    ]
    assert sorted(seen) == sorted(record.uri for record in manifest)
