"""Recipes, schedules, the order of images, the loop, and what train.py does with them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import train
from data.augment import train_view
from data.loaders import batches_per_epoch, epoch_order, ordered_batches, train_batches
from data.records import Label, Manifest, Record
from data.sources import open_source
from files import TensorFile
from models.adapt import base_tower, is_lora, merge_lora
from models.backbone import TINY, fingerprint, load_backbone
from models.checkpoint import FORMS, load_checkpoint, save_checkpoint
from models.config import LoraSpec
from prototype.bank import PrototypeBank
from training.features import compute_features, feature_batches
from training.loop import Fitted, fit, resolve_precision
from training.optim import clip_gradients, lr_factor, make_optimizer, make_schedule
from training.recipe import PRESETS, Recipe, make_recipe
from training.runs import DETECTOR, Run

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun


def listed(**images: int) -> Manifest:
    """A manifest without files: `real_a=3` is three photographs of the source `a`."""
    records = [
        Record(f"{name}/{i}", Label[name.split("_")[0].upper()], name.split("_")[1])
        for name, count in images.items()
        for i in range(count)
    ]
    return Manifest("listed", tuple(records))


# ---------------------------------------------------------------------------------------------------------
# Recipes


@pytest.mark.parametrize(
    ("stage", "preset", "facts"),
    [
        (1, "paper", {"epochs": 20, "val_fraction": 0.05, "patience": 0, "stop_accuracy": 1}),
        (2, "paper", {"stop_accuracy": 0.999, "patience": 3, "val_fraction": 0.05}),
        (1, "release", {"epochs": 2, "batch_size": 32, "val_fraction": 0.05, "train_view": "crop"}),
        (2, "release", {"epochs": 10, "batch_size": 64, "val_fraction": 0.01, "train_view": "release"}),
    ],
)
def test_presets_are_as_published(stage: int, preset: str, facts: dict[str, Any]) -> None:
    recipe = make_recipe(preset, stage=stage, overrides={})
    facts |= {"lr": 1e-4, "weight_decay": 0.01, "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.1}
    if preset == "paper":
        facts |= {"train_view": "crop", "keep": "best", "val_resize_px": 0, "schedule": "constant"}
    else:
        facts |= {"schedule": "cosine", "final_lr_fraction": 0.001, "warmup_fraction": 0.2, "max_grad_norm": 1}
        facts |= {"val_resize_px": 256, "normalisation": "imagenet", "precision": "fp16"}
    assert {name: getattr(recipe, name) for name in facts} == facts


def test_every_preset_is_for_both_stages() -> None:
    names = {name for _, name in PRESETS}
    assert set(PRESETS) == {(stage, name) for stage in (1, 2) for name in names}


def test_overrides_replace_fields_of_the_preset() -> None:
    recipe = make_recipe("release", stage=2, overrides={"epochs": 3, "seed": 9})
    assert recipe == replace(PRESETS[2, "release"], epochs=3, seed=9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lr": 0.0}, "lr must be positive, not 0"),
        ({"lr": math.nan}, "lr must be positive, not nan"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must not be negative"),
        ({"head_lr_factor": -1.0}, "head_lr_factor must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
        ({"max_steps": -5}, "max_steps must not be negative"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1, not 1"),
        ({"warmup_fraction": -0.1}, "warmup_fraction must be at least 0"),
        ({"lora_dropout": 1.5}, "lora_dropout must be at least 0 and below 1"),
        ({"schedule": "linear"}, "schedule is one of constant, cosine, not 'linear'"),
        ({"keep": "first"}, "keep is one of best, last"),
        ({"precision": "fp8"}, "precision is one of auto, fp32, bf16, fp16"),
        ({"normalisation": "none"}, "normalisation is one of backbone, imagenet"),
        ({"train_view": "zoom"}, "train_view is one of crop, crop_flip, release"),
        ({"sampling": "sorted"}, "sampling is one of shuffle, class, source"),
    ],
)
def test_bad_values_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_recipe("paper", stage=2, overrides=overrides)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preset 'fast'; choose from paper, release, small, demo"):
        make_recipe("fast", stage=1, overrides={})


def test_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU use auto, fp32 or bf16"):
        resolve_precision("fp16", device="cpu")
    assert resolve_precision("fp16", device="cuda") == "fp16"
    assert resolve_precision("auto", device="cpu") in ("bf16", "fp32")
    assert resolve_precision("bf16", device="cpu") == "bf16"


# ---------------------------------------------------------------------------------------------------------
# Optimiser and schedule


def test_cosine_schedule_of_the_release() -> None:
    factor = lr_factor(PRESETS[1, "release"], num_steps=100)
    values = [factor(step) for step in range(100)]
    assert values[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert values[20] == pytest.approx(1)
    assert values[20:] == sorted(values[20:], reverse=True)
    assert values[-1] == pytest.approx(0.001)


def test_cosine_is_half_way_in_the_middle() -> None:
    factor = lr_factor(Recipe(schedule="cosine", final_lr_fraction=0.2), num_steps=101)
    assert [factor(step) for step in (0, 50, 100, 200)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert factor(25) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)


def test_constant_schedule_with_and_without_warm_up() -> None:
    factor = lr_factor(Recipe(warmup_fraction=0.5), num_steps=8)
    assert [factor(step) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert {lr_factor(Recipe(), num_steps=8)(step) for step in range(8)} == {1.0}


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_schedule_of_a_very_short_run_stays_in_bounds(num_steps: int) -> None:
    factor = lr_factor(PRESETS[2, "release"], num_steps=num_steps)
    assert all(0.001 <= factor(step) <= 1 for step in range(num_steps + 1))


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Linear(3, 3)
        self.project = nn.Linear(3, 1)
        self.tower.weight.requires_grad_(False)


def test_optimiser_groups() -> None:
    model = TwoParts()
    recipe = Recipe(lr=0.01, head_lr_factor=5, weight_decay=0.3)
    optimizer = make_optimizer(model, recipe)
    groups = [(group["lr"], [id(p) for p in group["params"]]) for group in optimizer.param_groups]
    assert groups == [
        (0.01, [id(model.tower.bias)]),
        (0.05, [id(model.project.weight), id(model.project.bias)]),
    ]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    make_schedule(optimizer, replace(recipe, warmup_fraction=0.5), num_steps=8)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0025, 0.0125])


def test_frozen_tower_has_no_group() -> None:
    model = TwoParts()
    model.tower.requires_grad_(False)
    assert [group["lr"] for group in make_optimizer(model, Recipe(lr=0.01)).param_groups] == [0.01]


def test_gradients_are_clipped_to_the_norm_of_all_of_them() -> None:
    model = TwoParts()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def norm_after(max_norm: float) -> float:
        for parameter in trainable:
            parameter.grad = torch.full_like(parameter, 2.0)
        assert clip_gradients(model, max_norm) == pytest.approx(2 * math.sqrt(7))
        return math.sqrt(sum(float((p.grad**2).sum()) for p in trainable if p.grad is not None))

    assert norm_after(1.0) == pytest.approx(1, abs=1e-4)
    assert norm_after(100.0) == pytest.approx(2 * math.sqrt(7))
    assert norm_after(0.0) == pytest.approx(2 * math.sqrt(7))


# ---------------------------------------------------------------------------------------------------------
# Which image when


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
    loader = train_batches(
        manifest, view, batch_size=8, num_workers=num_workers, sampling="class", seed=seed, epoch=epoch
    )
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
        loader = train_batches(
            manifest, view, batch_size=batch_size, num_workers=0, sampling="shuffle", seed=0, epoch=0
        )
        assert len(list(loader)) == batches_per_epoch(40, batch_size)


def test_broken_image_is_a_failure_and_the_others_are_read(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "0_real/a.png", size=(30, 20))
    (tmp_path / "0_real/b.png").write_text("no image")
    make_image(tmp_path / "1_fake/c.png", size=(20, 30))
    view = train_view("crop", size_px=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    manifest = open_source(tmp_path)
    (tmp_path / "1_fake/c.png").unlink()
    (batch,) = ordered_batches(manifest, view, batch_size=4, num_workers=0, seed=0)
    assert [record.uri for record in batch.records] == [str(tmp_path / "0_real/a.png")]
    assert batch.sizes == [(30, 20)]
    assert batch.pixels_BCHW.shape == (1, 3, 16, 16)
    assert [Path(failure.record.uri).name for failure in batch.failures] == ["b.png", "c.png"]
    assert all(failure.reason for failure in batch.failures)


def test_features_keep_the_order_of_their_images(tiny_root: Path) -> None:
    manifest = open_source(tiny_root / "train")
    view = train_view("crop", size_px=40, mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = ordered_batches(manifest, view, batch_size=7, num_workers=0, seed=0)
    features_ND, records = compute_features(
        lambda pixels_BCHW: pixels_BCHW.mean(dim=(2, 3)), loader, device="cpu", total=40, desc="test"
    )
    assert records == list(manifest)
    dark = features_ND.mean(dim=1) < -0.4
    assert dark.tolist() == [record.label == Label.FAKE for record in records]


def test_feature_batches_follow_the_order_and_drop_a_short_rest() -> None:
    features_ND, labels_N = torch.arange(10.0).unsqueeze(1), torch.arange(10) % 2
    order = [9, 2, 4, 0, 1]
    batches = list(feature_batches(features_ND, labels_N, order, batch_size=2))
    assert [feature_BD.flatten().tolist() for feature_BD, _ in batches] == [[9, 2], [4, 0]]
    assert [labels_B.tolist() for _, labels_B in batches] == [[1, 0], [0, 0]]
    ((only_BD, _),) = feature_batches(features_ND, labels_N, order, batch_size=64)
    assert only_BD.flatten().tolist() == order


# ---------------------------------------------------------------------------------------------------------
# The loop


FEATURES_ND = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
LABELS_N = (FEATURES_ND[:, 0] > 0).float()


class Trial:
    """A linear model on 64 points that a plane separates; `validate` tells made-up accuracies."""

    def __init__(self, folder: Path, accuracies: list[float | None] | None = None, **fields: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.weights: list[Tensor] = []
        accuracies_left = iter(accuracies or ())

        def validate() -> dict[str, Any]:
            self.weights.append(self.model.weight.detach().clone())
            return {"accuracy": next(accuracies_left)}

        self.run = Run(folder / "run", overwrite=False)
        self.fitted: Fitted = fit(
            self.model,
            forward=lambda feature_BD: self.model(feature_BD).squeeze(-1),
            batches=self.batches,
            num_batches=4,
            validate=validate if accuracies else None,
            recipe=Recipe(**({"lr": 0.1, "epochs": 6} | fields)),
            run=self.run,
            device="cpu",
        )

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).tolist()
        return feature_batches(FEATURES_ND, LABELS_N, order, batch_size=16)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.folder / "metrics.jsonl").read_text().splitlines()]


def test_loop_learns_what_can_be_learnt(tmp_path: Path) -> None:
    trial = Trial(tmp_path, epochs=40)
    assert trial.fitted == Fitted(40, 160, None)
    losses = [entry["loss"] for entry in trial.log()]
    assert len(losses) == 160
    assert losses[0] > 0.5
    assert max(losses[-4:]) < 0.15
    with torch.inference_mode():
        called = trial.model(FEATURES_ND).squeeze(-1) > 0
    assert (called == LABELS_N.bool()).float().mean() > 0.95


def test_logged_loss_is_the_binary_cross_entropy_of_the_first_batch(tmp_path: Path) -> None:
    trial = Trial(tmp_path, epochs=1)
    torch.manual_seed(0)
    untrained = nn.Linear(4, 1)
    feature_BD, labels_B = next(trial.batches(0))
    probability_B = untrained(feature_BD).squeeze(-1).sigmoid()
    expected = -(labels_B * probability_B.log() + (1 - labels_B) * (1 - probability_B).log()).mean()
    assert trial.log()[0]["loss"] == pytest.approx(float(expected.detach()), abs=1e-6)


@pytest.mark.parametrize(("keep", "epoch", "accuracy"), [("best", 2, 0.9), ("last", 5, 0.7)])
def test_patience_and_what_is_kept(tmp_path: Path, keep: str, epoch: int, accuracy: float) -> None:
    trial = Trial(tmp_path, [0.5, 0.9, 0.8, 0.9, 0.7, 1.0], patience=3, keep=keep)
    assert trial.fitted == Fitted(epoch, 20, accuracy)
    assert torch.equal(trial.model.weight, trial.weights[epoch - 1])
    assert not torch.equal(trial.weights[1], trial.weights[4])


def test_without_patience_every_epoch_runs(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [1.0, 0.5, 0.5, 0.5, 0.5, 0.5], keep="best")
    assert trial.fitted == Fitted(1, 24, 1.0)
    assert torch.equal(trial.model.weight, trial.weights[0])


def test_training_stops_at_the_wanted_accuracy(tmp_path: Path) -> None:
    assert Trial(tmp_path, [0.5, 0.9989, 0.999, 1.0], stop_accuracy=0.999).fitted == Fitted(3, 12, 0.999)


def test_training_stops_after_the_wanted_steps(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [0.5, 0.6], max_steps=6)
    assert trial.fitted == Fitted(2, 6, 0.6)
    assert [entry["step"] for entry in trial.log() if "loss" in entry] == list(range(1, 7))


def test_schedule_spans_the_steps_that_are_taken(tmp_path: Path) -> None:
    log = Trial(tmp_path, max_steps=6, schedule="cosine", final_lr_fraction=0.1).log()
    assert log[0]["lr"] == pytest.approx(0.1)
    assert log[-1]["lr"] == pytest.approx(0.01)


def test_gradients_are_clipped_before_the_step(tmp_path: Path) -> None:
    """Clipped to less than Adam's epsilon, so that hardly anything moves."""
    free, clipped = Trial(tmp_path / "free"), Trial(tmp_path / "clipped", max_grad_norm=1e-9)
    assert free.log()[0]["grad_norm"] == pytest.approx(clipped.log()[0]["grad_norm"])
    assert clipped.log()[-1]["loss"] > free.log()[-1]["loss"]


