"""Whole generators and real sources held out for validation, of manifests and of shards."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data.holdout import choose_sources, split_images
from data.records import Images, Manifest, Record, require_both_classes
from data.shards.index import Names, ShardIndex
from gapl.labels import Label, Source
from gapl.shards.rows import Shard

SIZES = {"real_coco": 30, "real_ffhq": 5, "fake_sd": 40, "fake_gan": 6, "fake_mj": 1, "fake_glide": 3}


def listed() -> Manifest:
    records = [
        Record(f"{name}/{i}", Label[name.split("_")[0].upper()], name.split("_")[1])
        for name, count in SIZES.items()
        for i in range(count)
    ]
    return Manifest("listed", tuple(records))


def indexed(rows_a_shard: int = 10) -> ShardIndex:
    """The same images as rows of shards of one class each, those of a source behind each other."""
    labels, names, shards, rows, made = [], [], [], [], []
    for label in Label:
        of_class = [
            name.split("_")[1]
            for name, n in SIZES.items()
            for _ in range(n)
            if name.startswith(label.name.lower())
        ]
        for start in range(0, len(of_class), rows_a_shard):
            part = of_class[start : start + rows_a_shard]
            shards += [len(made)] * len(part)
            made.append(Shard(f"{label.name}{start}.parquet", 1000, (len(part),), (900,)))
            rows += range(len(part))
            labels += [int(label)] * len(part)
            names += part
    return ShardIndex(
        "indexed",
        tuple(made),
        np.array(shards, np.int32),
        np.array(rows, np.int32),
        np.array(labels, np.uint8),
        Names.of(names),
        Names.of("" for _ in names),
        Names.of("" for _ in names),
    )


OPTIONS = {"fraction": 0.1, "holdout": 0.3, "names": (), "max_images": 0, "seed": 3}


def test_counts_are_the_same_of_manifest_and_index() -> None:
    assert listed().sources() == indexed().sources()


@pytest.mark.parametrize("form", ["manifest", "index"])
def test_parts_are_disjoint_and_whole_sources_are_held_out(form: str) -> None:
    images: Images = listed() if form == "manifest" else indexed()
    split = split_images(images, **OPTIONS)
    parts = [part.sources() for part in (split.training, split.random, split.heldout)]
    assert sum(parts, Counter()) == images.sources()
    assert set(parts[2]) == set(split.held)
    assert not set(parts[2]) & (set(parts[0]) | set(parts[1]))
    assert {label for label, _ in split.held} == set(Label)
    assert {label for label, _ in parts[1]} == set(Label)
    assert sum(parts[1].values()) == pytest.approx(0.1 * (len(images) - len(split.heldout)), abs=2)


def test_manifest_and_index_hold_out_the_same_sources_and_the_seed_changes_them() -> None:
    held = split_images(listed(), **OPTIONS).held
    assert split_images(indexed(), **OPTIONS).held == held
    others = {choose_sources(listed().sources(), fraction=0.3, names=(), seed=seed) for seed in range(20)}
    assert len(others) > 2


def test_named_sources_are_held_out_in_either_class() -> None:
    split = split_images(listed(), **OPTIONS | {"names": ["gan", "ffhq"]})
    assert split.held == ((Label.REAL, "ffhq"), (Label.FAKE, "gan"))
    assert len(split.heldout) == 11


def test_a_name_that_both_classes_have_may_say_which_it_means() -> None:
    counts = {Source(label, name): 9 for label in Label for name in ("faces", "cats", "dogs")}
    both = ((Label.REAL, "faces"), (Label.FAKE, "faces"))
    assert choose_sources(counts, fraction=0, names=["faces"], seed=0) == both
    assert choose_sources(counts, fraction=0, names=["real:faces"], seed=0) == both[:1]
    named = choose_sources(counts, fraction=0, names=["fake:faces", "real:cats"], seed=0)
    assert named == ((Label.REAL, "cats"), (Label.FAKE, "faces"))
    with pytest.raises(ValueError, match="--holdout fake:birds: no image is of that"):
        choose_sources(counts, fraction=0, names=["fake:birds"], seed=0)


def test_nothing_is_held_out_unless_asked() -> None:
    split = split_images(indexed(), **OPTIONS | {"holdout": 0, "fraction": 0})
    assert split.held == ()
    assert (len(split.training), len(split.random), len(split.heldout)) == (85, 0, 0)


def test_rows_that_validate_stand_first_in_their_shards() -> None:
    """To read a row is to read those before it; so a part of every shard's beginning is cheap."""
    split = split_images(indexed(), **OPTIONS | {"holdout": 0, "fraction": 0.2})
    assert split.random.row_N.max() < 3
    assert len(np.unique(split.random.shard_N)) >= 8


def test_a_limit_takes_evenly_from_the_sources_and_keeps_them_out_of_training() -> None:
    options = OPTIONS | {"names": ["sd", "gan", "mj", "ffhq"], "max_images": 8}
    split = split_images(indexed(), **options)
    counts = split.heldout.sources()
    assert len(split.heldout) == 8
    assert counts[Source(Label.FAKE, "mj")] == 1
    assert max(counts.values()) <= 3
    assert not {name for _, name in split.training.sources()} & {"sd", "gan", "mj", "ffhq"}
    assert len(split.random) <= 8
    assert len(split_images(listed(), **options).heldout) == 8


def test_mistakes_are_named() -> None:
    with pytest.raises(
        ValueError, match="--holdout dalle: no image is of that generator or real source; there are 6, such as"
    ):
        split_images(listed(), **OPTIONS | {"names": ["dalle"]})
    with pytest.raises(ValueError, match="to hold out coco, ffhq leaves no real sources to train on"):
        split_images(listed(), **OPTIONS | {"names": ["coco", "ffhq"]})


@pytest.mark.parametrize("images", [listed(), indexed()], ids=["manifest", "index"])
def test_a_set_without_one_of_the_classes_is_refused(images: Images) -> None:
    require_both_classes(images)
    _, reals = images.partition([source for source in images.sources() if source.label is Label.REAL])
    with pytest.raises(ValueError, match=r"ed: no fake images \(35 real, 0 fake\); both classes are needed"):
        require_both_classes(reals)


def test_sources_are_read_as_they_are_written_and_as_older_detectors_have_them() -> None:
    for source in listed().sources():
        assert Source.parse(str(source)) == Source.parse(f"{source.label.word} {source.name}") == source
    with pytest.raises(ValueError, match="'cats' is no source"):
        Source.parse("cats")
