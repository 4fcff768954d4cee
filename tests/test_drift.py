"""benchmarks.py drift: what changes is found, what does not is not; tables that cannot be compared are refused."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks
from evaluation.drift import two_sample
from evaluation.drift.drift import compare_properties, compare_streams
from evaluation.drift.judgement import Judgement
from evaluation.drift.label_first import choose, nearness
from evaluation.drift.newness import new_shares
from evaluation.drift.properties import OTHERS, Property, grouped
from evaluation.drift.stream import Stream, read_stream
from evaluation.intervals import wilson
from evaluation.tables.scores import FORMAT, METADATA_KEY, DetectorEntry
from gapl.results import SCHEMA, WARNINGS_JOINED, Method
from gapl.verdict import DecisionRule
from studies import drift as study
from tests.conftest import Finished, RunCli

RULE = DecisionRule(0.2, 0.7)
METHOD = Method(model="m.safetensors", model_sha256="ab" * 32, views="full", operating_point="")


def stream(scores: np.ndarray, **columns: Any) -> Stream:
    num = len(scores)
    images = {"path": [f"{i}.jpg" for i in range(num)], "sha256": "", "error": "", "score": scores}
    return Stream(Path("t"), Judgement("ab" * 32, "full", "", RULE), pd.DataFrame(images | columns), 0)


def mixture(num: int, fakes: float, seed: int = 0) -> np.ndarray:
    """Scores of real images and fakes, some of them unsure."""
    generator = np.random.default_rng(seed)
    is_fake = generator.random(num) < fakes
    return np.where(is_fake, generator.beta(6, 1, num), generator.beta(1, 6, num))


def result(name: str, score: float, **changed: Any) -> dict[str, Any]:
    """A row of a table of results."""
    row = {"schema": SCHEMA, "path": f"in/{name}.jpg", "sha256": "", "score": score, "logit": 0.0}
    label = str(RULE.labels(np.array([score]))[0])
    row |= {"label": label, "threshold": RULE.threshold, "real_below": RULE.real_below, "warnings": []}
    return row | asdict(METHOD) | {"duplicate_of": ""} | changed


def explained(score: float, distance: float, family: str) -> dict[str, Any]:
    unlike = {"distance": float(distance), "cut": 0.5, "is_unlike": bool(distance > 0.5)}
    named = {"name": family, "probabilities": {family: 1.0}} if score > RULE.threshold else None
    return {"explanation": {"unlike": unlike, "family": named, "in_words": []}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a table of results as its suffix says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    cells = [row | {"warnings": WARNINGS_JOINED.join(row["warnings"])} for row in rows]
    cells = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in cells]
    frame = pd.DataFrame(cells)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return path


def write_scores(path: Path, scores: np.ndarray, *, sha256: str = "ab" * 32, **columns: Any) -> Path:
    """Write a scores.parquet of a detector without calibration."""
    num = len(scores)
    rows = {"uri": [f"{path.stem}/{i}.png" for i in range(num)], "label": 0, "generator": "", "source": "s"}
    rows |= {"model": "m", "degradation": "none", "score": scores, "benchmark": "b", "error": ""}
    rows |= {"format": "JPEG", "width": 640, "height": 480, "content_sha256": ""}
    about = {"format": FORMAT, "models": {"m": asdict(DetectorEntry("m.safetensors", sha256, threshold=0.7))}}
    table = pa.Table.from_pandas(pd.DataFrame(rows | columns), preserve_index=False)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()}), path)
    return path


def drift(run_cli: RunCli, *arguments: object) -> Finished:
    return run_cli(benchmarks.main, "drift", *arguments)


# ---------------------------------------------------------------------------------------------------------
# Tests of two samples


def test_p_of_a_share_is_that_of_the_exact_test() -> None:
    """Of 20 images 5 are unsure, all of them now: 2 ways of 15504 are as extreme, as C(10, 5) of C(20, 5) are."""
    before, now = np.array(["no"] * 10), np.array(["yes"] * 5 + ["no"] * 5)
    p = two_sample.permutation_p(grouped(Property("unsure", before, now)), level=0.001, seed=0)
    assert p == pytest.approx(2 * 252 / 15504, rel=0.3)


def test_holm_by_hand() -> None:
    assert two_sample.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Two properties, two hundred and fifty pairs of halves, and an alpha of a tenth: the rate is not above it."""
    scores = mixture(300, 0.4)
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(250):
        order = generator.permutation(300)
        halves = order[:150], order[150:]
        unsure = RULE.unsure(scores).astype(str)
        found = [Property(str(i), *(each[half] for half in halves)) for i, each in enumerate((scores, unsure))]
        alarms += any(each.changed for each in compare_properties(found, level=0.1))
    low, high = wilson(alarms, 250)
    assert low <= 0.1
    assert high >= 0.03  # it is no test that never finds anything