@pytest.mark.parametrize("part", ["training", "validation"])
def test_nothing_readable_is_told_and_not_waited_for(tmp_path: Path, part: str) -> None:
    class Unreadable(Trial):
        def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(()) if part == "training" else super().batches(epoch)

    with pytest.raises(ValueError, match=f"none of the {part} images could be read"):
        Unreadable(tmp_path, [None])


def test_only_what_requires_a_gradient_changes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(
        model,
        forward=lambda feature_BD: model(feature_BD).squeeze(-1),
        batches=lambda _epoch: [(FEATURES_ND, LABELS_N)],
        num_batches=1,
        validate=None,
        recipe=Recipe(epochs=2),
        run=Run(tmp_path, overwrite=False),
        device="cpu",
    )
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.weight", "1.bias"}


# ---------------------------------------------------------------------------------------------------------
# train.py


Train = Callable[..., Any]


@pytest.fixture
def stage1(run_cli: RunCli, tiny_root: Path) -> Train:
    """`stage1(out, *arguments)` trains stage 1 for an epoch on the tiny tower."""

    def run(out: Path, *arguments: object, root: Path = tiny_root) -> Any:
        common = ("--stage", 1, "--preset", "small", "--backbone", "tiny", "--data-root", root, "--out", out)
        return run_cli(train.main, *common, "--epochs", 1, "--num-workers", 0, *arguments)

    return run


