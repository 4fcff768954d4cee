"""What benchmarks.py does with tables of scores: reports, comparisons, audits, calibrations, model cards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.benchmarks.benchmark import Benchmark
from data.benchmarks.traits import read_traits
from data.records import Record
from data.sources import open_source
from evaluation import robustness
from evaluation.audit.audit import Audit, audit_benchmark
from evaluation.audit.audit import to_text as audit_text
from evaluation.scoring.job import CLEAN, TABLE
from evaluation.tables.layout import to_text
from evaluation.tables.report import make_table, write_tables
from evaluation.tables.scores import ScoreTable, join_tables, read_scores, tell_apart
from files.checksum import sha256_of
from models.weights.checkpoint import read_checkpoint, store_calibration

log = logging.getLogger(__name__)


def show_run(folder: Path) -> None:
    """The tables of a run that is complete, in its folder and on the terminal."""
    path = folder / TABLE
    scores = read_scores(path)
    _show_tables(scores, folder)
    thresholds = {each["threshold"] for each in scores.about["models"].values()}
    stated = ", ".join(map(str, sorted(thresholds)))
    print(f"threshold {stated}; scores of {scores.frame['uri'].nunique()} images in {path}")


def report(
    tables: Sequence[Path],
    *,
    columns: Mapping[str, str] | None,
    out: Path | None,
    html: Path | None,
    benchmarks: Sequence[Benchmark],
    thumbnails: bool,
    num_workers: int,
) -> None:
    """The tables, and one HTML file with all figures; with the audits of `benchmarks`, if they are given."""
    scores = _read(tables, columns)
    _show_tables(scores, out)
    if out:
        print(f"tables in {out}")
    if html:
        from reporting.page import write_report

        scored = [each for each in benchmarks if each.name in set(scores.frame["benchmark"])]
        audits = _audits(scored, scores=scores, model=None, train=None, num_workers=num_workers)
        write_report(html, scores, audits=audits, thumbnails=thumbnails)
        print(f"report in {html}")


def card(
    tables: Sequence[Path],
    *,
    model_path: Path,
    out: Path,
    licence: str,
    licence_link: str,
    datasets: Sequence[str],
) -> None:
    """A model card of the Hugging Face hub for a detector file, from tables of its scores."""
    from reporting.card import DetectorFacts, write_card

    scores = _read(tables)
    name = _name_of(model_path, scores, tables)
    stored = read_checkpoint(model_path)
    backbone = stored.config.backbone if stored.config and stored.config.backbone else ""
    facts = DetectorFacts(
        name=name,
        form=stored.form,
        backbone=backbone,
        sha256=sha256_of(model_path),
        provenance=stored.provenance,
        calibration=stored.calibration,
        notice=stored.notice,
        datasets=datasets,
    )
    write_card(out, scores, facts=facts, licence=licence, model=name, licence_link=licence_link)
    print(f"model card in {out}")


def _name_of(model_path: Path, scores: ScoreTable, tables: Sequence[Path]) -> str:
    """Under which the table has the scores of this very file."""
    sha256 = sha256_of(model_path)
    names = [name for name, about in scores.about.get("models", {}).items() if about["sha256"] == sha256]
    if not names:
        raise ValueError(f"{model_path}: no scores of this file in {', '.join(map(str, tables))}")
    return names[0]


def _only_model(scores: ScoreTable, tables: Sequence[Path]) -> str:
    if len(scores.models) != 1:
        raise ValueError(f"{', '.join(map(str, tables))}: scores of {len(scores.models)} detectors; expected one")
    return scores.models[0]


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

    names = tell_apart([path.parent / path.stem for path in tables])
    read = [read_scores(path, columns=columns, model=name) for path, name in zip(tables, names, strict=True)]
    print(compared_text(compare_models(join_tables(read), models=models)))


def audit(
    benchmarks: Sequence[Benchmark],
    *,
    tables: Sequence[Path],
    model: str | None,
    train: Sequence[str],
    out: Path | None,
    num_workers: int,
) -> None:
    audits = _audits(
        benchmarks,
        scores=_read(tables) if tables else None,
        model=model,
        train=[record for source in train for record in open_source(source)] if train else None,
        num_workers=num_workers,
    )
    for each in audits.values():
        print(audit_text(each))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({name: each.to_dict() for name, each in audits.items()}, indent=1)
        out.write_text(text, encoding="utf-8")


def _audits(
    benchmarks: Sequence[Benchmark],
    *,
    scores: ScoreTable | None,
    model: str | None,
    train: Sequence[Record] | None,
    num_workers: int,
) -> dict[str, Audit]:
    of_train = read_traits(train, num_workers=num_workers) if train else None
    of_scores: dict[str, Any] = {}
    if scores is not None:
        name = model or scores.models[0]
        of_scores = {"scores": scores.frame, "model": name, "threshold": scores.threshold(name)}
    audits = {}
    for each in benchmarks:
        traits = read_traits(each.images().records, shards=each.shards, num_workers=num_workers)
        audits[each.name] = audit_benchmark(traits, name=each.name, train=of_train, **of_scores)
    return audits


def calibrate(
    tables: Sequence[Path], *, model_path: Path, out: Path, method: str, alpha: float, against: Sequence[Path]
) -> None:
    """A copy of the detector file with the calibration that its scores of held-out images give."""
    from evaluation.calibrate import calibrate as fit
    from evaluation.calibrate import check_no_overlap

    scores = _read(tables)
    if scores.about.get("models"):
        name = _name_of(model_path, scores, tables)
    else:  # such as the scores_heldout.csv of a run: of one detector, but it cannot say of which
        name = _only_model(scores, tables)
        log.warning("that %s are scores of %s is taken on trust", ", ".join(map(str, tables)), model_path)
    frame = scores.frame
    held_out = frame[(frame["model"] == name) & (frame["degradation"] == CLEAN)]
    for path in against:
        check_no_overlap(held_out, read_scores(path).frame)
    calibration = fit(held_out, method=method, alpha=alpha)
    store_calibration(model_path, calibration, out=out)
    print(f"{calibration.method}: score = sigmoid({calibration.a:.4g} * logit {calibration.b:+.4g})")
    print(f"from {calibration.n_real} photographs and {calibration.n_fake} fakes")
    print(f"calibration error on them {calibration.ece_before:.3f} before, {calibration.ece_after:.3f} after")
    for point, threshold in calibration.operating_points.items():
        print(f"operating point {point}: fake from {threshold:.4f} on")
    if calibration.has_band:
        band = f"between {calibration.band_low:.4f} and {calibration.band_high:.4f}"
        print(f"unsure {band}: at most {calibration.alpha:.0%} of each class are called the other")
    print(f"saved {out}")
