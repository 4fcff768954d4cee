"""Put published figures beside ours, where both are of the same images.

The paper's accuracy is at a threshold of 0.5, so it belongs beside `accuracy_at_0.5`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from data.benchmarks.benchmark import RELEASE_IMAGES
from data.choices import PROTOCOLS
from evaluation.tables.rows import MEAN, NOT_SUBSETS, OVERALL
from gapl.columns import normalise

OWN_METHOD = "GAPL"
# Share of the published number of images: copies of a benchmark differ a little, and the paper rounds its counts.
MIN_SHARE = 0.9
PUBLISHED_COLUMNS = ("published_accuracy", "published_ap")


@cache
def read_published() -> dict[str, Any]:
    """Read published.yaml: "benchmarks" and "methods"."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    published: dict[str, Any] = yaml.safe_load(text)
    return published


def add_published(table: pd.DataFrame, *, missing_subsets: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows of a report with PUBLISHED_COLUMNS, the fractions of the method GAPL.

    Where the images are not those of the paper, these columns are blank and the note says why.

    missing_subsets   benchmark -> its published subsets that were not found
    """
    table = table.copy()
    method = read_published()["methods"][OWN_METHOD]
    for name in PUBLISHED_COLUMNS:
        table[name] = float("nan")
    for _model, of_model in table.groupby("model", sort=False):
        agreeing = set()
        for benchmark, expected in read_published()["benchmarks"].items():
            rows = of_model[of_model["benchmark"] == benchmark]
            subsets = rows[~rows["subset"].isin(NOT_SUBSETS)]
            if subsets.empty:
                continue
            reason = why_not(rows, expected=expected, missing=missing_subsets.get(benchmark, ()))
            place = _summary(rows)
            if reason:
                _add_note(table, place, f"published figures left out: {reason}")
            else:
                agreeing.add(benchmark)
                _fill(table, place, method["benchmarks"][benchmark])
            for subset, figures in method["subsets"].get(benchmark, {}).items():
                for its_place in subsets.index[subsets["subset"].map(normalise) == normalise(subset)]:
                    if subsets.loc[its_place, "protocol"] in PROTOCOLS and not _too_few(subsets.loc[[its_place]]):
                        _fill(table, its_place, figures)
        for place in of_model.index[of_model["benchmark"] == OVERALL]:
            if agreeing == set(read_published()["benchmarks"]) == _averaged(of_model):
                _fill(table, place, method["mean"])
            elif agreeing:
                _add_note(table, place, "published mean left out: it is of other benchmarks")
    return table


def why_not(rows: pd.DataFrame, *, expected: Mapping[str, int], missing: Collection[str]) -> str:
    """Return why published figures do not belong beside the rows of a benchmark; empty if they do."""
    subsets = rows[~rows["subset"].isin(NOT_SUBSETS)]
    protocols = set(subsets["protocol"])
    if len(protocols) > 1 or not protocols <= set(PROTOCOLS):
        return f"protocol {', '.join(sorted(protocols))}"
    if missing:
        return f"{len(missing)} of {expected['subsets']} subsets are missing"
    if len(subsets) != expected["subsets"]:
        return f"{len(subsets)} of {expected['subsets']} subsets"
    if protocols == {"release"}:
        return _too_few(subsets)
    for kind in ("n_real", "n_fake"):
        # Real images that subsets share are published counted once or several times.
        count = int(max(subsets[kind].sum(), rows[kind].max()))
        if count < MIN_SHARE * expected[kind]:
            return f"{count:,} of {expected[kind]:,} {'real images' if kind == 'n_real' else 'fakes'}"
    return ""


def published_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return our figures and those of every method, for the benchmarks and their mean that have published ones."""
    lines = []
    for _, row in table[table["published_accuracy"].notna()].iterrows():
        if row["subset"] != MEAN and _has_mean(table, row):
            continue
        ours = {"accuracy": row["accuracy_at_0.5"], "ap": row["ap"]}
        lines.append({"benchmark": row["benchmark"], "method": f"{row['model']} (ours)", **ours})
        for name, method in read_published()["methods"].items():
            of_method = method["mean"] if row["benchmark"] == OVERALL else method["benchmarks"][row["benchmark"]]
            figures = {key: value / 100 for key, value in of_method.items()}
            lines.append({"benchmark": row["benchmark"], "method": name, **figures})
    return pd.DataFrame(lines, columns=["benchmark", "method", "accuracy", "ap"])


def _too_few(subsets: pd.DataFrame) -> str:
    """Return which subset is smaller than in the protocol of the release, or "" if none is.

    Each published subset has at least RELEASE_IMAGES of a class.
    """
    for _, row in subsets.iterrows():
        fewest = int(min(row["n_real"], row["n_fake"]))
        if fewest < MIN_SHARE * RELEASE_IMAGES:
            return f"{row['subset']} has {fewest} images of a class, the paper {RELEASE_IMAGES:,} or more"
    return ""


def _summary(rows: pd.DataFrame) -> Any:
    """Return the index of the mean of a benchmark; a single subset is its own mean."""
    means = rows.index[rows["subset"] == MEAN]
    return means[0] if len(means) else rows.index[0]


def _has_mean(table: pd.DataFrame, row: pd.Series) -> bool:
    of_benchmark = (table["model"] == row["model"]) & (table["benchmark"] == row["benchmark"])
    return bool((of_benchmark & (table["subset"] == MEAN)).any())


def _averaged(of_model: pd.DataFrame) -> set[str]:
    """Return the benchmarks whose balanced accuracy is in the mean over benchmarks."""
    scored = of_model[of_model["balanced_accuracy"].notna() & (of_model["benchmark"] != OVERALL)]
    return set(scored["benchmark"])


def _fill(table: pd.DataFrame, place: Any, figures: Mapping[str, float]) -> None:
    """Fill a row with published percentages as fractions.

    Where only the accuracies of the two classes are published, both classes have as many images.
    """
    accuracy = figures.get("accuracy")
    if accuracy is None and {"real_accuracy", "fake_accuracy"} <= set(figures):
        accuracy = (figures["real_accuracy"] + figures["fake_accuracy"]) / 2
    for name, value in zip(PUBLISHED_COLUMNS, (accuracy, figures.get("ap")), strict=True):
        if value is not None:
            table.loc[place, name] = value / 100


def _add_note(table: pd.DataFrame, place: Any, note: str) -> None:
    known = table.loc[place, "note"]
    table.loc[place, "note"] = f"{known}; {note}" if known else note