@pytest.fixture
def stage2(run_cli: RunCli, tiny_run: TinyRun) -> Train:
    """`stage2(out, *arguments)` trains stage 2 for an epoch from what `tiny_run` left."""

    def run(out: Path, *arguments: object, init: Path = tiny_run.stage1, bank: Path | None = tiny_run.bank) -> Any:
        start = ("--stage", 2, "--preset", "small", "--init", init, "--out", out)
        common = ("--data-root", tiny_run.root, "--epochs", 1, "--num-workers", 0)
        return run_cli(train.main, *start, *common, *(("--prototypes", bank) if bank else ()), *arguments)

    return run


def test_dry_run_counts_the_published_model_without_weights_or_network(
    run_cli: RunCli, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage, counts in ((1, "303,310,976 parameters, 131,200"), (2, "305,736,320 parameters, 2,556,544")):
        done = run_cli(train.main, "--stage", stage, "--data-root", tiny_root, "--dry-run")
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"{counts} trainable"
        assert "19 real images of 2 sources, 19 fakes of 2 generators; validation on 2 images" in done.out
    assert not list(tmp_path.iterdir())


def tensors_of(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path, merge=False, allow_tiny=True).detector.state_dict()


@pytest.mark.parametrize("options", [("--feature-views", 2), ("--feature-views", 0)], ids=["features", "images"])
def test_same_seed_same_detector_whatever_the_workers(stage1: Train, tmp_path: Path, options: tuple[Any]) -> None:
    for name, extra in (("a", ()), ("b", ("--num-workers", 2)), ("c", ("--seed", 1))):
        done = stage1(tmp_path / name, *options, *extra)
        assert done.code == 0, done.err
    a, b, c = (tensors_of(tmp_path / name / DETECTOR) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["project.weight"], c["project.weight"])


def test_stage2_starts_from_stage1_and_keeps_the_prototypes(
    stage2: Train, tiny_run: TinyRun, tmp_path: Path
) -> None:
    done = stage2(tmp_path, "--max-steps", 1, "--lr", 1e-9)
    assert done.code == 0, done.err
    first, second = tensors_of(tiny_run.stage1), tensors_of(tmp_path / DETECTOR)
    assert torch.allclose(first["project.weight"], second["project.weight"], atol=1e-6)
    assert torch.equal(second["prototypes_PE"], PrototypeBank.load(tiny_run.bank).vectors_PE)


def test_stage2_trains_lora_and_leaves_the_tower(stage2: Train, tmp_path: Path) -> None:
    assert stage2(tmp_path, "--form", "merged", "--lr", 0.01).code == 0
    assert stage2(tmp_path / "adapter", "--lr", 0.01).code == 0
    adapter, merged = tensors_of(tmp_path / "adapter" / DETECTOR), tensors_of(tmp_path / DETECTOR)
    place = "tower.encoder.layers.0.self_attn.q_proj"
    update = 2 * adapter[f"{place}.lora_B.default.weight"] @ adapter[f"{place}.lora_A.default.weight"]
    assert update.abs().max() > 1e-5
    assert torch.allclose(merged[f"{place}.weight"], adapter[f"{place}.base_layer.weight"] + update, atol=1e-6)


def test_short_types_in_training_leave_no_trace_in_the_file(stage2: Train, tmp_path: Path) -> None:
    """What is frozen is the backbone's to the bit; merging adds the update and nothing else."""
    options = ("--precision", "bf16", "--lr", 0.01)
    for form in FORMS:
        done = stage2(tmp_path / form, *options, "--form", form)
        assert done.code == 0, done.err
    files = {form: TensorFile(tmp_path / form / DETECTOR).read()[1] for form in FORMS}
    assert {value.dtype for tensors in files.values() for value in tensors.values()} == {torch.float32}
    backbone = load_backbone(TINY).tower.state_dict()
    assert all(torch.equal(value, backbone[name]) for name, value in base_tower(files["full"]).items())
    assert set(base_tower(files["full"])) == set(backbone)
    assert all(torch.equal(value, files["full"][name]) for name, value in files["adapter"].items())
    merged = merge_lora(files["full"], LoraSpec())
    assert set(merged) == set(files["merged"])
    assert all(torch.equal(value, merged[name]) for name, value in files["merged"].items())
    changed = {
        name for name, value in base_tower(files["merged"]).items() if not torch.equal(value, backbone[name])
    }
    assert changed == {
        f"encoder.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkv"
    }


@pytest.fixture
def go_on(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> Train:
    """`go_on(form, *arguments)` trains on for a step, into tmp_path/run, from `tiny_run`'s detector in that form.

    Other keywords change its config.
    """

    def run(form: str, *arguments: object, **changed: Any) -> Any:
        init = tmp_path / f"{form}.safetensors"
        loaded = load_checkpoint(tiny_run.stage2, merge=False, allow_tiny=True)
        config = replace(loaded.config, **changed)
        save_checkpoint(init, replace(loaded, form=form, config=config, threshold=0.3))
        start = ("--stage", 2, "--preset", "paper", "--init", init, "--out", tmp_path / "run")
        common = ("--data-root", tiny_run.root, "--max-steps", 1, "--batch-size", 8, "--num-workers", 0)
        return run_cli(train.main, *start, *common, *arguments)

    return run


@pytest.mark.parametrize(
    ("init", "saved"),
    [("adapter", "adapter"), ("adapter", "merged"), ("full", "adapter"), ("full", "full"), ("merged", "full")],
)
def test_training_goes_on_from_a_stage2_detector(go_on: Train, tmp_path: Path, init: str, saved: str) -> None:
    done = go_on(init, "--form", saved, "--lr", 1e-9)
    assert done.code == 0, done.err
    before = load_checkpoint(tmp_path / f"{init}.safetensors", merge=False, allow_tiny=True)
    after = load_checkpoint(tmp_path / "run" / DETECTOR, merge=False, allow_tiny=True)
    assert after.threshold == 0.3
    assert after.provenance["init"] == str(tmp_path / f"{init}.safetensors")
    assert after.provenance["prototypes"] == before.provenance["prototypes"]
    assert after.config.lora == (None if saved == "merged" else LoraSpec())
    found, expected = after.detector.state_dict(), before.detector.state_dict()
    assert torch.equal(found["prototypes_PE"], expected["prototypes_PE"])
    if saved != "merged":
        started, base = base_tower(expected), base_tower(found)
        assert all(torch.equal(base[name], started[name]) for name in started)
    found, expected = merge_lora(found, LoraSpec()), merge_lora(expected, LoraSpec())
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-6) for name in expected)


