"""What a table of scores says of itself -> the section of a report on how it was made, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evaluation.tables.scores import CLEAN, ScoreTable
from reporting.blocks import Block, Facts, Section, Table, Words, count, to_table

SHOWN_ERRORS = 20


def absences(scores: ScoreTable) -> list[str]:
    """Say what is not in the figures; benchmarks that are absent for the same reason are in one sentence."""
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


def made(scores: ScoreTable) -> Section:
    """Return the section with the command, detectors, benchmarks, versions and unreadable images."""
    about = scores.about
    blocks: list[Block] = []
    protocols = ", ".join(dict.fromkeys(scores.frame["protocol"])) or "not stated"
    blocks.append(Facts([("command", about.get("command") or "not stated"), ("protocol", protocols)]))
    for model in scores.models:
        blocks += [Words(heading=f"Detector {model}"), Facts(_of_model(scores, model))]
    blocks.append(_benchmarks(scores))
    if versions := about.get("versions"):
        blocks += [Words(heading="Versions"), Facts([(str(k), str(v)) for k, v in versions.items()])]
    unread = scores.frame[scores.frame["error"] != ""].drop_duplicates(["uri", "error"])
    if len(unread):
        first = f", the first {SHOWN_ERRORS} of {len(unread)}" if len(unread) > SHOWN_ERRORS else ""
        names = {"uri": "image", "error": "reason"}
        blocks.append(
            to_table(
                unread.head(SHOWN_ERRORS),
                caption=f"Images without a score{first}",
                headings=names,
                texts=names,
                folded=5,
            )
        )
    meaning = "What you need to reproduce these figures, and to check that two reports are about the same images."
    return Section("provenance", "How this was made", meaning, blocks)


def _of_model(scores: ScoreTable, model: str) -> list[tuple[str, str]]:
    known = scores.detectors.get(model)
    path, sha256 = (known.path, known.sha256) if known else ("not stated", "not stated")
    threshold = f"{scores.threshold(model):.4g}" + ("" if known else " (none is stored)")
    pairs = [("file", path), ("SHA-256", sha256), ("threshold", threshold)]
    calibration = scores.calibration(model)
    if calibration is None:
        return [*pairs, ("calibration", "none")]
    fitted = f"{calibration.method}, from {calibration.n_real} real images and {calibration.n_fake} fakes"
    pairs.append(("calibration", fitted))
    points = ", ".join(f"{name} {value:.4g}" for name, value in calibration.operating_points.items())
    band = f"{calibration.band_low:.4g} to {calibration.band_high:.4g}, error rate {calibration.alpha:.3g}"
    return [*pairs, ("operating points", points), ("unsure", band)]


def _benchmarks(scores: ScoreTable) -> Table:
    names = dict.fromkeys([*scores.about.get("benchmarks", {}), *scores.frame["benchmark"]])
    rows = pd.DataFrame([_of_benchmark(scores, name) for name in names])
    headings = {
        "name": "benchmark",
        "images": "images",
        "sha256": "SHA-256 of the list of files",
        "state": "state",
    }
    return to_table(rows, caption="Benchmarks", headings=headings, texts=["name", "sha256", "state"])


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
