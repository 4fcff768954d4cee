"""Tables of scores, and what a detector file says of itself -> a model card for the Hugging Face hub.

Every figure is read from the tables; where they do not state something, the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from evaluation.audit.findings import MIN_IMAGES
from evaluation.audit.shortcuts import false_positives
from evaluation.tables.report import headlines, make_table
from evaluation.tables.rows import NOT_SUBSETS, OVERALL
from evaluation.tables.scores import CLEAN, ScoreTable
from gapl.calibration import Calibration
from gapl.files.atomic import replacing
from gapl.verdict import decision_rule
from reporting.blocks import FIGURES
from reporting.markdown import code, plain, share, to_table, with_interval

TASK = "image-classification"
TAGS = ("ai-generated-image-detection", "image-forensics", "deepfake-detection")
# Column of a table of metrics -> the hub's name of the metric.
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "auroc": "roc_auc",
    "ap": "average_precision",
}
SHOWN_SOURCES = 15
SHOWN_SUBSETS = 8

INTRODUCTION = "A detector of AI-generated images by generator-aware prototypes (GAPL, arXiv:2512.12982)."
INTENDED = """\
A second opinion on whether a picture was made by an image generator or not: to sort pictures that people then
look at, to measure, and to compare detectors. The answer is a score from 0 (not made by a generator) to 1 (made by
a generator)."""
FORBIDDEN = """\
- As the only reason for an accusation, a takedown, a ban or a judgement about a person: it makes mistakes, see
  below.
- As proof that a picture is authentic. A low score means that nothing was found, not that nothing is there.
- For kinds of pictures that the tables below do not cover, such as drawings, scans, screenshots, or photographs in
  which a part was replaced, unless you measure it on such pictures first.
