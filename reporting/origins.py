"""An audit, and what a table of scores says of itself -> what to trust of it, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from evaluation.tables.scores import CLEAN, ScoreTable
from reporting.blocks import Block, Facts, Section, Words, count, percent, to_table
from reporting.results import FOLDED_ROWS

if TYPE_CHECKING:
    from evaluation.audit.audit import Audit

SHOWN_ERRORS = 20
ENDS = {"low": "from", "high": "to"}
# Caption, name of the table in an Audit, and its columns with their headings.
AUDIT_TABLES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Label predicted from traits of the files, AUROC",
        "traits",
        {"trait": "trait", "auroc": "AUROC", **ENDS},
    ),
    (
        "Scores after both classes were encoded alike",
        "re_encoded",
        {"degradation": "degradation", "n": "images", "auroc": "AUROC", "fall": "fall"},
    ),
    (
        "Rank correlation of scores with traits",
        "correlations",
        {"trait": "trait", "class": "class", "n": "images", "spearman": "Spearman"},
    ),
    (
        "Photographs called fake",
        "false_positives",
        {"by": "by", "value": "value", "n": "images", "false_positives": "called fake", "rate": "rate", **ENDS},
    ),
    (
        "Fakes that look like a photograph",
        "across_classes",
        {"uri": "image", "partner": "looks like", "bits": "bits apart"},
    ),
    (
        "Images that look like a training image",
        "with_train",
        {"uri": "image", "partner": "looks like"},
    ),
)
TEXTS = ("trait", "degradation", "class", "by", "value", "uri", "partner")  # columns of words


def absences(scores: ScoreTable) -> list[str]:
    """What the figures are not of, in sentences; benchmarks that are absent for one reason in one."""
    said = []
    absent: dict[str, list[str]] = {}
    for name, about in scores.about.get("benchmarks", {}).items():
        if about.get("absent"):
            absent.setdefault(about["absent"], []).append(name)
        elif missing := about.get("missing_subsets"):
            said.append(f"{name} is without {', '.join(missing)}.")
    said += [f"Absent ({reason}): {', '.join(names)}." for reason, names in absent.items()]
    unread = scores.frame[(scores.frame["error"] != "") & (scores.frame["degradation"] == CLEAN)]
    if len(unread):
        said.append(f"{count(unread['uri'].nunique())} images could not be read; they are listed at the end.")
    return said


def audited(audits: Mapping[str, Audit]) -> Section:
    blocks: list[Block] = []
    for name, audit in audits.items():
        blocks.append(Words(audit.verdict, heading=name, as_list=True))
        blocks += _audit_tables(audit)
    meaning = (
        "In some benchmarks photographs are JPEG and fakes PNG, or of other sizes. A detector may then be right "
        "for a reason that is worth nothing on your platform. The audit says how far file traits alone tell the "
        "label."
    )
    return Section("audit", "Audit of the benchmarks", meaning, blocks)


def _audit_tables(audit: Audit) -> list[Block]:
    return [
        _audit_table(table, title, headings)
        for title, name, headings in AUDIT_TABLES
        if (table := getattr(audit, name)) is not None and len(table)
    ]


def _audit_table(table: pd.DataFrame, title: str, headings: dict[str, str]) -> Block:
    writers: dict[str, Callable[[Any], str]] = {"trait": _spaced}
    if "rate" in table:
        writers |= dict.fromkeys(("rate", "low", "high"), percent)
    return to_table(table, caption=title, headings=headings, texts=TEXTS, writers=writers, folded=FOLDED_ROWS)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def made(scores: ScoreTable) -> Section:
    about = scores.about
    blocks: list[Block] = []
    protocols = ", ".join(dict.fromkeys(scores.frame["protocol"])) or "not stated"
    blocks.append(Facts([("command", about.get("command") or "not stated"), ("protocol", protocols)]))
    for model in scores.models:
        blocks += [Words(heading=f"Detector {model}"), Facts(_of_model(scores, model))]
    benchmarks = pd.DataFrame(
        [_of_benchmark(scores, name) for name in dict.fromkeys([*about.get("benchmarks", {}), *_names(scores)])]
    )
    headings = {
        "name": "benchmark",
        "images": "images",
        "sha256": "SHA-256 of the list of files",
        "state": "state",
    }
    blocks.append(to_table(benchmarks, caption="Benchmarks", headings=headings, texts=["name", "sha256", "state"]))
    if versions := about.get("versions"):
        blocks += [Words(heading="Versions"), Facts([(str(k), str(v)) for k, v in versions.items()])]
    unread = scores.frame[scores.frame["error"] != ""].drop_duplicates(["uri", "error"])
    if len(unread):
        shown = unread.head(SHOWN_ERRORS)
        rest = len(unread) - len(shown)
        caption = f"Images without a score{f', the first {SHOWN_ERRORS} of {len(unread)}' if rest else ''}"
        names = {"uri": "image", "error": "reason"}
        blocks.append(to_table(shown, caption=caption, headings=names, texts=names, folded=5))
    meaning = "What it takes to make these figures again, and to see that two reports are of the same images."
    return Section("provenance", "How this was made", meaning, blocks)


def _of_model(scores: ScoreTable, model: str) -> list[tuple[str, str]]:
    known = scores.detectors.get(model)
    path, sha256 = (known.path, known.sha256) if known else ("not stated", "not stated")
    threshold = f"{scores.threshold(model):.4g}" + ("" if known else " (none is stored)")
    pairs = [("file", path), ("SHA-256", sha256), ("threshold", threshold)]
    calibration = scores.calibration(model)
    if calibration is None:
        return [*pairs, ("calibration", "none")]
    fitted = f"{calibration.method}, from {calibration.n_real} photographs and {calibration.n_fake} fakes"
    pairs.append(("calibration", fitted))
    points = ", ".join(f"{name} {value:.4g}" for name, value in calibration.operating_points.items())
    band = f"{calibration.band_low:.4g} to {calibration.band_high:.4g}, error rate {calibration.alpha:.3g}"
    return [*pairs, ("operating points", points), ("unsure", band)]


def _of_benchmark(scores: ScoreTable, name: str) -> dict[str, Any]:
    known: Mapping[str, Any] = scores.about.get("benchmarks", {}).get(name, {})
    images = int(scores.frame.loc[scores.frame["benchmark"] == name, "uri"].nunique())
    state = [f"absent: {known['absent']}"] if known.get("absent") else []
    state += [f"without {', '.join(known['missing_subsets'])}"] if known.get("missing_subsets") else []
    state += [known["note"]] if known.get("note") else []
    return {
        "name": name,
        "images": images,
        "sha256": known.get("file_list_sha256") or "not stated",
        "state": "; ".join(state) or "complete" if known else "",
    }


def _names(scores: ScoreTable) -> list[str]:
    return list(dict.fromkeys(scores.frame["benchmark"]))