def test_clusters_that_are_alike_are_no_change() -> None:
    """Ten images of each of 30 uploaders: as images the halves nearly always differ, as clusters hardly ever."""
    generator, alarms = np.random.default_rng(0), np.zeros(2)
    cluster = np.repeat(np.arange(15), 10)
    for _ in range(40):
        before, now = (np.repeat(generator.random(15), 10) + generator.random(150) / 100 for _ in range(2))
        for i, clusters in enumerate((None, (cluster, cluster))):
            found = compare_properties([Property("score", before, now, clusters)], level=0.05)
            alarms[i] += found[0].changed
    assert alarms[0] >= 20
    assert alarms[1] <= 6


def test_effects_have_intervals() -> None:
    generator = np.random.default_rng(0)
    before, now = generator.normal(size=400), generator.normal(size=300) + 0.5
    found = two_sample.higher_now(before, now)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx((now[:, None] > before).mean())
    apart = two_sample.higher_now(np.zeros(4), np.ones(4))
    assert (apart.value, apart.high) == (1, 1)
    assert apart.low < 0.7  # of four images little is sure
    points = two_sample.more_now(np.arange(100) < 10, np.arange(100) < 30)
    assert points.value == pytest.approx(0.2)
    assert 0.05 < points.low < 0.15 < 0.25 < points.high < 0.35
    clusters = (np.arange(100) // 10, np.arange(100) // 10)
    wider = two_sample.more_now(np.arange(100) < 10, np.arange(100) < 30, clusters=clusters)
    assert wider.high - wider.low > 2 * (points.high - points.low)


def test_rare_names_are_one_group() -> None:
    names = np.array([f"kind {i}" for i in range(200)] + ["kind 0"] * 50)
    groups = grouped(Property("family", names, names))
    assert len(groups.names_K) == two_sample.MAX_GROUPS
    assert (groups.names_K[0], groups.names_K[-1]) == ("kind 0", OTHERS)
    assert groups.before_K.sum() == groups.now_K.sum() == 250


# ---------------------------------------------------------------------------------------------------------
# Streams


def test_the_same_table_twice_is_no_change() -> None:
    found = compare_streams(stream(mixture(200, 0.5)), stream(mixture(200, 0.5)))
    assert not found.changed
    assert {each.p for each in found.changes} == {1.0}


def test_the_property_that_moved_is_named() -> None:
    scores = mixture(400, 0.5)
    sizes = {"side": np.full(400, 640.0), "format": "JPEG"}
    more_fakes = compare_streams(stream(scores, **sizes), stream(mixture(400, 0.8, seed=1), **sizes))
    assert more_fakes.changes[0].property.name == "score"
    assert more_fakes.changes[0].changed
    assert more_fakes.changes[0].effect.low > 0.5
    assert [each.property.name for each in more_fakes.changes if each.changed] == ["score"]
    formats = np.where(np.arange(400) < 80, "WEBP", "JPEG")
    other = compare_streams(stream(scores, **sizes), stream(scores, **sizes | {"format": formats}))
    assert [each.property.name for each in other.changes if each.changed] == ["format"]
    assert other.changes[0].moved in ("WEBP", "JPEG")
    assert abs(other.changes[0].effect.value) == pytest.approx(0.2)


def test_more_looks_take_a_surer_change() -> None:
    before, now = stream(mixture(150, 0.5)), stream(mixture(150, 0.66, seed=4))
    once, weekly = (compare_streams(before, now, looks=looks) for looks in (1, 520))
    assert once.changed
    assert not weekly.changed
    assert weekly.level == pytest.approx(0.01 / 520)


def test_what_to_label_first_is_unsure_far_and_diverse() -> None:
    scores = np.array([0.01, 0.5, 0.5, 0.5, 0.99, 0.6])
    distance = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.1])
    kinds = {"format": ["JPEG", "JPEG", "JPEG", "JPEG", "JPEG", "PNG"], "distance": distance}
    before = stream(mixture(50, 0.5), distance=np.linspace(0, 0.5, 50), format="JPEG")
    first = choose(before, stream(scores, **kinds), count=4)
    assert {each.path for each in first[:3]} >= {"5.jpg", "4.jpg"}  # the other format, and the far one
    assert sum(each.path in ("1.jpg", "2.jpg", "3.jpg") for each in first[:3]) == 1  # they are alike
    reasons = {each.path: each.reason for each in first}
    assert reasons["4.jpg"] == "farther from training than 100% of the images before"
    assert reasons["5.jpg"] == "unsure"
    assert len(choose(before, stream(scores, **kinds), count=50)) == 6
    assert nearness(np.array([0, 0.1, 0.2, 0.7, 1]), RULE).tolist() == [0, 0.5, 1, 1, 0]


