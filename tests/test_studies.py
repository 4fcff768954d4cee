"""The studies of docs/study.md: rows are trained, kept, gathered and shown; sources are left out whole."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from data.records import Manifest, Record
from gapl.labels import Label
from models.device import pick_device
from models.precision import resolve_precision
from studies import ablation, calibration, lab, leave_out, report
from studies import rows as study_rows

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """A source of each class in each part; fakes are darker."""
    root = tmp_path_factory.mktemp("corpus")
    for number, part in enumerate(study_rows.PARTS):
        for kind, levels in (("0_real", 256), ("1_fake", 100)):
            for i in range(6):
                path = root / part / f"{'abcd'[number]}gan" / kind / f"{i}.png"
                make_image(path, seed=100 * number + i, size=(40, 36), levels=levels)
    return root


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAGE1", "HEAD", "LORA"):
        monkeypatch.setattr(study_rows, name, replace(getattr(study_rows, name), max_steps=10, num_workers=0))


@pytest.fixture(scope="module")
def options(corpus: Path) -> tuple[object, ...]:
    return ("--corpus", corpus, "--backbone", "tiny", "--feature-layers", "1,2")


def test_rows_are_trained_gathered_and_shown(
    run_cli: RunCli, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("mini", "class means", "no prototypes")
    for name in ("mini", "preset release"):
        monkeypatch.setitem(study_rows.ROWS, name, replace(study_rows.ROWS[name], num=4))  # of few images
    command = (ablation.main, *options, "--out", tmp_path / "out", "--seeds", 2, "--rows")
    done = run_cli(*command, *rows)
    assert done.code == 0, done.err
    shutil.rmtree(tmp_path / "out/no-prototypes")  # as if another machine had made the table
    with_lora = run_cli(*command, "class means", "preset release", "--lora", "--seeds", 1)
    assert with_lora.code == 0, with_lora.err
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    judged = scores[scores["part"] == "heldout"]
    assert set(judged.groupby(["row", "tower", "seed"]).size()) == {12}  # two sources of six images, each once
    counts = scores.groupby(["row", "tower"])["seed"].nunique().to_dict()
    of_one_seed = [("class means", "lora"), ("preset release", "frozen"), ("preset release", "lora")]
    assert counts == {(row, "frozen"): 2 for row in rows} | dict.fromkeys(of_one_seed, 1)
    one = judged[(judged["row"] == "mini") & (judged["seed"] == 0)]
    assert one.groupby("label")["source"].nunique().to_list() == [1, 1]  # a fifth of four
    other_seed = run_cli(*command[:-3], "--seeds", 1, "--first-seed", 2, "--rows", "mini")
    assert other_seed.code == 0, other_seed.err
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert set(scores[(scores["row"] == "mini") & (scores["tower"] == "frozen")]["seed"]) == {0, 1, 2}
    again = run_cli(*command, *rows[:2])
    assert "images" not in again.out  # nothing is trained twice
    shown = run_cli(report.main, tmp_path / "out/scores.parquet", "--out", tmp_path / "plots")
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if line.startswith("| no prototypes")]
    assert "(2)" in line
    assert (tmp_path / "plots/prototypes.png").stat().st_size > 1000


def test_a_cell_has_the_mean_and_standard_deviation_over_seeds() -> None:
    seeds = {
        n: report.Result(auroc, balanced=0.8, auroc_R=np.array([auroc])) for n, auroc in enumerate((0.9, 0.94))
    }
    one = {0: report.Result(0.89, balanced=0.8, auroc_R=np.array([0.89]))}
    results = {("mini", "lora"): one, ("PCA", "lora"): seeds}
    figures, difference = report.cells_of("PCA", "lora", results)
    assert figures == "0.920 ± 0.028 / 0.800 (2)"  # .02 from the mean each: .02 * sqrt(2)
    assert difference == "+0.010 [+0.010, +0.010]"  # of the seed that both have
    results["mini", "frozen"] = results["PCA", "frozen"] = one
    *_, mini, pca = (line.split("| ")[-1] for line in report.to_markdown(["mini", "PCA"], results).splitlines())
    assert (mini, pca) == ("+0.000 [+0.000, +0.000] |", "+0.010 [+0.010, +0.010] |")


def test_a_preset_has_its_own_numbers_and_as_many_steps_as_mini() -> None:
    found = study_rows.recipes_of(study_rows.ROWS["preset release"], seed=3, precision="fp32")
    assert (found.lora.lora_rank, found.lora.train_view, found.lora.warmup_fraction) == (16, "release", 0.2)
    assert (found.stage1.sampling, found.stage1.train_view, found.head.train_view) == ("shuffle", "eval", "eval")
    for recipe, mini in (
        (found.stage1, study_rows.STAGE1),
        (found.head, study_rows.HEAD),
        (found.lora, study_rows.LORA),
    ):
        assert (recipe.max_steps, recipe.batch_size, recipe.seed) == (mini.max_steps, mini.batch_size, 3)


def test_every_source_is_left_out_once(run_cli: RunCli, options: tuple[object, ...], tmp_path: Path) -> None:
    command = (leave_out.main, *options, "--out", tmp_path, "--folds", 2, "--row", "8 prototypes")
    done = run_cli(*command, "--lora")
    assert done.code == 0, done.err
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(scores) == 48
    assert scores.groupby("generator")["fold"].nunique().eq(1).all()
    sources = pd.read_csv(tmp_path / "sources.csv")
    assert sources["images"].tolist() == [6] * 8
    right = (scores["logit"] >= 0) == (scores["label"] == 1)  # the four sources are of one size
    mean = right[scores["label"] == 0].mean()
    assert f"real images: 4 sources, mean accuracy {mean:.3f}; the worst ones" in done.out
    frozen = run_cli(*command)
    assert (frozen.code, "step/s" in frozen.err) == (0, False)  # the heads are there: nothing is trained twice
    before = pd.read_parquet(tmp_path / "scores.parquet")
    assert set(before["uri"]) == set(scores["uri"])
    assert set(before["logit"]) != set(scores["logit"])
    other = run_cli(leave_out.main, *options, "--out", tmp_path, "--folds", 2, "--row", "class means")
    assert "holds a fit of other images or numbers; name another --out" in other.only_error()
    unlike = "fp32" if resolve_precision("auto", device=pick_device("auto")) == "bf16" else "bf16"
    assert "holds a fit of other images or numbers" in run_cli(*command, "--precision", unlike).only_error()


def test_relatives_are_left_out_together() -> None:
    names = ["sdnext_xl", "sdnext_hades", "SDnext2", "sd15", "mj", "gpt", "7z"]
    images = Manifest("names", tuple(Record(f"{n}/{i}", Label.FAKE, n) for n in names for i in range(3)))
    lists = leave_out.folds(images, 3)
    assert sorted(name for of_fold in lists for name in of_fold) == sorted(names)
    assert {"sdnext_xl", "sdnext_hades", "SDnext2"} in [set(names) for names in lists]


def test_few_generators_are_nested_and_keep_real_images() -> None:
    records = [Record(f"{n}/{i}", Label.FAKE, n) for n in "abcde" for i in range(40)]
    records += [Record(f"small/{i}", Label.FAKE, "small") for i in range(5)]
    records += [Record(f"photo/{i}", Label.REAL, "photo") for i in range(10)]
    images = Manifest("all", tuple(records))
    one, three = (lab.few_generators(images, count, seed=1) for count in (1, 3))
    assert (len(one), len(three)) == (1, 3)
    assert one < three < set("abcde")
    assert lab.only(images, one).sources()[Label.REAL, "photo"] == 10
    assert lab.only(images, lab.few_generators(images, 0, seed=1)) == images


def test_what_is_missing_is_said(run_cli: RunCli, tmp_path: Path) -> None:
    assert "no folder stage1 in it" in run_cli(ablation.main, "--corpus", tmp_path).only_error()
    assert "no such file" in run_cli(report.main, tmp_path / "none.parquet").only_error()


def test_calibrations_are_judged_on_sources_that_they_have_not_seen(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    label_N = np.repeat([0, 1], 600)
    frame = pd.DataFrame({"uri": [f"{n}.png" for n in range(1200)], "label": label_N})
    frame["generator"] = [f"{label} {n % 30}" for n, label in enumerate(label_N)]
    frame["logit"] = 4 * (generator.standard_normal(1200) + 1.5 * (label_N - 0.5) + 1)
    frame.to_csv(tmp_path / "scores.csv", index=False)
    done = run_cli(calibration.main, tmp_path / "scores.csv", "--share", 0.2, "--splits", 3)
    assert done.code == 0, done.err
    table, spread = done.out.split("mean and spread over all 3:")
    assert len(table.splitlines()) == 1 + 3 + 1
    mean = {name: float(value) for name, value, *_ in map(str.split, spread.splitlines()[2:-1])}
    best = 0.773  # of two normal distributions 1.5 spreads apart: the normal distribution up to .75
    assert mean["bal_at_0.5"] < 0.7 < best - 0.03 < mean["bal_at_best"] < best + 0.03
    assert mean["bal_after"] == pytest.approx(best, abs=0.02)
    assert mean["ece_after"] < 0.1 < mean["ece_before"]
    few = run_cli(calibration.main, tmp_path / "scores.csv", "--share", 0.01, "--alpha", 0.02)
    assert "no draw has enough images to fit to; pass a larger --share" in few.only_error()
    nothing = run_cli(calibration.main, tmp_path / "scores.csv", "--share", 0)
    assert "a share of 0.0 of the sources; expected a number between 0 and 1" in nothing.only_error()


def test_the_best_threshold_lies_between_the_scores() -> None:
    assert calibration.best_threshold(np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(0.4)
    generator = np.random.default_rng(0)
    score_N, label_N = generator.random(60).round(2), generator.integers(0, 2, 60)
    found, best = (
        max(calibration.balanced(score_N >= threshold, label_N) for threshold in thresholds)
        for thresholds in ([calibration.best_threshold(score_N, label_N)], score_N)
    )
    assert found == pytest.approx(best)
