"""studies/open_corpus.py: shares by hand, kinds of images, forms, the control of size and format, sheets."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from example_scores import CALIBRATION

from data.open_corpus.collection import COLUMNS, image_name
from data.open_corpus.kinds import style_of
from data.open_corpus.listing import PICTURE_COLUMNS, REPOSITORY_COLUMNS, Origin, Picture
from evaluation.tables.scores import DetectorEntry, ScoreTable
from gapl.labels import Label
from studies import control, groups, open_corpus, sheet

if TYPE_CHECKING:
    from conftest import MakeImage, RunCli

# Called fake from .55 on; unsure from .4 to .6.
DETECTORS = {"ours": DetectorEntry("", "", threshold=0.55, calibration=CALIBRATION)}
REALS = {"portrait_a": (0.1, 0.5), "portrait_b": (0.9,), "drawing_c": (0.7, 0.2)}
FAKES = {"owner_site": (0.95, 0.45), "other_site": (0.58,)}
ORIGIN = Origin("owner/site", "0" * 40)
GENERATORS = ("flux", "imagen", "flux")  # of the fakes, in their order


def sha256(number: int) -> str:
    return f"{number:016x}" + "0" * 48


def rows_of(scores: dict[str, tuple[float, ...]], *, label: int, first: int, **other: Any) -> list[dict[str, Any]]:
    fixed = {"benchmark": "modern", "model": "ours", "degradation": "none", "label": label, "error": ""} | other
    listed = [(source, score) for source, given in scores.items() for score in given]
    return [
        {"uri": f"bench/modern/{source}/{image_name(sha256(first + n))}", "source": source, "score": score} | fixed
        for n, (source, score) in enumerate(listed)
    ]


def example(**other: Any) -> pd.DataFrame:
    rows = [*rows_of(REALS, label=0, first=1, **other), *rows_of(FAKES, label=1, first=11, **other)]
    frame = pd.DataFrame(rows).assign(width=64, height=64, format="JPEG", num_bytes=900, subsets=[("all",)] * 8)
    return frame.assign(logit=np.log(frame["score"] / (1 - frame["score"])))


def table_of(*frames: pd.DataFrame) -> ScoreTable:
    return ScoreTable(pd.concat(frames, ignore_index=True), {}, DETECTORS)


def pictures() -> list[Picture]:
    sources = [source for source, given in FAKES.items() for _ in given]
    return [
        Picture("bench/modern", Label.FAKE, generator, source, ORIGIN, f"{n}.png", sha256(11 + n))
        for n, (generator, source) in enumerate(zip(GENERATORS, sources, strict=True))
    ]


# ---------------------------------------------------------------------------------------------------------
# Figures


def test_figures_by_hand() -> None:
    lost = example().head(1).assign(uri="gone.jpg", error="damaged image", score=np.nan, logit=np.nan)
    (row,) = groups.figures(table_of(example(), lost), num_resamples=50).to_dict("records")
    assert (row["model"], row["benchmark"], row["degradation"]) == ("ours", "modern", "none")
    assert (row["n_photographs"], row["n_non_photographs"], row["n_fakes"], row["unreadable"]) == (3, 2, 3, 1)
    # Fakes stand above 5, 2 and 3 of the 5 real pictures.
    assert row["auroc"] == pytest.approx(10 / 15)
    assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
    assert row["interval_of"] == "images"  # of two sources of fakes, none can be drawn
    assert (row["photographs"], row["non_photographs"], row["fakes"]) == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    assert row["balanced_accuracy"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    # Every score is alone in its bin: the mean distance to the label, .48 and .34 of the two classes.
    assert row["ece"] == pytest.approx((0.48 + 0.34) / 2)
    assert row["unsure"] == pytest.approx(3 / 8)  # .5, .45 and .58
    assert row["sure_accuracy"] == pytest.approx(3 / 5)
    assert row["sure_balanced"] == pytest.approx((2 / 4 + 1) / 2)


def test_intervals_draw_sources_where_there_are_five_of_each_class() -> None:
    frame = example()
    spread = frame.assign(source=[f"{source}_{n}" for n, source in enumerate(frame["source"])])
    more = spread.assign(uri="more/" + spread["uri"], source=spread["source"] + "_more")
    assert groups.figures(table_of(spread, more), num_resamples=20)["interval_of"].tolist() == ["sources"]


def test_what_is_not_there_has_no_figure() -> None:
    fakes = example()[lambda frame: frame["label"] == 1]
    (row,) = groups.figures(table_of(fakes), num_resamples=20).to_dict("records")
    missing = ("auroc", "auroc_low", "balanced_accuracy", "photographs", "non_photographs", "ece", "sure_balanced")
    assert all(math.isnan(row[name]) for name in missing)
    assert row["fakes"] == pytest.approx(2 / 3)


def test_photographs_are_real_pictures_of_other_styles() -> None:
    images = groups.judge(table_of(example()))
    assert images["photograph"].tolist() == [True] * 3 + [False] * 5
    named = {name: style_of(name) for name in ("screenshot_grid2repo", "alpr", "drawing-board")}
    assert list(named.values()) == ["screenshot", "alpr", "drawing-board"]


# ---------------------------------------------------------------------------------------------------------
# Kinds of images and forms of delivery


def test_styles_the_worst_first_as_they_are_and_aligned() -> None:
    aligned = example(degradation="aligned:80")
    aligned["score"] = 0.01
    others = (example(degradation="grey"), aligned.assign(degradation="square:80"))
    table = groups.by_style(table_of(example(), aligned, *others))
    assert list(table.columns) == [*groups.GROUP, "style", "images", "sources", "right", "unsure"]
    assert table["degradation"].tolist() == ["none"] * 2 + ["aligned:80"] * 2 + ["square:80"] * 2
    assert table.iloc[:2, 3:].values.tolist() == [
        ["drawing", 2, 1, 1 / 2, 0],
        ["portrait", 3, 2, pytest.approx(2 / 3), pytest.approx(1 / 3)],
    ]
    for start in (2, 4):
        found = table.iloc[start : start + 2, 3:].values.tolist()
        assert found == [["portrait", 3, 2, 1, 0], ["drawing", 2, 1, 1, 0]]


def test_generators_are_those_of_the_list() -> None:
    table = groups.by_generator(table_of(example()), pictures())
    found = table.set_index("generator")[["images", "sources", "right", "unsure", "mixed_sources"]]
    assert found.index.tolist() == ["imagen", "flux"]
    assert found.loc["imagen"].tolist() == [1, 1, 0, 1, 1]
    assert found.loc["flux"].tolist() == [2, 2, 1, 1 / 2, 1]  # one of its two sources has Imagen's picture too


def test_a_fake_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"other_site/.*, and 0 more fakes, are not in the list"):
        groups.by_generator(table_of(example()), pictures()[:2])


def test_forms_of_delivery_have_words_and_their_order() -> None:
    assert groups.by_form(table_of(example(), example(degradation="aligned:80"))) is None
    grey = example(degradation="grey")
    grey.loc[0, "score"] = 0.99  # real when it had its colours
    others = (example(degradation="aligned:80"), example(degradation="thumbnail:256"))
    table = groups.by_form(table_of(grey, *others, example()))
    assert table is not None
    assert table["form"].tolist() == ["as it is", "thumbnail of 256 px", "grey"]
    by_form = table.set_index("form")
    assert by_form.loc["grey", ["flips", "flips_sure", "unsure"]].tolist() == [1 / 8, 1 / 8, 3 / 8]
    assert by_form.loc["thumbnail of 256 px", ["flips", "flips_sure"]].tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------------------
# The control


def collection(folder: Path, *, leak: bool, num: int = 400) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A manifest and scores of its bench. Fakes are squares of 1024 px, or sizes say nothing of the class."""
    generator = np.random.default_rng(0)
    rows, scored = [], []
    for n in range(2 * num):
        label, part = n % 2, "train" if n < num else "bench/modern"
        is_square = bool(label if leak else generator.integers(2))
        width, height = (1024, 1024) if is_square else generator.integers(600, 1500, size=2).tolist()
        source = f"{'fake' if label else 'portrait'}_{n % 40}"
        filename = f"{part}/{source}/{image_name(sha256(n))}"
        size, original = (width, height), (2 * width, 2 * height, "PNG" if is_square else "JPEG")
        rows.append((filename, label, source, source, part, *size, *original, sha256(n)))
        num_bytes = int(generator.integers(20, 30))
        if part == "train":
            (folder / filename).parent.mkdir(parents=True, exist_ok=True)
            (folder / filename).write_bytes(bytes(num_bytes))
            continue
        facts = {"width": width, "height": height, "num_bytes": num_bytes, "score": generator.random()}
        scored.append({"uri": f"/scored/{filename}", "label": label, "source": source, **facts})
    frame = pd.DataFrame(scored).assign(benchmark="modern", model="ours", degradation="none", error="")
    return pd.DataFrame(rows, columns=list(COLUMNS)), frame.assign(format="JPEG")


