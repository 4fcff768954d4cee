"""Detectors that look at an image in several views: crops of it, and the whole of it in a small size."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

import benchmarks
import inference
import train
from data.images.augment import train_view
from data.images.variants import VariantBatch
from data.images.views import seeded
from evaluation.tables.scores import read_scores
from gapl.calibration import Calibration
from gapl.cascade import Cascade
from gapl.config import DetectorConfig, LoraSpec, TowerSpec
from gapl.names import TINY
from gapl.pixels import CLIP_MEAN, CLIP_STD, PixelSpec
from gapl.verdict import decision_rule
from gapl.views import crops, eval_view, reduce_by_powers
from models.detector import Stage1Detector, TowerHead, build_detector
from models.run import run_detector
from models.tower import VisionTower
from models.weights.backbone import architecture, load_backbone
from models.weights.checkpoint import Checkpoint, load_checkpoint, read_info, save_checkpoint, store_calibration
from models.weights.inspect import facts
from models.weights.released import released_pixels, to_released
from prototype import dream_prototype
from tests.test_calibration import FOUND as CALIBRATION

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

ALL = ("centre", "quarters", "reduced", "whole")
PIXEL = PixelSpec(size_px=32, small_image="resize", views=ALL)


def gradient(width: int, height: int) -> Image.Image:
    """A picture whose red tells the column and whose green tells the row, in steps of 8 px."""
    column_HW, row_HW = np.meshgrid(np.arange(width) // 8, np.arange(height) // 8)
    return Image.fromarray(np.stack([column_HW, row_HW, 0 * row_HW], axis=-1).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------
# Views


def test_crops_are_where_they_should_be() -> None:
    image = gradient(1200, 1600)
    centre, *quarters, reduced, whole = crops(image, PIXEL)

    def middle(crop: Image.Image) -> tuple[int, int]:
        red, green, _ = crop.getpixel((16, 16))  # type: ignore[misc]
        return 8 * red, 8 * green

    assert middle(centre) == (600, 800)
    assert [middle(each) for each in quarters] == [(296, 400), (896, 400), (296, 1200), (896, 1200)]
    assert middle(reduced) == (600, 800)
    assert reduced.tobytes() != centre.tobytes(), "1,200 px allow to shrink by two"
    corner_of_whole = whole.getpixel((0, 0))
    assert corner_of_whole[0] < 16, "the whole picture begins near its left edge"  # type: ignore[index]
    assert whole.size == centre.size == (32, 32)


@pytest.mark.parametrize(("size", "reduced"), [((1023, 4000), (1023, 4000)), ((1024, 2048), (512, 1024))])
@pytest.mark.parametrize("factor", [1, 2])
def test_reduced_keeps_a_short_side_of_512(size: tuple[int, int], reduced: tuple[int, int], factor: int) -> None:
    image = Image.new("RGB", (size[0] * factor, size[1] * factor))
    expected = reduced if factor == 1 or size[0] == 1024 else (1023, 4000)
    assert reduce_by_powers(image).size == expected


@pytest.mark.parametrize("size", [(1, 1), (20, 90), (31, 31), (33, 32), (64, 40)])
def test_small_images_give_as_many_crops(size: tuple[int, int]) -> None:
    pixels_VCHW = eval_view(PIXEL)(gradient(*size))
    assert pixels_VCHW.shape == (7, 3, 32, 32)
    assert np.isfinite(pixels_VCHW).all()
    black_C = -np.array(CLIP_MEAN) / np.array(CLIP_STD)
    bright_VCHW = eval_view(PIXEL)(Image.new("RGB", size, "white"))
    assert (bright_VCHW > black_C[:, None, None] + 1).all(), "nothing is padded"


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_takes_little_memory(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized as a whole, a file of a few kB would take gigabytes."""
    made: list[int] = []
    resize = Image.Image.resize

    def counted(image: Image.Image, size: tuple[int, int], *options: object) -> Image.Image:
        made.append(size[0] * size[1])
        assert made[-1] < 10_000_000, size  # before it is made
        return resize(image, size, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", counted)
    assert eval_view(PIXEL)(Image.new("RGB", size)).shape == (7, 3, 32, 32)
    assert len(made) == 4


def test_a_strip_in_training_is_cut_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    resize = functional.resize

    def counted(image_CHW: Tensor, *options: Any, **named: Any) -> Tensor:
        seen.append(tuple(image_CHW.shape))
        assert max(seen[-1]) <= 100  # before it is resized
        return resize(image_CHW, *options, **named)

    monkeypatch.setattr(functional, "resize", counted)
    view = train_view("scales", size_px=32, mean=(0, 0, 0), std=(1, 1, 1))
    assert seeded(view, Image.new("RGB", (1, 60_000)), seed=0).shape == (2, 3, 32, 32)
    assert seen == [(3, 100, 1), (3, 100, 1)]


def test_each_view_alone_is_its_part_of_all() -> None:
    image = gradient(1100, 1300)
    together_VCHW = eval_view(PIXEL)(image)
    centre = eval_view(replace(PIXEL, views=("centre",)))(image)
    whole = eval_view(PIXEL.fast())(image)
    assert PIXEL.num_views == 7
    assert np.array_equal(centre, together_VCHW[0])
    assert np.array_equal(whole, together_VCHW[-1])


@pytest.mark.parametrize("views", [(), ("whole", "centre"), ("centre", "centre"), ("all",)])
def test_views_that_cannot_be_are_refused(views: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="centre, quarters, reduced"):
        replace(PIXEL, views=views)
    with pytest.raises(ValueError, match="resize_px"):
        replace(PIXEL, resize_px=40)


@pytest.mark.parametrize("name", ["scales", "delivered"])
@pytest.mark.parametrize("size", [(12, 20), (300, 200)])
def test_training_views_show_a_crop_and_the_whole(name: str, size: tuple[int, int]) -> None:
    view = train_view(name, size_px=32, mean=(0, 0, 0), std=(1, 1, 1))
    image = gradient(*size)
    drawn = [seeded(view, image, seed=seed) for seed in range(12)]
    assert {tuple(each.shape) for each in drawn} == {(2, 3, 32, 32)}
    assert torch.equal(drawn[3], seeded(view, image, seed=3))
    assert not torch.equal(drawn[0], drawn[1])
    if name == "scales" and size == (300, 200):
        crop_spans, whole_spans = (
            [float(each[part, 1].max() - each[part, 1].min()) * 255 * 8 for each in drawn] for part in (0, 1)
        )
        assert max(crop_spans) <= 40, "a crop shows 32 rows"
        assert min(whole_spans) >= 160, "the whole shows most of the 200 rows"


# ---------------------------------------------------------------------------------------------------------
# Detector


def detector_with(views: tuple[str, ...], *, stage: int = 2) -> TowerHead:
    config = config_with(views, stage=stage)
    torch.manual_seed(0)
    detector = build_detector(config, load_backbone(TINY).tower).eval()
    if stage == 2:
        detector.prototypes_PE.normal_()  # type: ignore[union-attr, operator]
    return detector


def config_with(views: tuple[str, ...], *, stage: int = 2) -> DetectorConfig:
    layers = (1, 2) if "whole" in views else ()
    pixel = replace(PIXEL, views=views)
    return DetectorConfig(
        stage, TINY, architecture(TINY), pixel, num_prototypes=6, feature_layers=(1,), whole_layers=layers
    )


@pytest.fixture
def views() -> Tensor:
    return torch.randn(3, 7, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_feature_is_the_mean_of_the_crops_and_the_whole(views: Tensor) -> None:
    detector = detector_with(ALL)
    crops_BVD = torch.stack([detector.tower(views[:, view], (1,)) for view in range(6)], dim=1)
    whole_BD = detector.tower(views[:, 6], (1, 2))
    expected_BD = torch.cat([crops_BVD.mean(dim=1), whole_BD], dim=1)
    feature_BD = detector.feature(views)
    assert feature_BD.shape == (3, detector.feature_width) == (3, 3 * 32)
    assert (feature_BD - expected_BD).abs().max() < 1e-5


def test_crops_alone_make_the_mean_of_their_features(views: Tensor) -> None:
    detector = detector_with(("centre", "quarters"), stage=1)
    expected_BD = torch.stack([detector.tower(views[:, view], (1,)) for view in range(5)]).mean(dim=0)
    assert (detector.feature(views[:, :5]) - expected_BD).abs().max() < 1e-5
    assert torch.equal(detector.feature(views[:, 0]), detector.tower(views[:, 0], (1,)))


def test_the_whole_alone_is_the_feature_without_crops(views: Tensor) -> None:
    detector = detector_with(ALL)
    without_BD = detector.without_crops(detector.feature(views))
    assert (detector.feature(views[:, 6]) - without_BD).abs().max() < 1e-5
    assert not without_BD[:, : detector.crop_width].any()
    assert (detector(views[:, 6]).logit_B - detector.head(without_BD).logit_B).abs().max() < 1e-5


def test_crops_are_left_out_in_training_alone(views: Tensor) -> None:
    detector = detector_with(ALL)
    feature_BD = detector.feature(views).detach().repeat(200, 1)
    both = {round(float(logit), 5) for logit in detector.head(feature_BD[:3]).logit_B.tolist()}
    alone = {
        round(float(logit), 5) for logit in detector.head(detector.without_crops(feature_BD[:3])).logit_B.tolist()
    }
    with detector.leaving_out_crops(0.3):
        assert {round(float(logit), 5) for logit in detector.head(feature_BD).logit_B.tolist()} == both
        detector.train()
        torch.manual_seed(0)
        drawn = [round(float(logit), 5) for logit in detector.head(feature_BD).logit_B.tolist()]
        detector.eval()
    share = np.mean([logit in alone for logit in drawn])
    assert set(drawn) == both | alone
    assert 0.22 < share < 0.38
    assert detector.crop_dropout == 0


def test_config_needs_layers_for_the_whole() -> None:
    with pytest.raises(ValueError, match="whole needs both"):
        replace(config_with(ALL), whole_layers=())
    with pytest.raises(ValueError, match="whole needs both"):
        replace(config_with(("centre",)), whole_layers=(1,))
    with pytest.raises(ValueError, match="whole_layers are ascending numbers from 1 to 2"):
        replace(config_with(ALL), whole_layers=(2, 1))


# ---------------------------------------------------------------------------------------------------------
# Files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "detector.safetensors"
    detector = detector_with(ALL)
    fingerprint = Checkpoint(detector=detector, config=config_with(ALL), backbone_fingerprint="", form="full")
    save_checkpoint(path, fingerprint)
    return path


def test_file_keeps_both_calibrations(saved: Path, tmp_path: Path) -> None:
    full, fast = CALIBRATION, replace(CALIBRATION, a=CALIBRATION.a * 2, operating_points={"balanced": 0.4})
    store_calibration(saved, full, out=tmp_path / "one.safetensors")
    store_calibration(tmp_path / "one.safetensors", fast, out=tmp_path / "two.safetensors", fast=True)
    info = read_info(tmp_path / "two.safetensors")
    assert (info.calibration, info.fast_calibration) == (full, fast)
    shown = facts(tmp_path / "two.safetensors")
    assert (shown["calibration"], shown["fast_calibration"]) == (asdict(full), asdict(fast))
    assert info.threshold == full.threshold("balanced")
    quick = load_checkpoint(tmp_path / "two.safetensors", views="fast", allow_tiny=True)
    assert quick.config.pixel.views == ("whole",)
    assert (quick.calibration, quick.threshold) == (fast, 0.4)


@pytest.mark.parametrize(
    ("views", "differs"), [(("centre",), False), (("quarters",), True), (("centre", "whole"), True)]
)
def test_the_released_form_holds_the_centre_alone(views: tuple[str, ...], differs: bool) -> None:
    spec = TowerSpec(64, 64, 2, 1, image_size=32, patch_size=8)
    pixel = replace(released_pixels(32), views=views)
    layers = (1,) if "whole" in views else ()
    config = DetectorConfig(2, "", spec, pixel, num_prototypes=4, lora=LoraSpec(), whole_layers=layers)
    state = build_detector(config, VisionTower(spec)).state_dict()
    if differs:
        with pytest.raises(ValueError, match="it differs in its preprocessing"):
            to_released(config, state)
    else:
        assert to_released(config, state).keys() == {"model", "prototype"}


def test_a_detector_with_one_view_has_no_fast_one(tmp_path: Path) -> None:
    detector, config = detector_with(("centre",)), config_with(("centre",))
    path = tmp_path / "one_view.safetensors"
    save_checkpoint(path, Checkpoint(detector=detector, config=config, backbone_fingerprint="", form="full"))
    for views in ("fast", "auto"):
        with pytest.raises(ValueError, match=r"one_view.safetensors: this detector has one view"):
            load_checkpoint(path, views=views, allow_tiny=True)
    with pytest.raises(ValueError, match="this detector has one view"):
        store_calibration(path, CALIBRATION, out=tmp_path / "out.safetensors", fast=True)


# ---------------------------------------------------------------------------------------------------------
# The whole first, and all views where that is unsure


def with_calibrations(file: Path, out: Path, *, full: Calibration, fast: Calibration | None) -> Path:
    """Write a copy of a detector file with these calibrations."""
    store_calibration(file, full, out=out)
    if fast is not None:
        store_calibration(out, fast, out=out, fast=True)
    return out


def gaps(scores_N: np.ndarray) -> list[float]:
    """Return a limit below all of the scores, one between each of them and the next, and one above all."""
    ascending = [0.0, *sorted(scores_N), 1.0]
    return [(low + high) / 2 for low, high in pairwise(ascending)]


OF_ALL = replace(CALIBRATION, a=0.7, b=0.3)
OF_WHOLE = replace(CALIBRATION, a=1.9, b=-0.2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("of_fast", "of_full", "expected"),  # bands as numbers of gaps; ranks of the scores that are not clear
    [
        ((1, 4), (2, 3), {1, 2, 3}),
        ((1, 2), (3, 5), {1, 2, 3, 4}),
        ((2, 4), (1, 1), {1, 2, 3}),
        ((0, 6), (3, 3), {0, 1, 2, 3, 4, 5}),
        ((5, 6), (5, 5), {5}),
        ((6, 7), (6, 6), set()),
    ],
)
def test_all_views_judge_what_the_whole_leaves_open(
    saved: Path,
    tmp_path: Path,
    precision: str,
    of_fast: tuple[int, int],
    of_full: tuple[int, int],
    expected: set[int],
) -> None:
    pixels_BVCHW = torch.randn(6, 7, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    given = {"device": "cpu", "precision": precision}
    alone = load_checkpoint(saved, views="fast", allow_tiny=True).detector
    whole = run_detector(alone, pixels_BVCHW[:, -1], **given)
    all_views = run_detector(load_checkpoint(saved, allow_tiny=True).detector, pixels_BVCHW, **given)
    fast_scores_B = OF_WHOLE.apply(whole.logit_B.numpy())
    limits = [*gaps(fast_scores_B), 1.0]
    fast = replace(OF_WHOLE, band_low=limits[of_fast[0]], band_high=limits[of_fast[1]])
    full = replace(OF_ALL, band_low=limits[of_full[0]], band_high=limits[of_full[1]])
    file = with_calibrations(saved, tmp_path / "both.safetensors", full=full, fast=fast)
    loaded = load_checkpoint(file, views="auto", allow_tiny=True)
    passes: list[int] = []
    loaded.detector.tower.register_forward_hook(lambda _tower, given, _out: passes.append(len(given[0])))
    output = run_detector(loaded.detector, pixels_BVCHW, **given)

    open_B = np.isin(fast_scores_B.argsort().argsort(), list(expected))
    assert output.by_whole_B is not None
    assert output.by_whole_B.tolist() == (~open_B).tolist()
    assert sum(passes) == 6 + 6 * len(expected), "the whole is seen once, and six crops of what it leaves open"
    assert loaded.calibration == full
    scores_B = full.apply(output.logit_B.numpy())
    close = 1e-5 if precision == "fp32" else 0.02
    assert scores_B[~open_B] == pytest.approx(fast_scores_B[~open_B], abs=1e-5)
    assert output.logit_B[open_B].numpy() == pytest.approx(all_views.logit_B[open_B].numpy(), abs=close)
    for name in ("embedding_BE", "attention_BP"):
        found, by_all, by_whole = (getattr(each, name).numpy() for each in (output, all_views, whole))
        wrong = np.abs(found - np.where(open_B[:, None], by_all, by_whole)).max(axis=1)
        other = np.abs(found - np.where(open_B[:, None], by_whole, by_all)).max(axis=1)
        assert (wrong < other / 3).all(), name
    labels_B = decision_rule(full).labels(scores_B)
    assert labels_B[~open_B].tolist() == decision_rule(fast).labels(fast_scores_B)[~open_B].tolist()


@pytest.mark.parametrize(
    ("of_full", "of_fast", "expected"),  # thresholds
    [
        ({"fpr1": 0.8}, {"fpr1": 0.9}, [True, False, False, True]),
        ({"fpr1": 0.9}, {"fpr1": 0.8}, [True, True, True, True]),
        ({"fpr1": 0.8}, {"balanced": 0.5}, [True, False, False, False]),
    ],
)
def test_what_full_alone_calls_fake_at_an_operating_point_is_not_clear(
    of_full: dict[str, float], of_fast: dict[str, float], expected: list[bool]
) -> None:
    fast = replace(OF_WHOLE, operating_points=of_fast)
    score_B = np.array([0.75, 0.81, 0.89, 0.95])
    logit_B = (np.log(score_B / (1 - score_B)) - fast.b) / fast.a
    assert Cascade(replace(OF_ALL, operating_points=of_full), fast).clear(logit_B).tolist() == expected


def test_auto_needs_a_band_in_the_calibration_of_the_whole(saved: Path, tmp_path: Path) -> None:
    without_band = replace(OF_WHOLE, band_low=0.5, band_high=0.5)
    out = tmp_path / "out.safetensors"
    only_fast = tmp_path / "fast.safetensors"
    message = "safetensors: --views auto needs several views, .* unsure band"
    store_calibration(saved, OF_WHOLE, out=only_fast, fast=True)
    for file in (
        *(saved, only_fast),
        with_calibrations(saved, tmp_path / "full.safetensors", full=OF_ALL, fast=None),
        with_calibrations(saved, out, full=OF_ALL, fast=without_band),
    ):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(file, views="auto", allow_tiny=True)
    with pytest.raises(ValueError, match="views is full, fast or auto, not 'automatic'"):
        load_checkpoint(saved, views="automatic", allow_tiny=True)


# ---------------------------------------------------------------------------------------------------------
# Commands


@pytest.fixture(scope="module")
def trained(run_cli: RunCli, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of stage 1 with all views, and one of two sources held out."""
    out = tmp_path_factory.mktemp("views") / "stage1"
    common = ("--stage", 1, "--preset", "open", "--mix", "open", "--backbone", TINY, "--data-root", tiny_root)
    layers = ("--feature-layers", "1", "--whole-layers", "1,2", "--precision", "fp32", "--num-workers", 0)
    done = run_cli(train.main, *common, *layers, "--epochs", 2, "--holdout", "beta", "--out", out)
    assert done.code == 0, done.err
    return out


def test_validation_scores_both_ways(trained: Path) -> None:
    tables = {}
    for name in ("heldout", "heldout_fast"):
        with (trained / f"scores_{name}.csv").open(encoding="utf-8") as file:
            tables[name] = {row["uri"]: float(row["logit"]) for row in csv.DictReader(file)}
    assert len(tables["heldout"]) == 16
    assert tables["heldout"].keys() == tables["heldout_fast"].keys()
    detector = inference.Detector.load(trained, allow_tiny=True)
    fast = inference.Detector.load(trained, views="fast", allow_tiny=True)
    for uri in list(tables["heldout"])[:4]:
        assert detector(uri).logit == pytest.approx(tables["heldout"][uri], abs=1e-4)
        assert fast(uri).logit == pytest.approx(tables["heldout_fast"][uri], abs=1e-4)
        assert detector(uri).logit != pytest.approx(fast(uri).logit, abs=1e-4)


def test_the_view_eval_trains_on_all_views(run_cli: RunCli, tiny_root: Path, tmp_path: Path) -> None:
    """With and without cached features, so that an image is never taken for the whole of itself."""
    common = ("--stage", 1, "--preset", "open", "--mix", "open", "--backbone", TINY, "--data-root", tiny_root)
    layers = ("--feature-layers", "1", "--whole-layers", "1,2", "--precision", "fp32", "--num-workers", 0)
    options = ("--train-view", "eval", "--crop-dropout", 0, "--epochs", 1, "--holdout", "beta", "--lr", 0.01)
    weights = []
    for count in (0, 1):
        out = tmp_path / f"run{count}"
        done = run_cli(train.main, *common, *layers, *options, "--feature-views", count, "--out", out)
        assert done.code == 0, done.err
        weights.append(load_checkpoint(out / "detector.safetensors", allow_tiny=True).detector.project.weight)
    assert (weights[0] - weights[1]).abs().max() < 1e-3


def test_pairs_train_and_are_not_cached(run_cli: RunCli, tiny_root: Path, tmp_path: Path) -> None:
    common = ("--stage", 1, "--preset", "open", "--mix", "open", "--backbone", TINY, "--data-root", tiny_root)
    layers = ("--feature-layers", "1", "--whole-layers", "1,2", "--precision", "fp32", "--num-workers", 0)
    asked = (*common, *layers, "--train-view", "pairs", "--epochs", 1, "--holdout", "beta", "--lr", 0.01)
    refused = run_cli(train.main, *asked, "--out", tmp_path / "refused")
    assert "the view pairs is not cached: feature_views is 0, not 2" in refused.only_error()
    refused = run_cli(train.main, *common, *layers, "--consistency", 1, "--out", tmp_path / "refused")
    assert "consistency is for the view pairs, not for delivered" in refused.only_error()
    weights = []
    for consistency in (0, 5):
        out = tmp_path / f"run{consistency}"
        done = run_cli(train.main, *asked, "--feature-views", 0, "--consistency", consistency, "--out", out)
        assert done.code == 0, done.err
        weights.append(load_checkpoint(out / "detector.safetensors", allow_tiny=True).detector.project.weight)
    assert (weights[0] - weights[1]).abs().max() > 1e-4


def test_prototypes_as_trained_need_cached_views(run_cli: RunCli, trained: Path, tmp_path: Path) -> None:
    bank = ("--num", 4, "--num-workers", 0, "--out", tmp_path / "bank.safetensors")
    asked = ("--same-data", "--as-trained", *bank)
    done = run_cli(dream_prototype.main, "--stage1", trained / "detector.safetensors", *asked)
    assert done.code == 0, done.err
    stage1 = load_checkpoint(trained / "detector.safetensors", allow_tiny=True)
    assert isinstance(stage1.detector, Stage1Detector)
    for recipe, message in (
        (stage1.provenance["recipe"] | {"feature_views": 0}, "has no cached views"),
        ({}, "does not say in which view"),
        ([1], "does not say in which view"),
    ):
        stage1.provenance["recipe"] = recipe
        save_checkpoint(tmp_path / "stage1.safetensors", stage1)
        done = run_cli(dream_prototype.main, "--stage1", tmp_path / "stage1.safetensors", *asked, "--overwrite")
        assert message in done.only_error()


def test_inference_looks_at_the_whole_alone_if_asked(
    run_cli: RunCli, trained: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "image.png", size=(90, 70))
    asked = ("--model_path", trained, "--image_path", image, "--json", "--allow-tiny")
    full, fast = (
        json.loads(run_cli(inference.main, *asked, "--views", views).out)["logit"] for views in ("full", "fast")
    )
    assert full != pytest.approx(fast, abs=1e-4)


@pytest.fixture(scope="module")
def scoring(tiny_root: Path) -> tuple[object, ...]:
    """Options of `benchmarks.py run` for the images as they are and as JPEG."""
    return ("--data-root", tiny_root, "--allow-tiny", "--num-workers", 0, "--degrade", "none", "jpeg:40")


@pytest.fixture(scope="module")
def both_ways(
    run_cli: RunCli, trained: Path, scoring: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tables of scores by all views and by the whole alone."""
    out = tmp_path_factory.mktemp("both_ways")
    for views in ("full", "fast"):
        given = ("--model_path", trained / "detector.safetensors", "--views", views, "--out", out / views)
        done = run_cli(benchmarks.main, *given, *scoring)
        assert done.code == 0, done.err
    return {views: out / views / "scores.parquet" for views in ("full", "fast")}


def test_benchmarks_score_both_ways(
    run_cli: RunCli, trained: Path, both_ways: dict[str, Path], tmp_path: Path
) -> None:
    file = trained / "detector.safetensors"
    tables = {views: read_scores(path) for views, path in both_ways.items()}
    assert tables["full"].models == ["stage1"]
    assert tables["fast"].models == ["stage1-fast"]
    assert tables["fast"].detectors["stage1-fast"].views == "fast"
    assert not np.allclose(tables["full"].frame["logit"], tables["fast"].frame["logit"])

    for views, seen in (("full", "views: centre, quarters, reduced, whole"), ("fast", "views: whole")):
        card = ("card", both_ways[views], "--model_path", file, "--licence", "mit", "--out", tmp_path / "card.md")
        done = run_cli(benchmarks.main, *card)
        assert done.code == 0, done.err
        assert f"- {seen}\n" in (tmp_path / "card.md").read_text()
    fit = ("calibrate", "--model_path", file, "--out", tmp_path / "calibrated.safetensors")
    assert "of --views fast; expected full" in run_cli(benchmarks.main, *fit, both_ways["fast"]).only_error()
    done = run_cli(benchmarks.main, *fit, both_ways["full"], "--fast")
    assert "of --views full; expected fast" in done.only_error()


def test_a_batch_has_no_more_images_than_have_room(
    run_cli: RunCli, trained: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all degradations and views, unless told otherwise; scores are the same."""
    from evaluation.scoring import score

    read, taken = score.load_batches, []

    def load_batches(*args: Any, **options: Any) -> Iterator[VariantBatch]:
        for batch in read(*args, **options):
            taken.append(sum(each.nbytes for of_spec in batch.pixels.values() for each in of_spec.values()))
            yield batch

    pixel = load_checkpoint(trained / "detector.safetensors", allow_tiny=True).config.pixel
    image_bytes = 2 * 7 * 3 * pixel.size_px**2 * 4  # in two degradations and seven views
    monkeypatch.setattr(score, "BATCH_BYTES", 3 * image_bytes + image_bytes // 2)
    monkeypatch.setattr(score, "load_batches", load_batches)
    common = ("--model_path", trained / "detector.safetensors", "--data-root", tiny_root, "--allow-tiny")
    logits = []
    for out, options, size in ((tmp_path / "a", (), 3), (tmp_path / "b", ("--batch-size", 8), 8)):
        degraded = ("--degrade", "none", "grey", "--num-workers", 0, "--out", out)
        done = run_cli(benchmarks.main, *common, *degraded, *options)
        assert done.code == 0, done.err
        assert max(taken) == size * image_bytes
        logits.append(read_scores(out / "scores.parquet").frame["logit"])
        taken.clear()
    assert len(logits[0]) == 2 * 15
    again = run_cli(benchmarks.main, *common, "--degrade", "none", "grey", "--out", tmp_path / "b")
    assert again.code == 0, f"a run keeps the batches that it began with: {again.err}"
    assert np.allclose(*logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_benchmarks_score_by_all_views_where_the_whole_is_unsure(
    run_cli: RunCli,
    trained: Path,
    scoring: tuple[object, ...],
    both_ways: dict[str, Path],
    tmp_path: Path,
    batch_size: int,
) -> None:
    all_views, whole = (pd.read_parquet(both_ways[views]) for views in ("full", "fast"))
    fast_scores_N = OF_WHOLE.apply(whole["logit"].to_numpy())
    limits = gaps(np.unique(fast_scores_N))
    band = {"band_low": limits[len(limits) // 4], "band_high": limits[len(limits) // 2]}
    open_N = (band["band_low"] <= fast_scores_N) & (fast_scores_N <= band["band_high"])
    full = replace(OF_ALL, band_low=band["band_low"], band_high=band["band_low"])
    file = tmp_path / "cascade" / "detector.safetensors"
    with_calibrations(trained / "detector.safetensors", file, full=full, fast=replace(OF_WHOLE, **band))

    out = tmp_path / "out"
    given = ("--model_path", file, "--views", "auto", "--batch-size", batch_size, "--out", out)
    done = run_cli(benchmarks.main, *given, *scoring, "--shard", "1/2")
    assert done.code == 0, done.err
    assert not (out / "scores.parquet").exists()
    done = run_cli(benchmarks.main, *given, *scoring)
    assert done.code == 0, done.err
    assert f"\n{(~open_N).sum()} of {len(open_N)} scores are by the whole image alone\n" in done.out
    found = read_scores(out / "scores.parquet")
    assert found.models == ["cascade-auto"]
    assert found.detectors["cascade-auto"].views == "auto"
    frame = found.frame
    assert frame[["uri", "degradation"]].equals(all_views[["uri", "degradation"]])
    assert frame["by_whole"].tolist() == (~open_N).tolist()
    expected_N = np.where(open_N, full.apply(all_views["logit"].to_numpy()), fast_scores_N)
    assert frame["score"].to_numpy() == pytest.approx(expected_N, abs=1e-4)

    fit = ("calibrate", out / "scores.parquet", "--model_path", file, "--out", tmp_path / "again.safetensors")
    assert "of --views auto; expected full" in run_cli(benchmarks.main, *fit).only_error()
    card = ("card", out / "scores.parquet", "--model_path", file, "--licence", "MIT", "--out", tmp_path / "c.md")
    assert "scores of --views auto rest on two calibrations" in run_cli(benchmarks.main, *card).only_error()


def test_commands_refuse_auto_without_calibrations(
    run_cli: RunCli, trained: Path, scoring: tuple[object, ...], make_image: MakeImage, tmp_path: Path
) -> None:
    given = ("--model_path", trained, "--views", "auto", "--allow-tiny")
    image = make_image(tmp_path / "image.png", size=(90, 70))
    expected = "detector.safetensors: --views auto needs several views"
    assert expected in run_cli(inference.main, *given, "--image_path", image).only_error()
    done = run_cli(benchmarks.main, *given, *scoring, "--out", tmp_path / "out")
    assert expected in done.only_error()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--train-view", "crop"), "a detector with the views centre, quarters, reduced, whole needs scales"),
        (("--views", "centre", "--whole-layers", "", "--crop-dropout", 0), "--train-view delivered: .* one of"),
        (("--views", "centre"), "whole needs both"),
        (("--whole-layers", "9"), "whole_layers are ascending numbers from 1 to 2"),
        (("--whole-layers", "x"), "whole_layers are numbers with commas between, not 'x'"),
        (("--views", "whole,centre"), "in this order"),
        (
            ("--views", "centre", "--whole-layers", "", "--train-view", "crop"),
            "--crop-dropout needs a detector with the view whole",
        ),
        (("--views", "whole"), "whole needs another view before it"),
        (("--val-resize-px", 40), "--val-resize-px 40: a detector with the views centre, quarters"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    run_cli: RunCli, tiny_root: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    common = ("--stage", 1, "--preset", "open", "--mix", "open", "--backbone", TINY, "--data-root", tiny_root)
    layers = ("--feature-layers", "1", "--whole-layers", "1,2", "--precision", "fp32", "--num-workers", 0)
    for when in ((), ("--dry-run",)):
        done = run_cli(train.main, *common, *layers, "--out", tmp_path / "run", *options, *when)
        assert re.search(message, done.only_error())
    assert not (tmp_path / "run").exists()