@pytest.mark.parametrize("init", FORMS)
def test_going_on_trains_what_stage2_trains(go_on: Train, tmp_path: Path, init: str) -> None:
    assert go_on(init, "--form", "full", "--lr", 0.01).code == 0
    before, after = tensors_of(tmp_path / f"{init}.safetensors"), tensors_of(tmp_path / "run" / DETECTOR)
    changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in changed} == {"tower", "project", "attention", "classifier"}
    of_tower = {name for name in changed if name.startswith("tower.")}
    assert of_tower <= {name for name in after if is_lora(name) or "base_layer" in name}
    assert all(torch.equal(base_tower(after)[name], value) for name, value in base_tower(before).items())


def test_going_on_can_change_the_prototypes(go_on: Train, tmp_path: Path) -> None:
    bank = PrototypeBank(torch.eye(128)[:4], torch.tensor([0, 0, 0, 1]), {"method": "by hand"})
    bank.save(tmp_path / "bank.safetensors")
    assert go_on("full", "--prototypes", tmp_path / "bank.safetensors").code == 0
    after = load_checkpoint(tmp_path / "run" / DETECTOR, allow_tiny=True)
    assert torch.equal(after.detector.prototypes_PE, bank.vectors_PE)
    assert after.provenance["prototypes"] == {"method": "by hand", "num_real": 3, "num_fake": 1}


