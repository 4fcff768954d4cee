"""A small made-up table of scores with all that a report shows: two detectors, degradations, details, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import expit
from test_audit import make_traits, plant_format

from evaluation.audit.audit import audit_benchmark
from evaluation.tables.scores import COLUMNS, DetectorEntry, ScoreTable
from gapl.calibration import Calibration
from reporting.page import write_report

HOSTILE = "<script>alert(1)</script>"
CALIBRATED, OTHER = "stage2", "other"
NUM_PER_SOURCE = 12
NUM_PROTOTYPES, NUM_REAL = 6, 3
SOURCES = {"cameras": 0, "flickr": 0, "gan": 1, HOSTILE: 1}

ALL_SECTIONS = [
    *("summary", "subsets", "ranking", "scores", "false-positives", "robustness", "audit"),
    *("prototypes", "mistakes", "provenance"),
]

CALIBRATION = Calibration(
    method="platt",
    a=1.0,
    b=0.0,
    operating_points={"balanced": 0.55, "fpr5": 0.8},
    band_low=0.4,
    band_high=0.6,
    alpha=0.1,
    n_real=40,
    n_fake=50,
    ece_before=0.1,
    ece_after=0.03,
    data_sha256="0" * 64,
)


def make_scores(folder: Path, *, seed: int = 0) -> ScoreTable:
    """Some of its images are written to `folder`; one of them has quotes in its name, one is no image."""
    rng = np.random.default_rng(seed)
    images = [
        {"uri": str(folder / f"{number}_{i}.png"), "source": source, "label": label, "i": i}
        for number, (source, label) in enumerate(SOURCES.items())
        for i in range(NUM_PER_SOURCE)
    ]
    images[0]["uri"] = str(folder / "\"quoted' onerror=alert(1) name.png")
    frame = pd.DataFrame(images)
    frame["generator"] = frame["source"].where(frame["label"] == 1, "")
    fakes = [name for name, label in SOURCES.items() if label]
    frame["subsets"] = [(row.source,) if row.label else tuple(fakes) for row in frame.itertuples()]
    frame["content_sha256"] = [f"{i:064x}" for i in range(len(frame))]
    frame = frame.assign(
        benchmark="Made up", protocol="all", width=80, height=60, format="PNG", num_bytes=9, error=""
    )
    clean = 3 * (frame["label"] - 0.5) + rng.normal(size=len(frame)) * 1.5
    clean[0] = 4.0  # the worst mistake
    parts = []
    for model, shift in ((CALIBRATED, 0.0), (OTHER, -0.5)):
        for degradation, noise in (("none", 0.0), ("jpeg:50", 2.0), ("jpeg:90", 0.5), ("social", 1.0)):
            logit = clean + shift + noise * rng.normal(size=len(frame))
            part = frame.assign(model=model, degradation=degradation, logit=logit, score=expit(logit))
            parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    lost = table["uri"] == table["uri"].iloc[5]
    table.loc[lost, "error"] = "damaged image: <b>"
    table.loc[lost, ["logit", "score"]] = np.nan
    for row in images[: 3 * NUM_PER_SOURCE : 2]:
        pixels = rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(str(row["uri"]))
    (folder / "2_0.png").write_bytes(b"no image")
    benchmarks = {
        "Made up": {"absent": None, "missing_subsets": ["BigGAN"], "note": "", "file_list_sha256": "ab" * 32},
        "Gone": {"absent": "no folder of this name", "missing_subsets": [], "note": ""},
    }
    about = {
        "command": "python benchmarks.py run --data-root 'my bench'",
        "versions": {"numpy": "2"},
        "benchmarks": benchmarks,
    }
    detector = DetectorEntry(
        path="stage2/detector.safetensors",
        sha256="cd" * 32,
        threshold=0.55,
        calibration=CALIBRATION,
        prototypes={"num_real": NUM_REAL},
    )
    return ScoreTable(table[list(COLUMNS)], about, {CALIBRATED: detector})


def with_details(scores: ScoreTable, *, seed: int = 0) -> ScoreTable:
    """With embeddings and attention of the clean images."""
    rng = np.random.default_rng(seed)
    frame = scores.frame.copy()
    has = (frame["degradation"] == "none") & (frame["error"] == "")
    attention_NP = rng.dirichlet(np.ones(NUM_PROTOTYPES), size=len(frame))
    embedding_NE = rng.normal(size=(len(frame), 8)) + frame["label"].to_numpy()[:, None]
    frame["attention"] = pd.Series(list(attention_NP), frame.index).where(has)
    frame["embedding"] = pd.Series(list(embedding_NE), frame.index).where(has)
    return replace(scores, frame=frame)


def make_report(scores: ScoreTable, folder: Path) -> Path:
    """Write a page with every section."""
    path = folder / "report.html"
    audits = {"Made up": audit_benchmark(plant_format(make_traits(40)), name="Made up", num_resamples=50)}
    write_report(path, scores, audits=audits)
    return path