def control_of(folder: Path, manifest: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    manifest.to_csv(folder / "manifest.csv", index=False)
    known = control.read_manifest(folder / "manifest.csv")
    return control.control_table(table_of(frame), known, folder=folder, num_resamples=20).set_index("judge")


def test_the_control_sees_a_planted_leak(tmp_path: Path) -> None:
    table = control_of(tmp_path, *collection(tmp_path, leak=True))
    assert table.index.tolist() == [*control.TRAITS, "ours", "ours, among equals"]
    assert (table.loc[list(control.TRAITS), "auroc"] > 0.98).all()  # aligning leaves the shape
    assert table.loc["ours", "auroc"] == pytest.approx(0.5, abs=0.1)
    assert table.loc["ours", "auroc_low"] < table.loc["ours", "auroc"] < table.loc["ours", "auroc_high"]
    assert table.loc["ours, among equals", "pairs"] == 0  # PNG or JPEG: no pair is alike


def test_the_control_sees_nothing_where_nothing_is(tmp_path: Path) -> None:
    table = control_of(tmp_path, *collection(tmp_path, leak=False))
    assert (abs(table.loc[list(control.TRAITS), "auroc"] - 0.5) < 0.1).all()
    assert 0 < table.loc["ours, among equals", "pairs"] < 1
    assert abs(table.loc["ours, among equals", "auroc"] - 0.5) < 0.1


def test_aligning_leaves_shapes_and_small_pictures(tmp_path: Path) -> None:
    sizes = pd.DataFrame({"width": [1024, 2048, 300, 1600], "height": [1024, 2048, 300, 1000]})
    found = control.aligned_traits(sizes)
    assert found[["width", "height"]].values.tolist() == [[512, 512], [512, 512], [300, 300], [819, 512]]


def test_a_control_without_its_images_is_refused(tmp_path: Path) -> None:
    manifest, frame = collection(tmp_path, leak=True, num=40)
    with pytest.raises(ValueError, match="and 39 more images of the scores, are not in the manifest"):
        control_of(tmp_path, manifest[manifest["part"] == "train"], frame)
    with pytest.raises(ValueError, match="the part 'train' does not have both classes"):
        control_of(tmp_path, manifest[manifest["part"] != "train"], frame)
    with pytest.raises(ValueError, match="no column 'part'"):
        control_of(tmp_path, manifest.drop(columns="part"), frame)
    (tmp_path / manifest.loc[0, "filename"]).unlink()
    with pytest.raises(ValueError, match=r"no such file; expected the image beside its manifest\.csv"):
        control_of(tmp_path, manifest, frame)


# ---------------------------------------------------------------------------------------------------------
# The command


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def scored(tmp_path: Path, make_image: MakeImage) -> Path:
    """A folder with scores.csv, the list of its pictures, and all images but one."""
    frame = pd.concat([example(), example(degradation="aligned:80")], ignore_index=True)
    frame["uri"] = [str(tmp_path / uri) for uri in frame["uri"]]
    for number, uri in enumerate(dict.fromkeys(frame["uri"])):
        make_image(Path(uri), seed=number, size=(80 + number, 60))
    Path(frame.loc[3, "uri"]).unlink()  # the drawing that is called fake
    frame.drop(columns="subsets").to_csv(tmp_path / "scores.csv", index=False)
    listed = [
        (each.part, 1, each.generator, each.source, ORIGIN.repository, "0" * 8, each.path, each.sha256)
        for each in pictures()
    ]
    write_csv(tmp_path / "pictures.csv", PICTURE_COLUMNS, listed)
    write_csv(tmp_path / "repositories.csv", REPOSITORY_COLUMNS, [(ORIGIN.repository, ORIGIN.commit, "none")])
    (tmp_path / "removed.txt").write_text("")
    return tmp_path


def test_tables_and_sheets_are_written(scored: Path, run_cli: RunCli) -> None:
    out = scored / "out"
    done = run_cli(open_corpus.main, scored / "scores.csv", "--list", scored, "--out", out, "--sheet", 9)
    assert done.code == 0, done.err
    text = (out / "open_corpus.md").read_text()
    assert done.out.startswith(text)
    titles = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("#")]
    assert titles == ["Figures", "Fakes by generator", "Real pictures by style"]
    assert "| modern | aligned:80 | imagen | 1 | 1 | 0.000 | 0.000 | 1 |" in text
    assert {path.name for path in out.iterdir()} == {
        *("figures.csv", "generators.csv", "styles.csv", "open_corpus.md"),
        *("ours_real_called_fake.jpg", "ours_fakes_missed.jpg"),
    }
    figures = pd.read_csv(out / "figures.csv")
    assert figures["degradation"].tolist() == ["none", "aligned:80"]
    assert figures["fakes"].tolist() == pytest.approx([2 / 3] * 2)  # .5 without the detector's file
    assert "ours_real_called_fake.jpg: 3 mistakes" in done.out
    assert "ours_fakes_missed.jpg: 1 mistakes" in done.out


