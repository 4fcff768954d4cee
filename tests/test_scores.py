"""A file of scores, ours or another tool's -> a checked table; and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_scores import CALIBRATION

from evaluation.tables.scores import (
    COLUMNS,
    EPSILON,
    FORMAT,
    METADATA_KEY,
    DetectorEntry,
    ScoreTable,
    join_tables,
    read_scores,
)


def ours(path: Path, *, about: dict[str, Any] | None = None, **changes: list[Any]) -> Path:
    columns: dict[str, list[Any]] = {
        "uri": ["r1", "f1", "f2"],
        "content_sha256": ["a", "b", ""],
        "label": [0, 1, 1],
        "generator": ["", "gan", "gan"],
        "source": ["raise", "gan", "gan"],
        "benchmark": ["X"] * 3,
        "subsets": [["one", "two"], ["one"], ["two"]],
        "protocol": ["release"] * 3,
        "model": ["m"] * 3,
        "degradation": ["none"] * 3,
        "logit": [-2.0, 2.0, math.nan],
        "score": [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2)), math.nan],
        "width": [64] * 3,
        "height": [48] * 3,
        "format": ["PNG"] * 3,
        "num_bytes": [100, 200, 300],
        "error": ["", "", "damaged"],
    }
    table = pa.table(columns | changes)
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, **(about or {})}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_our_own_table(tmp_path: Path) -> None:
    about = {"models": {"m": {"path": "p", "sha256": "s", "threshold": 0.3}}, "benchmarks": {}}
    table = read_scores(ours(tmp_path / "scores.parquet", about=about))
    assert list(table.frame.columns) == list(COLUMNS)
    assert table.frame["subsets"].tolist() == [("one", "two"), ("one",), ("two",)]
    assert table.frame["protocol"].tolist() == ["release"] * 3
    assert table.frame["source"].tolist() == ["raise", "gan", "gan"]
    assert table.frame["logit"].tolist()[:2] == [-2.0, 2.0]
    assert table.frame["num_bytes"].tolist() == [100, 200, 300]
    assert math.isnan(table.frame["score"][2])
    assert (table.models, table.threshold("m"), table.threshold("other")) == (["m"], 0.3, 0.5)
    assert (table.calibration("m"), table.calibration("other")) == (None, None)
    about["models"]["m"]["calibration"] = asdict(CALIBRATION)
    assert read_scores(ours(tmp_path / "scores.parquet", about=about)).calibration("m") == CALIBRATION
    about["models"]["m"]["calibration"] = {"a": 1}
    with pytest.raises(ValueError, match=r"parquet, detector m: DetectorEntry: .* Calibration is missing"):
        read_scores(ours(tmp_path / "scores.parquet", about=about))


@pytest.mark.parametrize(
    "names", [("filename", "label", "prob"), ("image", "y_true", "score"), ("src", "CLASS", "Pred")]
)
def test_usual_names_of_a_score(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = csv(tmp_path / "spai.csv", ",".join(names) + "\na.png,0,0.25\nb.png,1,1.0\n")
    frame = read_scores(path).frame
    assert frame["uri"].tolist() == ["a.png", "b.png"]
    assert frame["label"].tolist() == [0, 1]
    assert frame["score"].tolist() == [0.25, 1.0]
    assert frame["logit"].tolist() == pytest.approx([math.log(1 / 3), math.log((1 - EPSILON) / EPSILON)])
    for name, value in {"model": "spai", "benchmark": "spai", "degradation": "none", "protocol": "all"}.items():
        assert frame[name].tolist() == [value] * 2
    assert frame["subsets"].tolist() == [("spai",)] * 2


def test_llr_is_a_logit(tmp_path: Path) -> None:
    frame = read_scores(csv(tmp_path / "x.csv", "filename,label,llr\na,real,-3\nb,fake,0\n")).frame
    assert frame["score"].tolist() == pytest.approx([1 / (1 + math.exp(3)), 0.5])
    assert frame["logit"].tolist() == [-3, 0]


def test_typ_names_the_generator_and_real_images_are_of_every_subset(tmp_path: Path) -> None:
    """The lists of ClipBased and B-Free; the column of a detector has its name."""
    text = "filename,typ,clipdet\na,real,-3\nb,dalle3,1\nc,firefly,2\n"
    frame = read_scores(csv(tmp_path / "x.csv", text), columns={"logit": "clipdet"}).frame
    assert frame["label"].tolist() == [0, 1, 1]
    assert frame["generator"].tolist() == frame["source"].tolist() == ["", "dalle3", "firefly"]
    assert frame["subsets"].tolist() == [("dalle3", "firefly"), ("dalle3",), ("firefly",)]


def test_columns_are_named_and_texts_stay_texts(tmp_path: Path) -> None:
    text = "name;x,prob,other,truth,generator,subsets\n1,0.1,-4,0,,p;q\n007,0.9,3,1,None,p\n"
    frame = read_scores(
        csv(tmp_path / "x.csv", text), columns={"uri": "name;x", "logit": "prob", "label": "truth"}
    ).frame
    assert frame["uri"].tolist() == ["1", "007"]
    assert frame["generator"].tolist() == ["", "None"]
    assert frame["subsets"].tolist() == [("p", "q"), ("p",)]
    # `prob` was said to be the logit, so it is not taken for the score.
    assert frame["score"].tolist() == pytest.approx([1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(-0.9))])


def test_tab_separated_and_parquet_of_another_tool(tmp_path: Path) -> None:
    tsv = csv(tmp_path / "x.tsv", "filename\tlabel\tscore\na\t0\t0.5\n")
    other = tmp_path / "y.parquet"
    pd.DataFrame({"path": ["a"], "target": [False], "probability": np.float32([0.5])}).to_parquet(other)
    for path in (tsv, other):
        frame = read_scores(path).frame
        assert (frame["uri"][0], frame["label"][0], frame["score"][0]) == ("a", 0, 0.5)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "a,label,score\nx,0,0.5\n",
            {},
            r"no column 'uri'; it has 'a', 'label', 'score'; name it with --columns uri=",
        ),
        ("uri,score\nx,0.5\n", {}, "no column 'label'"),
        ("uri,label\nx,1\n", {}, "neither a column 'score' nor 'logit'.*--columns score=THEIRS"),
        ("uri,label,score\nx,1,0.5\n", {"score": "p"}, r"no column 'p' \(--columns score=p\); it has 'uri'"),
        ("uri,label,score\nx,1,0.5\n", {"points": "score"}, "points=score: expected one of uri, content_sha256"),
        ("uri,label,score\nx,2,0.5\ny,1,0.5\n", {}, "label '2' in 1 rows; expected 0, 1, real or fake"),
        (
            "uri,label,score\nx,1,0.5\ny,1,\nz,0,nan\n",
            {},
            "no score in 2 rows without an error, the first of them 'y'",
        ),
        (
            "uri,label,score\nx,1,-3.5\n",
            {},
            r"score -3.5 of 'x', and 0 more, is outside of \[0, 1\].*logit=THEIRS",
        ),
        ("uri,label,score\nx,1,inf\n", {}, "outside"),
        ("uri,label,score\nx,1,high\n", {}, "column 'score' must hold numbers"),
        ("uri,label,score\n", {}, "has no rows"),
        ("", {}, "not a table that can be read"),
        ("uri,label,score\n,1,0.5\n", {}, "1 rows without the name of an image"),
        (
            "uri,label,score\nx,1,0.5\nx,1,0.5\n",
            {},
            "1 rows are there twice, the first of them 'x' .model 'x', degradation",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(csv(tmp_path / "x.csv", text), columns=columns)
    assert "\n" not in str(caught.value)


def test_no_such_file_and_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.parquet: no such file"):
        read_scores(tmp_path / "gone.parquet")
    with pytest.raises(ValueError, match="a folder"):
        read_scores(tmp_path)
    path = ours(tmp_path / "scores.parquet")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a table that can be read"):
        read_scores(path)
    with pytest.raises(ValueError, match="format 'gapl-scores-2' of scores; this version reads 'gapl-scores-1'"):
        read_scores(ours(tmp_path / "new.parquet", about={"format": "gapl-scores-2"}))


def test_the_same_image_may_be_scored_by_models_degraded_and_in_benchmarks(tmp_path: Path) -> None:
    text = "uri,label,score,model,degradation,benchmark\nx,1,0.5,m,none,A\nx,1,0.5,n,none,A\nx,1,0.5,m,jpeg:90,A\n"
    assert len(read_scores(csv(tmp_path / "x.csv", text + "x,1,0.5,m,none,B\n")).frame) == 4


def test_tables_are_joined(tmp_path: Path) -> None:
    found = {"X": {"absent": None, "missing_subsets": [], "note": "", "file_list_sha256": "1", "n_images": 3}}
    gone = {"X": {"absent": "not found"}, "Y": {"absent": "not found"}}
    known = {"path": "p", "sha256": "s", "threshold": 0.3}
    first = read_scores(ours(tmp_path / "1.parquet", about={"models": {"m": known}, "benchmarks": gone}))
    path = ours(tmp_path / "2.parquet", about={"models": {"n": known}, "benchmarks": found}, model=["n"] * 3)
    joined = join_tables([first, read_scores(path)])
    assert joined.models == ["m", "n"]
    assert len(joined.frame) == 6
    assert joined.about["benchmarks"]["X"] == found["X"]
    assert joined.about["benchmarks"]["Y"]["absent"] == "not found"
    assert joined.threshold("n") == 0.3


def test_tables_that_do_not_fit_together(tmp_path: Path) -> None:
    first = read_scores(ours(tmp_path / "1.parquet"))
    with pytest.raises(ValueError, match="the joined tables: 3 rows are there twice"):
        join_tables([first, first])
    with pytest.raises(ValueError, match="no table"):
        join_tables([])
    others = read_scores(ours(tmp_path / "2.parquet", uri=["x", "y", "z"])).frame
    a, b = (
        ScoreTable(frame, {}, {"m": DetectorEntry(sha, sha)}) for frame, sha in ((first.frame, "1"), (others, "2"))
    )
    with pytest.raises(ValueError, match="two detectors are called 'm': 1 and 2"):
        join_tables([a, b])