def test_what_was_rarer_before_is_labelled_first() -> None:
    """Sure fakes of a size that was rare: neither unsure nor far, but new."""
    generator = np.random.default_rng(9)
    sides = [generator.choice([512.0, 768.0, 1024.0], num, p=[0.6, 0.38, 0.02]) for num in (300, 300)]
    is_new = np.arange(300) < 60
    scores = np.where(is_new, 0.99, mixture(300, 0.5, seed=1))
    before = stream(mixture(300, 0.5), side=sides[0])
    now = stream(scores, side=np.where(is_new, 1024.0, sides[1]))
    share_M = new_shares(before, now)
    assert share_M[is_new].mean() > 0.8
    assert share_M[~is_new].mean() < 0.1
    first = choose(before, now, count=50)
    listed = [each for each in first if is_new[int(each.path.removesuffix(".jpg"))]]
    assert len(listed) >= 25  # every second place
    assert {each.reason for each in listed} == {"of a kind that there was less of before"}
    assert len({each.path for each in first}) == 50


def test_nothing_is_new_where_nothing_has_changed() -> None:
    before, now = stream(mixture(400, 0.5)), stream(mixture(400, 0.5, seed=1))
    assert not new_shares(before, now).any()
    assert not new_shares(stream(mixture(19, 0.5)), now).any()


def test_small_streams_that_differ_are_told_apart() -> None:
    assert new_shares(stream(mixture(24, 0.0)), stream(mixture(24, 1.0, seed=1))).mean() > 0.5


@pytest.mark.parametrize(("few", "many"), [(1, 1), (1, 10), (10, 1), (4, 5), (6, 10)])
def test_few_clusters_make_a_list_all_the_same(few: int, many: int) -> None:
    before, now = (
        stream(np.full(100, score), cluster=[f"{score}/{i % num}" for i in range(100)])
        for num, score in ((few, 0.1), (many, 0.9))
    )
    assert new_shares(before, now).any() == (min(few, many) >= 5)
    assert len(choose(before, now, count=7)) == 7