def test_a_sheet_has_a_tile_for_each_mistake_and_says_what_is_gone(scored: Path) -> None:
    frame = pd.read_csv(scored / "scores.csv")
    rows = frame[frame["uri"].map(lambda uri: Path(uri).is_file())].head(7)
    made = sheet.contact_sheet(rows)
    step = sheet.TILE_PX + sheet.GAP_PX
    assert made.width == sheet.COLUMNS * step + sheet.GAP_PX
    assert made.height == 2 * (step + 2 * sheet.LINE_PX) + sheet.GAP_PX
    pixels_HW = np.asarray(made.convert("L"), dtype=float)
    middle = sheet.GAP_PX + sheet.TILE_PX // 2
    for left in (0, 5 * step):  # noise of the pictures, white beside them
        assert pixels_HW[middle - 20 : middle + 20, left + middle - 20 : left + middle + 20].std() > 20
    second_row = middle + step + 2 * sheet.LINE_PX
    assert (pixels_HW[second_row - 20 : second_row + 20, 3 * step :] == 255).all()
    gone = sheet.contact_sheet(rows.head(1).assign(uri="gone.jpg"))
    assert gone.getpixel((middle, middle)) == sheet.GONE


def test_what_cannot_be_is_refused_in_one_line(scored: Path, run_cli: RunCli) -> None:
    wanted = (scored / "scores.csv", "--out", scored / "out")
    assert "fakes, are not in the list" in run_cli(open_corpus.main, *wanted).only_error()
    assert "--sheet must be 0 or more" in run_cli(open_corpus.main, *wanted, "--sheet", -1).only_error()
    nothing = run_cli(open_corpus.main, *wanted, "--list", scored, "--manifest", scored / "none.csv")
    assert "none.csv: no such file; expected the manifest.csv of" in nothing.only_error()
    assert not (scored / "out").exists()


def test_markdown_has_intervals_and_empty_cells() -> None:
    table = groups.figures(table_of(example()[lambda frame: frame["source"] != "drawing_c"]), num_resamples=20)
    text = open_corpus.to_markdown({"figures": table.assign(auroc=0.5, auroc_low=0.25, auroc_high=0.75)})
    header, _, row = (line.split(" | ") for line in text.splitlines()[2:])
    assert header[0] == "| benchmark"  # one model and one degradation have no columns
    cells = dict(zip(header, row, strict=True))
    assert cells["auroc"] == "0.500 [0.250, 0.750]"
    assert cells["non photographs"] == ""
