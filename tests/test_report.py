"""Scores -> the rows of a table, the published figures beside them, and text, CSV, Markdown, LaTeX."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.intervals import FIGURES, bootstrap
from evaluation.tables.layout import WIDTH, escape_latex, to_latex, to_markdown, to_text
from evaluation.tables.published import add_published, published_table, read_published
from evaluation.tables.report import COLUMNS, make_table, write_tables
from evaluation.tables.scores import DetectorEntry, ScoreTable

Pair = tuple[str, str]


def scored(benchmark: str, subsets: dict[str, str], **scores: float | str) -> pd.DataFrame:
    """Images called r... are real images, f... are fakes; a text instead of a score is an error."""
    rows = []
    for uri, value in scores.items():
        names = tuple(name for name, members in subsets.items() if uri in members.split())
        row: dict[str, Any] = {"uri": uri, "label": int(uri[0] == "f"), "subsets": names, "error": ""}
        row["score"] = math.nan if isinstance(value, str) else value
        rows.append(row | {"error": value if isinstance(value, str) else ""})
    frame = pd.DataFrame(rows).assign(
        benchmark=benchmark, model="m", degradation="none", protocol="all", source=""
    )
    return frame.assign(logit=np.log(frame["score"] / (1 - frame["score"])))


TWO = scored("Two", {"a": "r1 r2 f1 f2", "b": "r1 r2 f3 f4"}, r1=0.1, r2=0.6, f1=0.9, f2=0.9, f3=0.2, f4="damaged")
ONE = scored("One", {"One": "r5 f5"}, r5=0.2, f5=0.9)
FAKES = scored("Fakes", {"x": "f6", "y": "f7"}, f6=0.9, f7=0.1)
ABOUT = {"Two": {"missing_subsets": ["c", "d"]}, "Gone": {"absent": "not found"}, "One": {}, "Fakes": {}}


def score_table(*frames: pd.DataFrame, about: dict[str, Any] | None = None, threshold: float = 0.5) -> ScoreTable:
    detectors = {"m": DetectorEntry("", "", threshold=threshold), "n": DetectorEntry("", "", threshold=0.95)}
    return ScoreTable(pd.concat(frames, ignore_index=True), {"benchmarks": about or {}}, detectors)


@pytest.fixture
def table() -> pd.DataFrame:
    """A benchmark of two subsets that share real images, a single one, one of fakes only, one that is absent."""
    return make_table(score_table(TWO, ONE, FAKES, about=ABOUT))


def figures(table: pd.DataFrame, place: Pair, *columns: str) -> list[float]:
    of_row = table[(table["benchmark"] == place[0]) & (table["subset"] == place[1])]
    return [float(of_row[column].item()) for column in columns]


def notes_of(table: pd.DataFrame) -> dict[Pair, str]:
    return dict(zip(zip(table["benchmark"], table["subset"], strict=True), table["note"], strict=True))


# ---------------------------------------------------------------------------------------------------------
# Rows


def test_rows_of_the_table(table: pd.DataFrame) -> None:
    assert list(table.columns) == list(COLUMNS)
    assert list(zip(table["benchmark"], table["subset"], strict=True)) == [
        ("Two", "a"),
        ("Two", "b"),
        ("Two", "mean"),
        ("Two", "all images"),
        ("One", "One"),
        ("Fakes", "x"),
        ("Fakes", "y"),
        ("Fakes", "mean"),
        ("Fakes", "all images"),
        ("Gone", "-"),
        ("MEAN", "mean"),
    ]
    assert set(table["protocol"].dropna()) == {"all"}


def test_figures_of_the_table(table: pd.DataFrame) -> None:
    counts_and_accuracy = ("n_real", "n_fake", "real_accuracy", "fake_accuracy", "balanced_accuracy")
    assert figures(table, ("Two", "mean"), "n_real", "n_fake") == [2, 3]
    assert figures(table, ("Two", "a"), *counts_and_accuracy) == [2, 2, 0.5, 1, 0.75]
    assert figures(table, ("Two", "b"), *counts_and_accuracy) == [2, 1, 0.5, 0, 0.25]
    mean = figures(table, ("Two", "mean"), "balanced_accuracy", "accuracy")
    assert mean == pytest.approx([0.5, (3 / 4 + 1 / 3) / 2])
    # The real images, which both subsets are scored against, count once.
    pooled = figures(table, ("Two", "all images"), *counts_and_accuracy)
    assert pooled == pytest.approx([2, 3, 0.5, 2 / 3, 7 / 12])
    # Of the two benchmarks with both classes: a recall of fakes is no accuracy.
    assert figures(table, ("MEAN", "mean"), "balanced_accuracy") == pytest.approx([(0.5 + 1) / 2])
    assert figures(table, ("Fakes", "mean"), "fake_accuracy") == [0.5]


def test_three_kinds_of_threshold() -> None:
    table = make_table(score_table(TWO, threshold=0.15), intervals=False)
    kinds = (
        "threshold",
        "balanced_accuracy",
        "balanced_accuracy_at_0.5",
        "balanced_accuracy_oracle",
        "oracle_gap",
    )
    assert figures(table, ("Two", "a"), *kinds) == [0.15, 0.75, 0.75, 1, 0.25]
    assert figures(table, ("Two", "a"), "threshold_oracle") == [0.9]
    assert figures(table, ("Two", "b"), *kinds) == [0.15, 0.75, 0.25, 0.75, 0]
    assert figures(table, ("Two", "mean"), *kinds) == [0.15, 0.75, 0.5, 0.875, 0.125]
    assert figures(table, ("Two", "mean"), "accuracy_at_0.5") == pytest.approx([(3 / 4 + 1 / 3) / 2])
    assert math.isnan(figures(table, ("Two", "mean"), "threshold_oracle")[0])
    assert table["auroc_low"].isna().all()


def test_what_is_missing_is_said(table: pd.DataFrame) -> None:
    notes = notes_of(table)
    assert notes["Two", "mean"] == notes["Two", "all images"] == "without c, d"
    assert notes["Two", "b"] == "shared real images"
    assert notes["Gone", "-"] == "not found"
    expected = "of Two, One; fakes only, not in the mean: Fakes; absent: Gone; not all subsets of Two"
    assert notes["MEAN", "mean"] == expected
    unreadable = table.set_index(["benchmark", "subset"])["unreadable"]
    assert unreadable["Two", "a"] == 0
    assert unreadable["Two", "b"] == unreadable["Two", "mean"] == unreadable["Two", "all images"] == 1
    assert unreadable["MEAN", "mean"] == 1


def test_subset_of_fakes_or_of_nothing_readable_is_in_no_mean() -> None:
    frame = scored("B", {"a": "r1 f1", "b": "f2", "c": "r3 f3"}, r1=0.1, f1=0.9, f2=0.1, r3="x", f3="x")
    table = make_table(score_table(frame))
    assert figures(table, ("B", "mean"), "balanced_accuracy", "fake_accuracy", "n_fake") == [1, 1, 2]
    note = "fakes only, not in the mean: b; nothing readable, not in the mean: c"
    assert notes_of(table)["B", "mean"] == note


def test_single_benchmark_has_no_mean_and_says_what_is_missing() -> None:
    about = {"One": {"missing_subsets": ["Other"]}, "Gone": {"absent": "not found"}}
    table = make_table(score_table(ONE, about=about))
    assert table["benchmark"].tolist() == ["One", "Gone"]
    assert notes_of(table)["One", "One"] == "without Other"


def test_degraded_images_are_not_in_it_and_models_are_apart() -> None:
    other = ONE.assign(model="n")
    degraded = [ONE.assign(degradation="jpeg:50", score=0.5), TWO.assign(degradation="jpeg:50")]
    table = make_table(score_table(ONE, other, *degraded))
    assert table["model"].tolist() == ["m", "m", "n", "n"]
    assert table["balanced_accuracy"].tolist()[::2] == [1, 0.5]  # at 0.5 and at 0.95
    assert table["note"].tolist()[1::2] == ["no scores of undegraded images"] * 2
    assert to_text(table).splitlines()[0].split()[0] == "model"


# ---------------------------------------------------------------------------------------------------------
# Intervals


def many(benchmark: str, subset: str, *, seed: int, num: int = 60, threshold: float = 0.5) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    scores = np.clip(generator.normal(threshold, 0.2, size=num) + np.arange(num) % 2 * 0.2, 0.01, 0.99)
    named = {f"{'rf'[i % 2]}{benchmark}{subset}{i}": float(score) for i, score in enumerate(scores)}
    return scored(benchmark, {subset: " ".join(named)}, **named)


def test_intervals_are_of_the_same_images_and_seed() -> None:
    frame = many("B", "a", seed=0)
    table = make_table(score_table(frame), seed=3)
    rows = frame.sort_values("uri")
    uris, arrays = rows["uri"].tolist(), (rows["label"].to_numpy(), rows["score"].to_numpy())
    expected = bootstrap(*arrays, threshold=0.5, uris_N=uris, seed=3).intervals()
    for name in FIGURES:
        assert figures(table, ("B", "a"), f"{name}_low", f"{name}_high") == pytest.approx(expected[name])
    assert table["interval_of"].tolist() == ["images"]


def test_interval_of_a_mean_is_narrower_but_not_for_shared_real_images() -> None:
    frame = pd.concat([many("B", "a", seed=0), many("B", "b", seed=1)])
    shared = frame[~((frame["label"] == 0) & frame["subsets"].isin([("b",)]))].copy()
    shared["subsets"] = [
        ("a", "b") if label == 0 else s for label, s in zip(shared["label"], shared["subsets"], strict=True)
    ]
    widths = []
    for each in (frame, shared):
        table = make_table(score_table(each))
        low, high = figures(table, ("B", "mean"), "real_accuracy_low", "real_accuracy_high")
        of_subset = figures(table, ("B", "a"), "real_accuracy_low", "real_accuracy_high")
        widths.append((high - low) / (of_subset[1] - of_subset[0]))
    assert widths[0] == pytest.approx(1 / math.sqrt(2), abs=0.15)
    assert widths[1] == pytest.approx(1)


def test_sources_are_drawn_where_there_are_enough() -> None:
    frame = many("B", "a", seed=0)
    frame["source"] = [f"{label} {i // 2 % 5}" for i, label in enumerate(frame["label"])]
    assert make_table(score_table(frame))["interval_of"].tolist() == ["sources"]


# ---------------------------------------------------------------------------------------------------------
# Published figures


def test_published_means_are_those_of_the_benchmarks() -> None:
    """The overall mean of a method is the unweighted mean of its six, as far as the digits go."""
    published = read_published()
    for method in published["methods"].values():
        assert set(method["benchmarks"]) == set(published["benchmarks"])
        for name in ("accuracy", "ap"):
            mean = np.mean([figures[name] for figures in method["benchmarks"].values()])
            assert method["mean"][name] == pytest.approx(mean, abs=0.1)


def reported(
    benchmark: str, subsets: list[str], *, num: int, protocol: str = "all", **columns: Any
) -> pd.DataFrame:
    """Rows of a report with figures that do not matter."""
    named = [*subsets, "mean", "all images"] if len(subsets) > 1 else subsets
    table = pd.DataFrame({"subset": named}).assign(model="m", benchmark=benchmark, protocol=protocol, note="")
    is_total = table["subset"].isin(["mean", "all images"])
    counts = np.where(is_total, num * len(subsets), num)
    table = table.assign(n_real=counts, n_fake=counts, balanced_accuracy=0.8, ap=0.9)
    return table.assign(**({"accuracy_at_0.5": 0.7} | columns))


GENIMAGE = ["Midjourney", "SDv1.4", "SDv1.5", "ADM", "GLIDE", "Wukong", "VQDM", "BigGAN"]


@pytest.mark.parametrize(("protocol", "num"), [("all", 6000), ("release", 1000)])
def test_published_figures_stand_beside_the_same_images(protocol: str, num: int) -> None:
    table = add_published(reported("GenImage", GENIMAGE, num=num, protocol=protocol), missing_subsets={})
    assert figures(table, ("GenImage", "mean"), "published_accuracy", "published_ap") == pytest.approx(
        [0.967, 0.996]
    )
    assert figures(table, ("GenImage", "ADM"), "published_accuracy") == pytest.approx([0.95])
    assert math.isnan(figures(table, ("GenImage", "all images"), "published_accuracy")[0])
    assert set(table["note"]) == {""}
    beside = published_table(table)
    assert beside["method"].tolist() == ["m (ours)", "GAPL", "Community Forensics", "B-Free", "D3"]
    assert beside["accuracy"].tolist() == pytest.approx([0.7, 0.967, 0.84, 0.873, 0.954])


@pytest.mark.parametrize(
    ("changes", "missing", "reason"),
    [
        ({"num": 6000}, ["Wukong"], "1 of 8 subsets are missing"),
        ({"subsets": GENIMAGE[:5], "num": 6000}, [], "5 of 8 subsets"),
        ({"num": 6000, "protocol": "mine"}, [], "protocol mine"),
        ({"num": 100}, [], "800 of 48,000 real images"),
        ({"num": 100, "protocol": "release"}, [], "Midjourney has 100 images of a class, the paper 1,000 or more"),
    ],
)
def test_why_published_figures_are_left_out(changes: dict[str, Any], missing: list[str], reason: str) -> None:
    rows = reported("GenImage", **({"subsets": GENIMAGE} | changes))
    table = add_published(rows, missing_subsets={"GenImage": missing})
    assert math.isnan(figures(table, ("GenImage", "mean"), "published_accuracy")[0])
    assert notes_of(table)["GenImage", "mean"] == f"published figures left out: {reason}"
    assert published_table(table).empty


def test_published_mean_is_of_its_six_benchmarks() -> None:
    every = [
        reported(
            name,
            [f"{name} {i}" for i in range(size["subsets"])],
            num=max(size["n_real"], size["n_fake"]) // size["subsets"],
        )
        for name, size in read_published()["benchmarks"].items()
    ]
    overall = reported("MEAN", ["mean"], num=1)
    table = add_published(pd.concat([*every, overall], ignore_index=True), missing_subsets={})
    assert figures(table, ("MEAN", "mean"), "published_accuracy", "published_ap") == pytest.approx(
        [0.9043, 0.9492]
    )
    assert len(published_table(table)) == 7 * 5
    other = reported("WildRF", ["reddit"], num=10)
    table = add_published(pd.concat([*every, other, overall], ignore_index=True), missing_subsets={})
    assert math.isnan(figures(table, ("MEAN", "mean"), "published_accuracy")[0])
    assert notes_of(table)["MEAN", "mean"] == "published mean left out: it is of other benchmarks"


# ---------------------------------------------------------------------------------------------------------
# Written


def test_text_fits_and_has_blanks_for_what_is_not_defined(table: pd.DataFrame) -> None:
    lines = to_text(table).splitlines()
    heading = lines[0].split()
    assert heading[:2] == ["benchmark", "subset"]
    assert "at_0.5" not in heading  # the model's threshold is 0.5
    assert {"bal_acc", "oracle", "auroc_95%", "unread"} <= set(heading)
    assert lines[11].startswith("[1] of Two, One; fakes only")
    assert lines[-1] == "not found: Gone"
    assert "nan" not in to_text(table).lower()
    assert "0.750" in lines[1]
    assert max(map(len, lines)) <= WIDTH


def test_written_tables(table: pd.DataFrame, tmp_path: Path) -> None:
    write_tables(table, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "metrics.csv",
        "metrics.md",
        "metrics.tex",
    ]
    read = pd.read_csv(tmp_path / "new" / "metrics.csv", dtype={"n_real": "Int64"})
    assert list(read.columns) == list(COLUMNS)
    assert figures(read, ("MEAN", "mean"), "balanced_accuracy") == [0.75]
    lines = (tmp_path / "new" / "metrics.md").read_text().splitlines()
    assert len(lines) == 2 + len(table)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_names_are_escaped(table: pd.DataFrame) -> None:
    assert escape_latex("50% of a_b & c\\d {x}") == r"50\% of a\_b \& c\textbackslash{}d \{x\}"
    named = table.assign(benchmark="A_B & 100%|", note="")
    latex, markdown = to_latex(named), to_markdown(named)
    assert r"A\_B \& 100\%| & a & 2 & 2 &" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"n\_real", r"auroc\_95\%"))
    body = latex.splitlines()[4:-2]
    assert {line.replace(r"\&", "").count("&") for line in body} == {latex.splitlines()[2].count("&")}
    assert "A_B & 100%\\|" in markdown