def test_fingerprint_of_a_merged_tower_is_its_own(go_on: Train, tmp_path: Path) -> None:
    """It is not the named backbone any more, and no adapter on it may claim to be."""
    assert go_on("merged", "--form", "full").code == 0
    after = load_checkpoint(tmp_path / "run" / DETECTOR, merge=False, allow_tiny=True)
    assert after.backbone_fingerprint == fingerprint(base_tower(after.detector.state_dict()))
    assert after.backbone_fingerprint != fingerprint(load_backbone(TINY).tower.state_dict())


def test_going_on_as_it_cannot_be_is_refused(go_on: Train, tmp_path: Path) -> None:
    for done, message in (
        (go_on("merged"), "a merged tower is no backbone that an adapter could name; pass --form full"),
        (go_on("full", backbone=""), "a tower without a name is no backbone that an adapter could name"),
        (go_on("full", "--backbone", "tiny"), "--backbone tiny: .* has tiny"),
        (go_on("adapter", "--backbone", "other"), "backbone 'other' cannot be loaded"),
        (
            go_on("full", "--lora-rank", 4),
            "--lora-rank 4: .* has LoRA of rank 16, alpha 32 and dropout 0.1, and it is kept",
        ),
        (go_on("full", "--normalisation", "imagenet"), "was trained with another"),
    ):
        assert re.search(message, done.only_error())
        assert not (tmp_path / "run").exists()


