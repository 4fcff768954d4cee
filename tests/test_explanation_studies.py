"""The studies of explanations: forgeries, attention, curves, and whole runs on the tiny tower."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from gapl.explain.patches import PATCHES
from models.detector import build_detector
from models.weights.backbone import load_backbone
from studies import deletion, forgery, maps, stability, trial
from studies.attention import attention_maps, run
from tests.conftest import MakeImage, RunCli
from tests.test_gapl import make_detector
from tests.test_maps import brightness, detector_of
from tests.test_several_views import ALL, config_with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """Two sources of each class, of different sizes; a third of real images is no source of photographs."""
    root = tmp_path_factory.mktemp("images")
    sources = ("portrait_a/0_real", "nature_b/0_real", "screenshot_c/0_real", "sd/1_fake", "flux/1_fake")
    for number, source in enumerate(sources):
        for i in range(number % 2 + 2):
            make_image(root / source / f"{i}.png", seed=10 * number + i, size=(570 + i, 600))
    make_image(root / "sd/1_fake/small.png", size=(90, 70))
    return root


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors", config_with(ALL))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------
# Whole runs


def test_localise(run_cli: RunCli, folder: Path, detector_file: Path, tmp_path: Path) -> None:
    command = ("localise", folder, "--out", tmp_path, "--images", 3, "--model_path", detector_file, "--allow-tiny")
    done = run_cli(maps.main, *command)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "localise.csv")
    assert {row["way"] for row in rows} == {"fake", "Lanczos", "nearest"}
    assert {row["source"] for row in rows} == {"real:portrait_a", "real:nature_b"}
    assert {float(row["auroc"]) for row in rows if row["map"] == "uniform"} == {0.5}
    text = (tmp_path / "localise.md").read_text(encoding="utf-8")
    assert text.startswith("3 photographs with a replaced region")
    assert [line.split()[1] for line in text.splitlines()[4:]] == ["tiles", "patches", "centre", "uniform"]
    assert text.strip() == done.out.strip()


@pytest.mark.parametrize("cover", ["grey", "blur"])
def test_deletion(run_cli: RunCli, folder: Path, detector_file: Path, tmp_path: Path, cover: str) -> None:
    command = ("deletion", folder, "--out", tmp_path, "--images", 2, "--model_path", detector_file, "--allow-tiny")
    done = run_cli(maps.main, *command, "--cover", cover)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "deletion.csv")
    names = ["covered", "rollout", "gradient x attention", "centre first", "random order"]
    assert [row["map"] for row in rows] == 2 * names
    assert all(0 <= float(row[figure]) <= 1 for row in rows for figure in ("deletion", "insertion"))


def test_stability(run_cli: RunCli, folder: Path, detector_file: Path, tmp_path: Path) -> None:
    command = (folder, "--out", tmp_path, "--images", 6, "--model_path", detector_file, "--allow-tiny")
    done = run_cli(stability.main, *command)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "stability.csv")
    assert [row["source"].split(":")[0] for row in rows] == 3 * ["real", "fake"]
    assert len({row["source"] for row in rows}) == 5
    assert all((folder / row["image"]).is_file() and not Path(row["image"]).is_absolute() for row in rows)
    assert "| score alone | " in done.out
    assert "| 6 of 6 must hold, then score (the rule) | " in done.out
    assert "| in fewer than 5 | " in done.out


def test_what_cannot_be_is_said(run_cli: RunCli, folder: Path, tmp_path: Path) -> None:
    given = ("--out", tmp_path, "--images", 0)
    assert "--images is at least 1" in run_cli(stability.main, folder, *given).only_error()
    alone = folder / "sd"
    assert "no real images" in run_cli(maps.main, "localise", alone, "--out", tmp_path).only_error()


# ---------------------------------------------------------------------------------------------------------
# Parts


@pytest.mark.parametrize("way", forgery.WAYS)
def test_a_forgery_changes_the_region_alone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgery, "REGION", (0.1, 0.15))  # inpainting takes seconds
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (2, 600, 580, 3), dtype=np.uint8)
    photograph, fake = (forgery.square(Image.fromarray(each)) for each in noise)
    assert photograph is not None
    assert fake is not None
    made = forgery.forge(photograph, way=way, fake=fake, generator=generator)
    changed_HW = (np.asarray(made.image) != np.asarray(photograph)).any(axis=-1)
    rows, columns = (np.flatnonzero(made.mask_HW.any(axis=axis)) for axis in (1, 0))
    margin = round(4 * forgery.FEATHER_PX)
    around_HW = np.zeros_like(made.mask_HW)
    around_HW[max(0, rows[0] - margin) : rows[-1] + margin, max(0, columns[0] - margin) : columns[-1] + margin] = 1
    assert not changed_HW[~around_HW].any()
    assert changed_HW[made.mask_HW].mean() > 0.9


@pytest.mark.parametrize("cover", ["grey", "blur"])
def test_heat_is_where_the_region_is(cover: str) -> None:
    """To a detector to which bright is fake, both maps show a bright rectangle that lies far from the diagonal."""
    image = Image.new("RGB", (160, 160), (20, 20, 20))
    image.paste((250, 250, 250), (90, 20, 140, 50))
    inside_HW = np.asarray(image)[..., 0] > 100
    heats = maps.heats_of(detector_of(brightness), image, cover=cover)
    auroc = {name: roc_auc_score(inside_HW.ravel(), heat_HW.ravel()) for name, heat_HW in heats.items()}
    assert auroc["tiles"] > 0.95
    assert auroc["patches"] > 0.95
    assert auroc["uniform"] == 0.5 != auroc["centre"]


def test_small_images_are_no_squares() -> None:
    assert forgery.square(Image.new("RGB", (2000, forgery.SIDE_PX - 1))) is None


@pytest.mark.parametrize("views", [ALL, ("centre",)])
def test_the_forward_pass_with_attention_is_that_of_the_detector(views: tuple[str, ...]) -> None:
    config = config_with(views)
    module = build_detector(config, load_backbone("tiny").tower).eval().requires_grad_(False)
    module.prototypes_PE.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, operator]
    pixels_CHW = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    logit_B, attention = run(module, pixels_CHW[None])
    with torch.inference_mode():
        expected_B = module(pixels_CHW[None]).logit_B
    assert logit_B.detach().numpy() == pytest.approx(expected_B.numpy(), abs=1e-5)
    assert all(each.sum(dim=-1).detach().numpy() == pytest.approx(1, abs=1e-5) for each in attention)
    found = attention_maps(module, pixels_CHW.numpy(), precision="fp32")
    assert {each.shape for each in found.values()} == {(4, 4)}
    assert found["rollout"].min() > 0
    assert found["rollout"].sum() < 1


def test_areas_under_curves() -> None:
    """A detector of one bright patch: its own map is the best, and the opposite map the worst."""
    pixels_CHW = np.zeros((3, 28, 28), dtype=np.float32)
    pixels_CHW[:, 4:6, 8:10] = 1

    def scores(pixels: object) -> np.ndarray:
        return np.array([each_CHW.max() for each_CHW in pixels])  # type: ignore[attr-defined]

    right_HW = np.zeros((PATCHES, PATCHES))
    right_HW[2, 4] = 1
    found = deletion.areas_of(
        scores, pixels_CHW, cover_CHW=np.zeros_like(pixels_CHW), maps={"right": right_HW, "wrong": -right_HW}
    )
    step = 1 / deletion.STEPS
    assert found["right"] == pytest.approx((step / 2, 1 - step / 2))
    assert found["wrong"] == pytest.approx((1 - step / 2, step / 2))


def test_maps_of_other_sizes_are_spread_over_the_patches() -> None:
    spread = deletion.on_patches(np.arange(4.0).reshape(2, 2))
    assert spread.shape == (PATCHES, PATCHES)
    assert [spread[0, 0], spread[0, -1], spread[-1, 0], spread[-1, -1]] == [0, 1, 2, 3]
    assert (deletion.on_patches(np.arange(PATCHES**2).reshape(PATCHES, -1)).ravel() == np.arange(PATCHES**2)).all()


def test_aurc_and_its_orders() -> None:
    error_N, sure_N = np.array([1, 0, 0, 1]), np.array([0.4, 0.3, 0.2, 0.1])
    assert stability.aurc(error_N, sure_N[None]) == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 2 / 4]))
    orders = stability.orders_of(sure_N, np.array([3, 6, 5, 6]))
    by_rule = orders[stability.rule_of(5)]
    assert stability.aurc(error_N, by_rule) == pytest.approx(np.mean([0, 0, 1 / 3, 2 / 4]))
    by_number = orders["re-saves that hold, then score"]
    assert stability.aurc(error_N, by_number) == pytest.approx(np.mean([0, 1 / 2, 1 / 3, 2 / 4]))


def test_intervals_are_about_the_mean() -> None:
    value_N = np.random.default_rng(0).random(400)
    low, high = trial.interval(value_N[trial.resampled(400, seed=0)].mean(axis=1))
    spread = 1.96 * value_N.std() / 20
    assert (low, high) == pytest.approx((value_N.mean() - spread, value_N.mean() + spread), abs=0.005)
    assert trial.mean_cell(value_N, seed=0) == trial.mean_cell(value_N, seed=0)