# ---------------------------------------------------------------------------------------------------------
# Tables


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json", "jsonl"])
def test_tables_of_results_tell_what_they_hold(run_cli: RunCli, tmp_path: Path, suffix: str) -> None:
    scores, far = mixture(300, 0.5), np.random.default_rng(1).random(300)
    small = ["smaller than 224 px (10 x 12 px) and enlarged: less certain"]
    before = [result(f"b{i}", s, **explained(s, far[i] / 2, "SDXL")) for i, s in enumerate(scores)]
    now = [
        result(f"n{i}", s, warnings=small if i < 90 else [], **explained(s, far[i], "Google" if i % 2 else "SDXL"))
        for i, s in enumerate(scores)
    ]
    now.append({**result("gone", 0.5), "error": "no image"})
    for name in ("score", "logit", "label", "threshold", "real_below"):
        now[-1].pop(name)
    tables = [write(tmp_path / f"{name}.{suffix}", rows) for name, rows in (("before", before), ("now", now))]
    out = tmp_path / "out"
    done = drift(run_cli, *tables, "--out", out, "--fail-on-change", "--label-first", 7)
    assert done.code == 3, done.err
    moved = {"distance from training", "family of generators", "warnings"}
    found = json.loads((out / "drift.json").read_text())
    assert {each["name"] for each in found["properties"] if each["changed"]} == moved
    assert (found["changed"], found["now"]["unreadable"], found["not_compared"]) == (
        True,
        1,
        ["short side in px", "format"],
    )
    (warnings,) = [each for each in found["properties"] if each["name"] == "warnings"]
    assert warnings["now"] == pytest.approx(0.3)
    with (out / "label_first.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [each["filename"] for each in rows] == [each["path"] for each in found["label_first"]]
    assert len(rows) == 7
    assert rows[0]["filename"].startswith("in/n")
    page = (out / "drift.html").read_text()
    assert "Changed:" in page
    assert "smaller than N px" in page
    assert "is there already" in drift(run_cli, *tables, "--out", out).only_error()
    assert drift(run_cli, *tables, "--out", out, "--overwrite").code == 0


def test_explanations_of_any_length_are_read(run_cli: RunCli, tmp_path: Path) -> None:
    rows = [result(str(i), s, explanation={"in_words": ["x" * 200_000]}) for i, s in enumerate(mixture(9, 0.5))]
    table = write(tmp_path / "t.csv", rows)
    done = drift(run_cli, table, table)
    assert done.code == 0, done.err


def test_copies_count_once_and_unreadable_images_are_a_property(run_cli: RunCli, tmp_path: Path) -> None:
    scores = mixture(60, 0.5)
    before = [result(str(i), s, sha256=f"{i:064x}") for i, s in enumerate(scores)]
    copies = [result(f"copy {i}", 0.5, sha256=f"{7:064x}") for i in range(500)]  # of an image that is there
    tables = write(tmp_path / "b.jsonl", before), write(tmp_path / "n.jsonl", [*before, *copies])
    done = drift(run_cli, *tables, "--fail-on-change")
    assert done.code == 0, done.out
    assert "500 duplicates left out" in done.out
    assert "60 images are in both" in done.out
    errors = [
        {"schema": SCHEMA, "path": f"e{i}", "sha256": "", "error": "damaged", **asdict(METHOD)} for i in range(20)
    ]
    done = drift(run_cli, tables[0], write(tmp_path / "e.jsonl", [*before, *errors]), "--fail-on-change")
    assert done.code == 3
    assert "CHANGED: unreadable" in done.out


def test_tables_of_scores_tell_format_and_size(run_cli: RunCli, tmp_path: Path) -> None:
    scores = mixture(200, 0.5)
    before = write_scores(tmp_path / "before.parquet", scores)
    sizes = np.where(np.arange(200) < 60, 320, 640)
    now = write_scores(tmp_path / "now.parquet", scores, width=sizes, height=sizes)
    done = drift(run_cli, before, now, "--fail-on-change")
    assert done.code == 3
    assert "CHANGED: short side in px" in done.out
    assert drift(run_cli, before, before, "--fail-on-change").code == 0
    assert "too few to find any change" in drift(run_cli, before, now, "--cluster", "source").only_error()


def test_a_table_of_each_kind_is_compared_by_what_both_hold(run_cli: RunCli, tmp_path: Path) -> None:
    scores = mixture(100, 0.5)
    same = {"threshold": 0.7, "real_below": 0.7}
    results = write(tmp_path / "r.csv", [result(str(i), s, **same) for i, s in enumerate(scores)])
    done = drift(run_cli, write_scores(tmp_path / "s.parquet", scores), results)
    assert done.code == 0, done.err
    assert "not both tables have it" in done.out
    assert "format" in done.out


def test_embeddings_make_the_list_diverse(tmp_path: Path) -> None:
    vectors = [[1.0, 0.0]] * 30 + [[0.0, 1.0]]
    table = write_scores(tmp_path / "s.parquet", np.full(31, 0.7), embedding=vectors)
    read = read_stream(table)
    assert {each.path for each in choose(read, read, count=2)} >= {"s/30.png"}


# ---------------------------------------------------------------------------------------------------------
# Refusals


def test_tables_that_cannot_be_compared_are_refused(run_cli: RunCli, tmp_path: Path) -> None:
    rows = [result(str(i), s) for i, s in enumerate(mixture(40, 0.5))]
    table = write(tmp_path / "t.jsonl", rows)
    others = {
        "of different detectors, abababababab and cdcdcdcdcdcd": {"model_sha256": "cd" * 32},
        "of different views, full and fast": {"views": "fast"},
        "of different operating points": {"operating_point": "fpr1", "threshold": 0.9, "real_below": 0.9},
    }
    for message, changed in others.items():
        other = write(tmp_path / "o.parquet", [row | changed for row in rows])
        assert message in drift(run_cli, table, other).only_error()
    mixed = write(tmp_path / "mixed.jsonl", [*rows, rows[0] | {"views": "fast"}])
    assert "of several detectors, options" in drift(run_cli, table, mixed).only_error()
    scores = write_scores(tmp_path / "s.parquet", mixture(40, 0.5), sha256="cd" * 32)
    assert "of different detectors" in drift(run_cli, table, scores).only_error()
    assert "has no scores of 'x'" in drift(run_cli, scores, scores, "--model", "x").only_error()
    (tmp_path / "tool.csv").write_text("filename,label,score\na.png,0,0.5\n")
    assert "does not say which detector file" in drift(run_cli, tmp_path / "tool.csv", scores).only_error()


def test_damaged_tables_are_refused(run_cli: RunCli, tmp_path: Path) -> None:
    rows = [result(str(i), s) for i, s in enumerate(mixture(40, 0.5))]
    table = write(tmp_path / "t.parquet", rows)
    for name, content in {
        "empty.csv": b"",
        "cut.parquet": table.read_bytes()[:-200],
        "noise.csv": b"\xff\xfe\x00\x01",
        "list.json": b"[1, 2]",
        "half.jsonl": json.dumps(rows[0]).encode()[:50],
        "deep.json": b"[" * 100_000,
        "none.json": b"[]",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert name in drift(run_cli, table, tmp_path / name).only_error()
    for changed, message in {
        ("score", 2.0): "in row 2, its score is 2.0, outside of [0, 1]",
        ("schema", "gapl-result-9"): "its schema is 'gapl-result-9', not gapl-result-1",
        ("sha256", "x"): "'x' is no SHA-256",
    }.items():
        wrong = write(tmp_path / "wrong.jsonl", [rows[0], rows[1] | dict([changed])])
        assert message in drift(run_cli, table, wrong).only_error()
    lacking = write(tmp_path / "lacking.parquet", [{k: v for k, v in row.items() if k != "path"} for row in rows])
    assert "it has no 'path'" in drift(run_cli, table, lacking).only_error()
    errors = [{"schema": SCHEMA, "path": "e", "sha256": "", "error": "damaged", **asdict(METHOD)}]
    assert (
        "none of its 1 images has a verdict"
        in drift(run_cli, table, write(tmp_path / "e.jsonl", errors)).only_error()
    )
    assert "no such file" in drift(run_cli, table, tmp_path / "gone.csv").only_error()


def test_tiny_tables_and_wrong_options_are_refused(run_cli: RunCli, tmp_path: Path) -> None:
    rows = [result(str(i), s) for i, s in enumerate(mixture(9, 0.5))]
    tiny, table = write(tmp_path / "tiny.csv", rows[:3]), write(tmp_path / "t.csv", rows)
    message = drift(run_cli, tiny, tiny).only_error()
    assert "have 3 and 3 different images with a verdict: too few to find any change" in message
    assert "from 6 in each on" in message
    done = drift(run_cli, table, table)
    assert done.code == 0, done.err
    assert "in each table" in done.out
    for options, expected in (
        (("--alpha", 0), "--alpha 0; expected a rate"),
        (("--looks", 0), "--looks 0; expected"),
        (("--label-first", -1), "--label-first -1; expected"),
        (("--model", "m"), "--model is for tables of scores"),
        (("--cluster", "source"), "does not name a source"),
    ):
        assert expected in drift(run_cli, table, table, *options).only_error()


def test_the_study_measures_alarms_and_delay(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LOOKS", (50, 200))
    monkeypatch.setattr(study, "LISTED_OF", 100)
    is_fake = np.arange(120) % 2
    generators = np.where(is_fake, np.where(np.arange(120) < 40, "new", "old"), "")
    scores = np.where(generators == "new", 0.99, mixture(120, 0.3))
    table = write_scores(
        tmp_path / "s.parquet",
        scores,
        label=is_fake,
        generator=generators,
        source=[f"s{i % 20}" for i in range(120)],
    )
    options = ("--out", tmp_path / "out", "--pairs", 4, "--draws", 2, "--images", 100)
    done = run_cli(study.main, table, *options)
    assert done.code == 0, done.err
    lines = (tmp_path / "out/drift.md").read_text().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:5]] == ["4"] * 3
    assert lines[-1].startswith("| 20% | ")
    assert lines[-1].count("[") == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}', "'a' is no row"),
        ("[1, 2]", "'1' is no row"),
        ('[{"score": 1' + "0" * 400 + "}]", "in row 1, "),
    ],
)
def test_json_that_is_no_table_is_refused_in_a_line(
    text: str, reason: str, tmp_path: Path, run_cli: RunCli
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    assert reason in run_cli(benchmarks.main, "drift", path, path).only_error()


def test_a_table_that_is_compared_is_not_replaced(tmp_path: Path, run_cli: RunCli) -> None:
    path = tmp_path / "drift.json"
    path.write_text("[]", encoding="utf-8")
    given = ("drift", path, path, "--out", tmp_path, "--overwrite")
    assert "is one of the tables that are compared" in run_cli(benchmarks.main, *given).only_error()
    assert "is a file; expected a folder" in run_cli(benchmarks.main, *given[:3], "--out", path).only_error()
    assert "1 to 1000000" in run_cli(benchmarks.main, *given[:3], "--looks", 10**7).only_error()