def test_run_is_written_down(stage1: Train, tmp_path: Path) -> None:
    done = stage1(tmp_path, "--lr", 0.002)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", DETECTOR, "metrics.jsonl"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["recipe"]["lr"] == 0.002
    assert config["preset"] == "small"
    provenance = load_checkpoint(tmp_path / DETECTOR, allow_tiny=True).provenance
    assert provenance["data"]["images"] == 38
    assert provenance["epoch"] == 1
    assert f"saved {tmp_path / DETECTOR} (adapter" in done.out


@pytest.mark.parametrize(
    "options", [("--feature-views", 2), ("--feature-views", 0, "--epochs", 3)], ids=["features", "images"]
)
def test_unreadable_images_are_named_once_and_the_run_goes_on(
    stage1: Train, tmp_path: Path, make_image: MakeImage, options: tuple[Any]
) -> None:
    """With half of the images held out, some of the broken ones are in either part."""
    broken = set()
    for number, kind in enumerate(("0_real", "1_fake")):
        for i in range(12):
            path = tmp_path / "root/train" / kind / f"{i}.png"
            make_image(path, seed=20 * number + i, size=(40, 40))
            if i % 3 == 0:
                path.write_bytes(path.read_bytes()[:200])
                broken.add(str(path))
    done = stage1(tmp_path / "run", "--val-fraction", 0.5, *options, root=tmp_path / "root")
    assert done.code == 0, done.err
    with (tmp_path / "run/unreadable.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert sorted(uri for uri, _ in rows) == sorted(broken)
    assert all(reason for _, reason in rows)
    assert (tmp_path / "run" / DETECTOR).is_file()


def test_finished_run_is_kept_unless_told_otherwise(stage1: Train, tmp_path: Path) -> None:
    assert stage1(tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert f"error: {tmp_path} holds a finished run" in stage1(tmp_path).only_error()
    assert stage1(tmp_path, "--reuse", "--lr", 0.5).out == f"{tmp_path / DETECTOR} is there: reused\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert stage1(tmp_path, "--overwrite", "--lr", 0.5).code == 0
    assert (tmp_path / DETECTOR).read_bytes() != before[DETECTOR]


def test_run_that_was_stopped_is_started_anew(stage1: Train, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 100)
    (tmp_path / "unreadable.csv").write_text("old,old\n")
    assert stage1(tmp_path).code == 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 10
    assert not (tmp_path / "unreadable.csv").exists()


def test_stages_that_do_not_fit_together_are_refused(stage2: Train, tiny_run: TinyRun, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.safetensors"
    PrototypeBank(torch.eye(64)[:4], torch.tensor([0, 0, 1, 1])).save(narrow)
    out = tmp_path / "run"
    for done, message in (
        (
            stage2(out, "--lora-dropout", 0.2, init=tiny_run.stage2),
            "--lora-dropout 0.2: .* dropout 0.1, and it is kept",
        ),
        (stage2(out, init=tiny_run.bank), "of the format 'gapl-prototypes-1'; expected a detector"),
        (stage2(out, init=tmp_path / "gone"), "no such file; expected a detector"),
        (stage2(out, bank=None), "is stage 1's: --prototypes .* is needed too"),
        (stage2(out, bank=narrow), "vectors of 64 dimensions, but the embeddings of"),
        (stage2(out, bank=tiny_run.stage1), "of the format 'gapl-detector-1'; expected a prototype bank"),
        (stage2(out, "--normalisation", "imagenet"), "stage 1 in .* was trained with another"),
    ):
        assert re.search(message, done.only_error())
        assert not out.exists()


@pytest.mark.parametrize(
    ("stage", "name", "value"), [(1, "lora_rank", 4), (1, "lora_dropout", 0.0), (2, "feature_views", 2)]
)
def test_an_option_of_the_other_stage_is_refused(stage: int, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} has no effect in stage {stage}"):
        make_recipe("paper", stage=stage, overrides={name: value})
