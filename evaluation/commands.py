"""What benchmarks.py does with tables of scores: reports, comparisons, audits, calibrations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.benchmark import Benchmark
from data.sources import open_source
from evaluation import robustness
from evaluation.job import CLEAN, TABLE
from evaluation.layout import to_text
from evaluation.report import make_table, write_tables
from evaluation.scores import ScoreTable, join_tables, read_scores
from files.integrity import sha256_of
from models.checkpoint import store_calibration


def show_run(folder: Path) -> None:
    """The tables of a run that is complete, in its folder and on the terminal."""
    path = folder / TABLE
    scores = read_scores(path)
    _show_tables(scores, folder)
    thresholds = {each["threshold"] for each in scores.about["models"].values()}
    stated = ", ".join(map(str, sorted(thresholds)))
    print(f"threshold {stated}; scores of {scores.frame['uri'].nunique()} images in {path}")


def report(tables: Sequence[Path], *, columns: Mapping[str, str] | None, out: Path | None) -> None:
    _show_tables(_read(tables, columns), out)
    if out:
        print(f"tables in {out}")


def _show_tables(scores: ScoreTable, out: Path | None) -> None:
    table = make_table(scores)
    print(to_text(table))
    if out:
        write_tables(table, out)
    if scores.frame["degradation"].nunique() > 1:
        thresholds = {name: scores.threshold(name) for name in scores.models}
        degraded = robustness.robustness_table(scores.frame, thresholds=thresholds)
        print(robustness.to_text(degraded))
        if out:
            degraded.to_csv(out / "robustness.csv", index=False)


def _read(tables: Sequence[Path], columns: Mapping[str, str] | None = None) -> ScoreTable:
    return join_tables([read_scores(path, columns=columns) for path in tables])


def compare(tables: Sequence[Path], *, columns: Mapping[str, str] | None, models: Sequence[str] | None) -> None:
    from evaluation.compare import compare_models
    from evaluation.compare import to_text as compared_text

    print(compared_text(compare_models(_read(tables, columns), models=models)))


def audit(
    benchmarks: Sequence[Benchmark],
    *,
    tables: Sequence[Path],
    model: str | None,
    train: Sequence[str],
    out: Path | None,
    num_workers: int,
) -> None:
    from data.traits import read_traits
    from evaluation.audit import audit_benchmark
    from evaluation.audit import to_text as audited_text

    scores = _read(tables) if tables else None
    of_train = None
    if train:
        records = [record for source in train for record in open_source(source)]
        of_train = read_traits(records, num_workers=num_workers)
    audits = {}
    for each in benchmarks:
        images = each.images().records
        traits = read_traits(images, shards=each.shards, num_workers=num_workers)
        of_scores: dict[str, Any] = {}
        if scores is not None:
            name = model or scores.models[0]
            of_scores = {"scores": scores.frame, "model": name, "threshold": scores.threshold(name)}
        audits[each.name] = audit_benchmark(traits, name=each.name, train=of_train, **of_scores)
        print(audited_text(audits[each.name]))
    if out:
        text = json.dumps({name: each.to_dict() for name, each in audits.items()}, indent=1)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def calibrate(
    tables: Sequence[Path], *, model_path: Path, out: Path, method: str, alpha: float, against: Sequence[Path]
) -> None:
    """A copy of the detector file with the calibration that its scores of held-out images give."""
    from evaluation.calibrate import calibrate as fit
    from evaluation.calibrate import check_no_overlap

    scores = _read(tables)
    sha256 = sha256_of(model_path)
    names = [name for name, about in scores.about["models"].items() if about["sha256"] == sha256]
    if not names:
        raise ValueError(f"{model_path}: no scores of this file in {', '.join(map(str, tables))}")
    frame = scores.frame
    held_out = frame[(frame["model"] == names[0]) & (frame["degradation"] == CLEAN)]
    for path in against:
        check_no_overlap(held_out, read_scores(path).frame)
    calibration = fit(held_out, method=method, alpha=alpha)
    store_calibration(model_path, calibration, out=out)
    print(f"{calibration.method}: score = sigmoid({calibration.a:.4g} * logit {calibration.b:+.4g})")
    print(f"from {calibration.n_real} photographs and {calibration.n_fake} fakes")
    print(f"calibration error on them {calibration.ece_before:.3f} before, {calibration.ece_after:.3f} after")
    for name, threshold in calibration.operating_points.items():
        print(f"operating point {name}: fake from {threshold:.4f} on")
    if calibration.has_band:
        band = f"between {calibration.band_low:.4f} and {calibration.band_high:.4f}"
        print(f"unsure {band}: at most {calibration.alpha:.0%} of each class are called the other")
    print(f"saved {out}")
