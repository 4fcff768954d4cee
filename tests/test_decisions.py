"""A calibration travels in the detector file: probabilities, thresholds by name, verdicts that may be "unsure"."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MakeImage, RunCli, TinyRun

import benchmarks
import inference
from gapl.calibration import Calibration
from gapl.results import verdict_text
from gapl.verdict import Verdict
from inference import Detector
from models.weights.checkpoint import load_checkpoint, read_info, save_checkpoint, store_calibration

CALIBRATION = Calibration(
    method="platt",
    a=0.12,
    b=-0.1,
    operating_points={"balanced": 0.4, "fpr1": 0.65},
    band_low=0.3,
    band_high=0.6,
    alpha=0.05,
    n_real=100,
    n_fake=100,
    ece_before=0.2,
    ece_after=0.02,
    data_sha256="0" * 64,
)


@pytest.fixture(scope="module")
def calibrated(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "detector.safetensors"
    store_calibration(tiny_run.stage2, CALIBRATION, out=path)
    return path


def test_file_keeps_the_calibration_and_all_else(tiny_run: TinyRun, calibrated: Path, tmp_path: Path) -> None:
    before, after = (load_checkpoint(path, allow_tiny=True) for path in (tiny_run.stage2, calibrated))
    assert before.calibration is None
    assert after.calibration == CALIBRATION
    assert after.threshold == 0.4
    for name, value in before.detector.state_dict().items():
        assert value.equal(after.detector.state_dict()[name])
    save_checkpoint(tmp_path / "full.safetensors", replace(after, form="merged"))
    assert load_checkpoint(tmp_path / "full.safetensors", allow_tiny=True).calibration == CALIBRATION


def test_scores_are_calibrated_and_the_band_is_unsure(
    tiny_run: TinyRun, make_image: MakeImage, tmp_path: Path
) -> None:
    images = [make_image(tmp_path / f"{levels}.png", seed=levels, levels=levels) for levels in range(40, 256, 6)]
    logits_N = np.array(
        [verdict.logit for verdict in Detector.load(tiny_run.stage2, allow_tiny=True)(list(images))]
    )
    a, b = 1 / logits_N.std(), -logits_N.mean() / logits_N.std()
    scores_N = 1 / (1 + np.exp(-(a * logits_N + b)))
    low, high, strict = (float(np.quantile(scores_N, share, method="nearest")) for share in (0.3, 0.6, 0.8))
    points = {"balanced": 0.4, "fpr1": strict}
    stored = replace(CALIBRATION, a=a, b=b, band_low=low, band_high=high, operating_points=points)
    path = tmp_path / "detector.safetensors"
    store_calibration(tiny_run.stage2, stored, out=path)

    verdicts = Detector.load(path, allow_tiny=True)(list(images))
    assert [verdict.logit for verdict in verdicts] == pytest.approx(logits_N)
    assert [verdict.score for verdict in verdicts] == pytest.approx(scores_N)
    assert {verdict.label for verdict in verdicts} == {"fake", "real", "unsure"}
    for verdict in verdicts:
        assert (verdict.threshold, verdict.real_below) == (high, low)
        band = "unsure" if low <= verdict.score <= high else None
        assert verdict.label == (band or ("fake" if verdict.score > high else "real"))
        assert verdict.confidence >= min(low, 1 - high, 0.5)
    at_fpr1 = Detector.load(path, operating_point="fpr1", allow_tiny=True)
    labels = [verdict.label for verdict in at_fpr1(list(images))]
    assert labels == ["fake" if verdict.score >= strict else "real" for verdict in verdicts]


def test_operating_points_on_the_command_line(
    run_cli: RunCli, tiny_run: TinyRun, calibrated: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "image.png", levels=100)

    def ask(model: Path, *more: object) -> tuple[int, str, str]:
        given = ("--model_path", model, "--image_path", image, "--allow-tiny", "--json")
        done = run_cli(inference.main, *given, *more)
        return done.code, done.out, done.err

    verdict = json.loads(ask(calibrated, "--operating-point", "fpr1")[1])
    assert (verdict["threshold"], verdict["real_below"]) == (0.65, 0.65)
    code, _, err = ask(calibrated, "--operating-point", "fpr7")
    assert (code, err.splitlines()[-1]) == (2, "error: unknown operating point 'fpr7'; choose from balanced, fpr1")
    code, _, err = ask(tiny_run.stage2, "--operating-point", "fpr1")
    assert code == 2
    assert "this detector is not calibrated" in err


@pytest.mark.parametrize(
    ("score", "leans_to", "confidence"), [(0.35, "Real", "65.0%"), (0.5, "Fake", "50.0%"), (0.55, "Fake", "55.0%")]
)
def test_an_unsure_verdict_says_where_it_leans(score: float, leans_to: str, confidence: str) -> None:
    shown = verdict_text("a.png", Verdict(score, 0.0, "unsure", threshold=0.6, real_below=0.3))
    assert shown.splitlines() == [
        "[RESULT] Image: a.png",
        f"  -> Prediction: Unsure (leans to {leans_to})",
        f"  -> Confidence: {confidence}",
    ]


@pytest.mark.parametrize(
    ("score", "label", "prediction"), [(0.2, "real", "Real"), (0.7, "fake", "Fake (AI-Generated)")]
)
def test_a_sure_verdict_is_printed_without_a_lean(score: float, label: str, prediction: str) -> None:
    shown = verdict_text("a.png", Verdict(score, 0.0, label, threshold=0.6, real_below=0.3))
    assert f"  -> Prediction: {prediction}" in shown.splitlines()


@pytest.fixture(scope="module")
def held_out(
    tiny_run: TinyRun, make_image: MakeImage, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A table of scores of 100 real images and 40 fakes that nobody has seen."""
    root, out = tmp_path_factory.mktemp("held"), tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    for name, count, levels in (("0_real", 100, 200), ("1_fake", 40, 130)):
        for i in range(count):
            shade = int(np.clip(rng.normal(levels, 40), 20, 256))
            make_image(root / "mine" / name / f"{i}.png", seed=1000 * levels + i, levels=shade)
    options = ("--data-root", root, "--out", out, "--allow-tiny", "--num-workers", 0)
    done = run_cli(benchmarks.main, "--model_path", tiny_run.stage2, *options)
    assert done.code == 0, done.err
    return out / "scores.parquet"