- To find out which generator made a picture, or who used it."""


@dataclass(frozen=True)
class DetectorFacts:
    """What the file of a detector says of itself. For an empty field the card says that it is not stated.

    form          adapter, full, merged or released
    backbone      name of the tower, such as clip-vit-l14
    views         what it looks at in an image, such as centre and whole
    provenance    prototypes, recipe, training data, seed
    notice        what to know before relying on its verdicts
    datasets      repositories on the hub that it was trained on
    """

    name: str
    form: str = ""
    backbone: str = ""
    views: Sequence[str] = ()
    sha256: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    notice: str = ""
    datasets: Sequence[str] = ()


def write_card(
    path: Path, scores: ScoreTable, *, model: str, facts: DetectorFacts, licence: str, licence_link: str = ""
) -> None:
    """Write README.md whole or not at all.

    model          whose scores the card shows; the table has some
    licence        the hub's identifier of a licence, such as "mit"
    licence_link   where its text is

    Raises ValueError for the licence "other", which the hub shows only with a name, and for an empty one.
    """
    if licence in ("", "other"):
        raise ValueError(f"licence {licence!r}; expected the hub's identifier of a licence, such as mit")
    scores = replace(scores, frame=scores.frame[scores.frame["model"] == model])
    table = make_table(scores)
    front = _front_matter(_results(scores, table), facts=facts, licence=licence, licence_link=licence_link)
    body = "\n\n".join(_body(scores, table, facts=facts, model=model))
    card = ModelCard(f"---\n{front.to_yaml()}\n---\n\n{body}\n")
    with replacing(path) as scratch:
        scratch.write_text(str(card), encoding="utf-8", errors="replace")


def _front_matter(
    results: list[EvalResult], *, facts: DetectorFacts, licence: str, licence_link: str
) -> ModelCardData:
    """Return what the hub reads; it shows no results without a name of the model and its metrics."""
    return ModelCardData(
        license=licence,
        license_link=licence_link or None,
        pipeline_tag=TASK,
        tags=list(TAGS),
        datasets=list(facts.datasets) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        metrics=list(METRICS.values()) if results else None,
    )


def _body(scores: ScoreTable, table: pd.DataFrame, *, facts: DetectorFacts, model: str) -> Iterator[str]:
    """Yield the title, what is said at the top, and each section."""
    calibration = facts.calibration or scores.calibration(model)
    yield f"# {plain(facts.name)}"
    if facts.notice:
        yield f"> **{plain(facts.notice)}**"
    yield INTRODUCTION
    sections = {
        "What it is for": INTENDED,
        "What it must not be used for": FORBIDDEN,
        "The detector": _facts(facts, scores, model),
        "Results": _benchmarks(table),
        "Known failures": _failures(table),
        "False positives by source": _false_positives(scores, model),
        "Calibration and operating points": _calibration(calibration, threshold=scores.threshold(model)),
        "Limits": _limits(scores, calibration),
        "How the figures were made": _made(scores),
    }
    for title, text in sections.items():
        yield f"## {title}\n\n{text}"


# ---------------------------------------------------------------------------------------------------------
# Parts


def _results(scores: ScoreTable, table: pd.DataFrame) -> list[EvalResult]:
    """Return a result for each benchmark and metric."""
    about = scores.about.get("benchmarks", {})
    results = []
    for row in headlines(table).to_dict("records"):
        if row["benchmark"] == OVERALL:
            continue
        name = str(row["benchmark"])
        for column, hub in METRICS.items():
            if pd.notna(row[column]):
                result = EvalResult(
                    task_type=TASK,
                    task_name="detection of AI-generated images",
                    dataset_type=name.lower().replace(" ", "-"),
                    dataset_name=name,
                    dataset_revision=about.get(name, {}).get("file_list_sha256"),
                    metric_type=hub,
                    metric_name=FIGURES[column],
                    metric_value=round(float(row[column]), 4),
                )
                results.append(result)
    return results


def _facts(facts: DetectorFacts, scores: ScoreTable, model: str) -> str:
    known = scores.detectors.get(model)
    sha256 = facts.sha256 or (known and known.sha256)
    views = ", ".join(facts.views)
    pairs = {"form": facts.form, "backbone": facts.backbone, "views": views, "SHA-256": sha256}
    pairs |= {key.replace("_", " "): _told(value) for key, value in facts.provenance.items()}
    return "\n".join(f"- {plain(key)}: {plain(str(value or 'not stated'))}" for key, value in pairs.items())


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_told(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value)


def _benchmarks(table: pd.DataFrame) -> str:
    header = ["benchmark", "protocol", "real", "fake", *(FIGURES[column] for column in METRICS)]
    rows = []
    for row in headlines(table).to_dict("records"):
        name = "mean over benchmarks" if row["benchmark"] == OVERALL else str(row["benchmark"])
        figures = [with_interval(row, column) for column in METRICS]
        rows.append([name, str(row["protocol"]), f"{row['n_real']:,}", f"{row['n_fake']:,}", *figures])
    words = (
        "Unweighted means over the subsets of a benchmark, or all images together where no subset has both "
        "classes; 95 % bootstrap intervals in brackets. Accuracies are at the threshold stored with the detector."
    )
    return f"{words}\n\n{to_table(header, rows, num_texts=2)}"


def _failures(table: pd.DataFrame) -> str:
    rows = table[~table["subset"].isin(NOT_SUBSETS) & (table["n_fake"].fillna(0) >= MIN_IMAGES)]
    worst = rows.sort_values(["fake_accuracy", "benchmark", "subset"]).head(SHOWN_SUBSETS)
    if worst.empty:
        return f"No subset has {MIN_IMAGES} fakes; nothing can be said."
    lines = [
        [row["benchmark"], row["subset"], f"{row['n_fake']:,}", share(row["fake_accuracy"], row["n_fake"])]
        for row in worst.to_dict("records")
    ]
    words = f"The subsets (of {MIN_IMAGES} fakes or more) whose fakes are missed most, with 95 % Wilson intervals."
    return f"{words}\n\n{to_table(['benchmark', 'subset', 'fakes', 'share found'], lines, num_texts=2)}"


def _false_positives(scores: ScoreTable, model: str) -> str:
    rows = scores.readable(model).assign(camera="")
    found = false_positives(rows, threshold=scores.threshold(model))
    found = found[(found["by"] == "source") & (found["n"] >= MIN_IMAGES)]
    if found.empty:
        return f"No source has {MIN_IMAGES} real images; nothing can be said."
    lines = [
        [row["value"], f"{row['n']:,}", share(row["rate"], row["n"])]
        for row in found.head(SHOWN_SOURCES).to_dict("records")
    ]
    words = "Real images called fake, the highest rate first, with 95 % Wilson intervals."
    if len(found) > SHOWN_SOURCES:
        rest = found["rate"].iloc[SHOWN_SOURCES:]
        words += f" The other {len(rest)} sources are at {rest.iloc[0]:.1%} or less."
    return f"{words}\n\n{to_table(['source', 'real images', 'called fake'], lines, num_texts=1)}"


def _calibration(calibration: Calibration | None, *, threshold: float) -> str:
    if calibration is None:
        return f"The scores are not calibrated: they only rank images. An image is fake from {threshold:.4g} on."
    points = [[name, f"{value:.4f}"] for name, value in calibration.operating_points.items()]
    n_real, n_fake = calibration.n_real, calibration.n_fake
    rule = decision_rule(calibration)
    fake = f"above {rule.threshold:.4f}" if rule.has_band else f"from {rule.threshold:.4f} on"
    words = (
        f"{calibration.method.capitalize()} scaling, fitted to {n_real:,} real images and {n_fake:,} fakes that "
        f"were held out. The calibration error on them is {calibration.ece_before:.3f} before and "
        f"{calibration.ece_after:.3f} after. Accuracies and shares in the tables are at a threshold of "
        f"{threshold:.4g}. An image is called fake {fake}."
    )
    if rule.has_band:
        words += (
            f" Scores from {calibration.band_low:.4f} to {calibration.band_high:.4f} are unsure; outside of "
            f"them at most {calibration.alpha:.0%} of each class are called the other, for images like the "
            "held-out ones."
        )
    return f"{words}\n\n{to_table(['operating point', 'fake from'], points, num_texts=1)}"


def _limits(scores: ScoreTable, calibration: Calibration | None) -> str:
    about = scores.about.get("benchmarks", {})
    said = ["The figures are of the listed images. On other generators, cameras and platforms they may be worse."]
    if absent := [name for name, each in about.items() if each.get("absent")]:
        said.append(f"Not measured: {', '.join(absent)}.")
    said += [f"{name} is without {', '.join(m)}." for name, e in about.items() if (m := e.get("missing_subsets"))]
    if (scores.frame["degradation"] == CLEAN).all():
        said.append("It was measured on unchanged files: what recompression or resizing does to it is unknown.")
    unread = scores.frame.loc[scores.frame["error"] != "", "uri"].nunique()
    said += [f"{unread:,} images could not be read and are in no figure."] if unread else []
    said += [] if calibration else ["A score is not a probability."]
    return "\n".join(f"- {plain(each)}" for each in said)


def _made(scores: ScoreTable) -> str:
    about = scores.about
    lines = [f"- command: {code(about.get('command') or 'not stated')}"]
    for name, each in about.get("benchmarks", {}).items():
        if each.get("file_list_sha256"):
            lines.append(f"- list of files of {plain(name)}, SHA-256: {code(each['file_list_sha256'])}")
    if versions := about.get("versions"):
        lines.append("- versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()))
    return "\n".join(lines)
