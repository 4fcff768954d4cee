"""list, verify, report, compare and audit, as a user gives them; what they find in a damaged tree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import MakeImage, RunCli, TinyRun

import benchmarks
from data.images.degrade import DELIVERIES


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """A benchmark with a subset missing, a broken image, a doubled one and JPEG against PNG."""
    root = tmp_path_factory.mktemp("tree")
    for subset in ("reddit", "twitter"):
        for i in range(12):
            make_image(root / "WildRF/test" / subset / "0_real" / f"{i}.jpg", seed=i + len(subset))
            make_image(root / "WildRF/test" / subset / "1_fake" / f"{i}.png", seed=500 + i + len(subset))
    (root / "WildRF/test/reddit/0_real/5.jpg").write_bytes(b"\xff\xd8 cut")
    shutil.copy(root / "WildRF/test/reddit/1_fake/3.png", root / "WildRF/test/twitter/0_real/copy.png")
    return root


def test_list_shows_what_is_there_and_what_is_not(run_cli: RunCli, tree: Path) -> None:
    done = run_cli(benchmarks.main, "list", "--data-root", tree)
    assert done.code == 0, done.err
    assert "WildRF" in done.out
    assert "facebook" in done.out
    assert "Chameleon" in done.out


def test_verify_names_what_is_broken_and_doubled(
    run_cli: RunCli, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--data-root", tree, "--benchmarks", "WildRF", "--num-workers", 0)
    done = run_cli(benchmarks.main, "verify", *options, "--out", tmp_path / "problems.csv")
    assert done.code == 1, done.err
    assert "1 images cannot be decoded" in caplog.text
    assert "reddit/0_real/5.jpg" in done.out
    assert "twitter/0_real/copy.png" in done.out
    written = pd.read_csv(tmp_path / "problems.csv")
    assert [Path(uri).name for uri in written["uri"]] == ["5.jpg", "2.png"]
    assert written["problem"].str.contains("damaged|not an image").tolist() == [True, False]
    assert written["problem"][1].startswith("same content as")
    assert "JPEG" in done.out
    assert "PNG" in done.out


def test_audit_finds_the_format_out(run_cli: RunCli, tree: Path, tmp_path: Path) -> None:
    options = ("--data-root", tree, "--benchmarks", "WildRF", "--num-workers", 0, "--out", tmp_path / "audit.json")
    done = run_cli(benchmarks.main, "audit", *options)
    assert done.code == 0, done.err
    assert "format" in done.out
    assert "WildRF" in json.loads((tmp_path / "audit.json").read_text())


def test_report_and_compare_read_tables_of_other_tools(run_cli: RunCli, tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(40)]
    labels = [i % 2 for i in range(40)]
    good = [0.9 if label else 0.1 + i / 1000 for i, label in enumerate(labels)]
    poor = [((i * 7) % 40) / 40 for i in range(40)]
    for name, scores in (("good", good), ("poor", poor)):
        frame = pd.DataFrame({"image": names, "target": labels, "their_score": scores})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    mapped = ("--columns", "score=their_score")
    done = run_cli(benchmarks.main, "report", tmp_path / "good.csv", *mapped, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert table["auroc"].tolist()[0] == 1
    done = run_cli(benchmarks.main, "compare", tmp_path / "poor.csv", tmp_path / "good.csv", *mapped)
    assert done.code == 0, done.err
    assert "40 shared images" in done.out
    for name in ("good", "poor"):  # as tools write them: a folder for each, and one name for all tables
        (tmp_path / f"of_{name}").mkdir()
        shutil.copy(tmp_path / f"{name}.csv", tmp_path / f"of_{name}/scores.csv")
    tables = (tmp_path / "of_poor/scores.csv", tmp_path / "of_good/scores.csv")
    done = run_cli(benchmarks.main, "compare", *tables, *mapped)
    assert "of_poor/scores -> of_good/scores" in done.out, done.err
    assert "a folder; expected a table" in run_cli(benchmarks.main, "compare", ".", tables[0]).only_error()
    refused = run_cli(benchmarks.main, "report", tmp_path / "good.csv")
    assert "--columns" in refused.only_error()


def test_images_of_every_format_count_and_what_is_left_out_is_told(
    run_cli: RunCli, make_image: MakeImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i, name in enumerate(("Human/1.avif", "Human/2.avif", "AI-generated/1.jfif", "others/1.png")):
        make_image(tmp_path / name, seed=i)
    (tmp_path / "Human/more.zip").write_bytes(b"PK")
    for command in ("list", "verify"):
        caplog.clear()
        done = run_cli(benchmarks.main, command, "--data-root", tmp_path)
        assert done.code == 0, done.err
        assert "2 real, 1 fake" in done.out
        assert "left out: 1 x image outside of class folders, 1 x no image (.zip)" in caplog.text
    assert "AVIF 2" in done.out


def test_no_benchmark_is_one_short_line(run_cli: RunCli, make_image: MakeImage, tmp_path: Path) -> None:
    def refusal(*options: object) -> str:
        return run_cli(benchmarks.main, "verify", "--data-root", tmp_path, *options).only_error()

    assert "no benchmark found (no class folder found; there are: no images; known are real" in refusal()
    make_image(tmp_path / "cats/1.png")
    assert "there are: cats; known are real" in refusal()
    assert len(refusal()) < 320 + 2 * len(str(tmp_path))
    table = tmp_path / "list.csv"
    table.write_text("picture,kind\ncats/1.png,fake\n")
    assert "no column filename or label; found picture, kind; name them with --columns" in refusal()
    assert "list.csv: no column label; found picture, kind" in refusal("--columns", "filename=picture")
    for columns in (("filename=picture", "label=kind"), ("filename=picture,label=kind",)):
        done = run_cli(benchmarks.main, "verify", "--data-root", tmp_path, "--columns", *columns)
        assert "list: 0 real, 1 fake" in done.out, done.err


def test_commands_refuse(run_cli: RunCli, tmp_path: Path) -> None:
    for command in ("list", "verify", "audit"):
        assert "give --data-root" in run_cli(benchmarks.main, command).only_error()
        assert "does not exist" in run_cli(benchmarks.main, command, "--data-root", tmp_path / "gone").only_error()
    assert "no benchmark found" in run_cli(benchmarks.main, "verify", "--data-root", tmp_path).only_error()
    gone = tmp_path / "gone"
    table = tmp_path / "table.csv"
    table.write_text("filename,label,score\na.png,0,0.5\n")
    for options, message in (
        (("report", gone), "no such file; expected a table of scores"),
        (("compare", table, gone), "no such file; expected a table of scores"),
        (("audit", "--data-root", tmp_path, "--scores", gone), "no such file; expected a table of scores"),
        (("card", table, "--model_path", gone, "--licence", "mit", "--out", "x"), "expected a detector"),
        (("calibrate", table, "--model_path", gone, "--out", tmp_path / "out"), "expected a detector"),
        (("merge", gone, "--out", tmp_path / "out"), "gone: no such folder; expected one that benchmarks.py run"),
    ):
        assert message in run_cli(benchmarks.main, *options).only_error()
    assert not (tmp_path / "out").exists()
    for options, message in (
        (("run", "--model_path", "m", "--ray-address", "auto"), "--ray-address needs --ray"),
        (("run", "--model_path", "m", "--ray", 2, "--num-workers", 1), "--ray and --num-workers exclude"),
        (("report", "s.parquet", "--audit"), "--html FILE"),
        (("report", "s.parquet", "--no-thumbnails"), "--html FILE"),
        (("report", "s.parquet", "--benchmarks", "UFD"), "need --audit"),
        (("audit", "--data-root", tmp_path, "--model", "m"), "--scores"),
    ):
        assert message in run_cli(benchmarks.main, *options).only_error()
    assert "OURS=THEIRS" in run_cli(benchmarks.main, "report", tmp_path, "--columns", "score").only_error()
    (tmp_path / "empty.csv").write_text("filename,label,score\n")
    assert run_cli(benchmarks.main, "report", tmp_path / "empty.csv").only_error()


def test_out_replaces_what_an_earlier_run_wrote_and_nothing_else(
    run_cli: RunCli, tree: Path, tmp_path: Path
) -> None:
    where = ("--data-root", tree, "--benchmarks", "WildRF", "--num-workers", 0)
    notes, empty = tmp_path / "notes", tmp_path / "empty"
    for command, code, what in (("verify", 1, "list of problems"), ("audit", 0, "audit")):
        for foreign in ("mine", "{}x", '{"a": {"n_real": 1}}', "benchmark,score\n"):
            notes.write_text(foreign)
            refused = run_cli(benchmarks.main, command, *where, "--out", notes).only_error()
            assert f"{notes} is there already, and no {what}; name another --out" in refused
            assert notes.read_text() == foreign
        empty.write_bytes(b"")
        for _ in range(2):
            assert run_cli(benchmarks.main, command, *where, "--out", empty).code == code
        assert empty.stat().st_size
    assert f"{tmp_path} is a folder" in run_cli(benchmarks.main, "audit", *where, "--out", tmp_path).only_error()
    scores = tmp_path / "scores.csv"
    scores.write_text("filename,label,score\na.png,0,0.5\n")
    refused = run_cli(benchmarks.main, "audit", *where, "--scores", scores, "--out", scores).only_error()
    assert f"{scores} is read by this command" in refused


def test_all_forms_of_delivery(run_cli: RunCli, tree: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    options = ("--num-workers", 0, "--out", tmp_path, "--allow-tiny", "--degrade", "deliveries")
    where = ("--data-root", tree, "--benchmarks", "WildRF")
    done = run_cli(benchmarks.main, "run", "--model_path", tiny_run.stage2, *where, *options)
    assert done.code == 0, done.err
    for words in DELIVERIES:
        assert words in done.out
    table = pd.read_csv(tmp_path / "robustness.csv").set_index("degradation")
    assert set(table.index) == {each.name for each in DELIVERIES.values()}
    assert table.loc["none", ["flips", "flips_sure"]].tolist() == [0, 0]
    assert (table["unsure"] == 0).all()  # the tiny detector is not calibrated
    assert (table["flips_sure"] == table["flips"]).all()
    done = run_cli(benchmarks.main, "report", tmp_path / "scores.parquet", "--html", tmp_path / "report.html")
    assert done.code == 0, done.err
    assert "thumbnail of 128 px enlarged to 512" in (tmp_path / "report.html").read_text()


def test_page_and_card_of_a_run(run_cli: RunCli, tree: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    where = ("--data-root", tree, "--benchmarks", "WildRF")
    options = ("--num-workers", 0, "--out", tmp_path, "--allow-tiny", "--details", "--degrade", "none", "jpeg:50")
    done = run_cli(benchmarks.main, "run", "--model_path", tiny_run.stage2, *where, *options)
    assert done.code == 0, done.err
    assert "jpeg:50" in done.out
    assert "jpeg:50" in pd.read_csv(tmp_path / "robustness.csv")["degradation"].tolist()
    scores, page, card = (tmp_path / name for name in ("scores.parquet", "report.html", "README.md"))
    done = run_cli(benchmarks.main, "report", scores, "--html", page, "--audit", *where, "--num-workers", 0)
    assert done.code == 0, done.err
    written = page.read_text()
    assert "WildRF" in written
    assert "attention" in written.lower()
    done = run_cli(
        benchmarks.main, "card", scores, "--model_path", tiny_run.stage2, "--licence", "mit", "--out", card
    )
    assert done.code == 0, done.err
    assert "model-index" in card.read_text()
    other = run_cli(
        benchmarks.main, "card", scores, "--model_path", tiny_run.stage1, "--licence", "mit", "--out", card
    )
    assert "no scores of this file" in other.only_error()
    for path, why in ((page, "is there already, and no model card"), (scores, "is read by this command")):
        given = ("card", scores, "--model_path", tiny_run.stage2, "--licence", "mit", "--out", path)
        assert f"{path} {why}" in run_cli(benchmarks.main, *given).only_error()
    assert page.read_text() == written