def test_calibrate_command(run_cli: RunCli, tiny_run: TinyRun, held_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector.safetensors"
    done = run_cli(benchmarks.main, "calibrate", held_out, "--model_path", tiny_run.stage2, "--out", out)
    assert done.code == 0, done.err
    assert "from 100 real images and 40 fakes" in done.out
    calibration = load_checkpoint(out, allow_tiny=True).calibration
    assert calibration is not None
    assert calibration.ece_after < calibration.ece_before
    scores = pd.read_parquet(held_out)
    calibrated = calibration.apply(scores["logit"].to_numpy())
    assert (calibrated[scores["label"] == 0] >= calibration.threshold("fpr5")).mean() <= 0.05
    # A run with the calibrated file has its scores in the table.
    options = ("--data-root", tiny_run.root, "--out", tmp_path / "run", "--allow-tiny", "--num-workers", 0)
    assert run_cli(benchmarks.main, "--model_path", out, *options).code == 0
    again = pd.read_parquet(tmp_path / "run" / "scores.parquet")
    assert again["score"].to_numpy() == pytest.approx(calibration.apply(again["logit"].to_numpy()))


def test_calibrate_reads_the_scores_that_a_run_keeps(
    run_cli: RunCli, tiny_run: TinyRun, held_out: Path, tmp_path: Path
) -> None:
    """A CSV cannot say of which detector its scores are, and is believed."""
    scores = pd.read_parquet(held_out)[["uri", "label", "generator", "logit", "score", "error"]]
    scores.to_csv(tmp_path / "scores_heldout.csv", index=False)
    out = tmp_path / "calibrated.safetensors"
    options = ("--model_path", tiny_run.stage2, "--out", out)
    done = run_cli(benchmarks.main, "calibrate", tmp_path / "scores_heldout.csv", *options)
    assert done.code == 0, done.err
    stored = read_info(out)
    assert stored.calibration is not None
    assert stored.provenance["data"]["root"] is None, "where the images lay is left out"


def test_calibrate_refuses(
    run_cli: RunCli, tiny_run: TinyRun, held_out: Path, calibrated: Path, tmp_path: Path
) -> None:
    def refused(*options: object, model: Path = tiny_run.stage2) -> str:
        given = ("calibrate", held_out, "--model_path", model, "--out", tmp_path / "out.safetensors")
        return run_cli(benchmarks.main, *given, *options).only_error()

    assert "no scores of this file" in refused(model=calibrated)
    assert "needs 199" in refused("--alpha", 0.005)
    assert "benchmark" in refused("--against", held_out)
    assert not (tmp_path / "out.safetensors").exists()


def test_calibrate_replaces_a_detector_file_only_if_asked_and_nothing_else(
    run_cli: RunCli, tiny_run: TinyRun, held_out: Path, calibrated: Path, tmp_path: Path
) -> None:
    table, notes, out, link = (tmp_path / name for name in ("s.parquet", "notes.md", "out.safetensors", "link"))
    table.write_bytes(held_out.read_bytes())
    notes.write_text("mine")
    out.write_bytes(calibrated.read_bytes())
    link.hardlink_to(table)
    other = out.read_bytes()
    given = ("calibrate", table, "--model_path", tiny_run.stage2, "--out")

    def refused(path: Path, *options: object) -> str:
        before = path.read_bytes()
        error = run_cli(benchmarks.main, *given, path, *options).only_error()
        assert path.read_bytes() == before
        return error

    for path in (table, link, tiny_run.stage2):
        assert f"{path} is read by this command" in refused(path, "--overwrite")
    for path in (notes, held_out, tiny_run.bank):
        assert f"{path} is there already, and no detector file" in refused(path, "--overwrite")
    assert "pass --overwrite to replace it" in refused(out)
    done = run_cli(benchmarks.main, *given, out, "--overwrite")
    assert done.code == 0, done.err
    assert out.read_bytes() != other
