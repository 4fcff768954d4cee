"""Results of many images: forms, tables that are resumed, names that are odd, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from PIL import Image
from pyarrow import parquet

import inference
from gapl import judging
from gapl import table as tables
from gapl.cli import printable
from gapl.detector import Judged
from gapl.files.checksum import sha256_of
from gapl.results import COLUMNS, Method, Result
from gapl.table import Table
from gapl.verdict import Verdict

if TYPE_CHECKING:
    from tests.conftest import Finished, MakeImage, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
METHOD = Method("m", "1" * 64, "full", "")
EXPECTED = "expected an image or a folder of images"
Judge = Callable[..., "Finished"]


@pytest.fixture
def folder(make_image: MakeImage, tmp_path: Path) -> Path:
    """Two images, a copy of one of them, and a broken one."""
    folder = tmp_path / "images"
    make_image(folder / "a.png", size=(40, 40))
    make_image(folder / "b.png", size=(64, 40), seed=1)
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def schema() -> Any:
    return json.loads((PROJECT / "docs/result.schema.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------
# Forms


def test_all_forms_say_the_same(judge: Judge, folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in judge(folder, "--json").out.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.png", "broken.png", "copy.png"]
    assert [row["duplicate_of"] for row in rows] == ["", "", "", str(folder / "a.png")]
    jsonschema.Draft202012Validator(schema()).validate(rows)
    assert json.loads(judge(folder, "--format", "json").out) == rows
    shown = list(csv.DictReader(io.StringIO(judge(folder, "--format", "csv").out)))
    for format in ("jsonl", "json", "csv", "parquet"):
        done = judge(folder, "--out", tmp_path / f"out.{format}")
        assert (done.code, done.out) == (1, ""), done.err
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    assert list(csv.DictReader((tmp_path / "out.csv").open())) == shown
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, text, typed in zip(rows, shown, table, strict=True):
        assert list(text) == list(typed) == list(COLUMNS)
        for name in set(COLUMNS) - {"warnings"}:
            assert text[name] == str(row.get(name, ""))
            assert typed[name] == (row.get(name) or None)
    assert not list(tmp_path.glob("*.part"))


def test_schema_refuses_what_is_no_result() -> None:
    row = Result("a.png", "0" * 64, Verdict(0.5, 0.0, "real", 0.6, 0.3, ("mind",))).row(METHOD)
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate([row, Result("b", "", None, "gone").row(METHOD)])
    for wrong in (row | {"label": "maybe"}, row | {"score": 2}, row | {"error": "x"}, {"path": "a"}):
        assert not validator.is_valid([wrong])


def test_the_same_content_is_judged_once(judge: Judge, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    original = inference.Detector.judge

    def counting(self: inference.Detector, seen: list[Any]) -> list[Verdict]:
        judged.append(len(seen))
        return original(self, seen)

    monkeypatch.setattr(inference.Detector, "judge", counting)
    rows = [json.loads(line) for line in judge(folder, "--json", "--batch-size", 3).out.splitlines()]
    assert sum(judged) == 2
    assert rows[0]["score"] == rows[3]["score"]
    assert rows[0]["sha256"] == rows[3]["sha256"]


def test_rows_say_how_they_were_made(judge: Judge, folder: Path, tiny_run: TinyRun) -> None:
    (row,) = map(json.loads, judge(folder / "a.png", "--json").out.splitlines())
    made = Method(str(tiny_run.stage2), sha256_of(tiny_run.stage2), "full", "")
    assert {name: row[name] for name in asdict(made)} == asdict(made)


def test_duplicates_are_marked(judge: Judge, folder: Path, tmp_path: Path) -> None:
    assert "Duplicate of: " + str(folder / "a.png") in judge(folder).out
    out = tmp_path / "t.jsonl"
    judge(folder / "copy.png", "--out", out)  # of a folder that has only this one
    judge(folder, "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["duplicate_of"] for row in rows] == ["", "", "", str(folder / "a.png")]


# ---------------------------------------------------------------------------------------------------------
# The end of a run


def test_the_summary_counts_all(
    judge: Judge, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(*arguments: object) -> list[str]:
        caplog.clear()
        judge(*arguments)
        return [record.message for record in caplog.records if record.name == "gapl.tally"]

    (folder / "notes.txt").touch()
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:300])
    judged, unreadable, left_out, time_taken = told(folder, "--out", tmp_path / "t.csv")
    assert re.fullmatch(r"3 images judged: \d fake, \d real, \d unsure; duplicates among them: 1", judged)
    reasons = "1 x damaged image, 1 x not an image, or of a format that is not read"
    assert unreadable == f"2 could not be read: {reasons}"
    assert left_out == "left out: 1 x no image (.txt)"
    assert re.fullmatch(r"\d+\.\d s, \d+\.\d images/s", time_taken)
    assert told(folder, "--out", tmp_path / "t.csv")[-1].endswith(" s, 0.0 images/s, without those judged before")
    assert told(folder / "a.png") == []


@pytest.mark.parametrize("total", [1, 2])
def test_progress_is_for_terminals_and_several_images(total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (True, False):
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda shown=is_terminal: shown)
        monkeypatch.setattr(sys, "stderr", screen)
        found = [Result(str(i), "", None) for i in range(total)]
        assert list(judging._with_progress(iter(found), total=total)) == found
        assert ("2/2 [" in screen.getvalue()) == (is_terminal and total > 1)


# ---------------------------------------------------------------------------------------------------------
# Which images


def test_paths_are_named_in_many_ways(
    judge: Judge, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text(f"{folder / 'a.png'}\n\n{folder / 'b.png'}\n")

    def names(*arguments: object) -> list[str]:
        return [Path(json.loads(line)["path"]).name for line in judge(*arguments, "--json").out.splitlines()]

    assert names(folder / "b.png", "--image_path", folder / "a.png") == ["b.png", "a.png"]
    assert names(f"@{tmp_path / 'list.txt'}") == ["a.png", "b.png"]
    stdin = io.TextIOWrapper(io.BytesIO(os.fsencode(folder / "b.png") + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert names("-") == ["b.png"]
    assert "no image is named; give the path" in judge().only_error()
    assert "gone.txt" in judge("@gone.txt").only_error()
    gone = judge(tmp_path / "gone.png", folder / "a.png", "--json")
    assert gone.code == 1
    assert [json.loads(line).get("error") for line in gone.out.splitlines()] == ["No such file or directory", None]
    (tmp_path / "windows.txt").write_bytes(f"\ufeff{folder / 'a.png'}\r\n".encode())
    assert names(f"@{tmp_path / 'windows.txt'}") == ["a.png"]
    (tmp_path / "empty.txt").touch()
    assert "empty.txt: no paths are listed there" in judge(f"@{tmp_path / 'empty.txt'}").only_error()
    assert "an empty path; expected that of an image" in judge("").only_error()
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed; expected the paths of images" in judge("-").only_error()


def test_odd_names_forge_nothing_and_end_nothing(judge: Judge, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(tmp_path / "in/z.png").read_bytes()
    forged = b"a\n[RESULT] Image: b.png\n  -> Prediction: Real.png"
    for name in (b"caf\xe9.png", forged.replace(b"/", b"_"), b"tab\there.png", "日本.png".encode()):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(image)
    heads = [line for line in judge(tmp_path / "in").out.splitlines() if line.startswith("[RESULT]")]
    assert len(heads) == 5
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert printable("a\tb\n日") == "a\\tb\\n日"
    for format in ("json", "csv", "parquet"):
        assert judge(tmp_path / "in", "--out", tmp_path / f"out.{format}").code == 0
    assert judge(tmp_path / "a\x1b[31m\nb").only_error().endswith("a\\x1b[31m b does not exist; " + EXPECTED)


@pytest.mark.parametrize("name", ["a\nforged,0.png", "a\rforged,0.png"])
def test_a_name_with_a_line_end_is_one_field_of_csv(
    judge: Judge, make_image: MakeImage, tmp_path: Path, name: str
) -> None:
    image = make_image(tmp_path / name)
    assert judge(image, "--out", tmp_path / "out.csv").code == 0
    for text in (judge(image, "--format", "csv").out, (tmp_path / "out.csv").read_bytes().decode()):
        assert f'"{image}",' in text


def test_a_console_that_cannot_show_a_name(tiny_run: TinyRun, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(tmp_path / "日本.png")
    command = [sys.executable, PROJECT / "inference.py", "--model_path", tiny_run.stage2, "--allow-tiny", image]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, check=False, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5\\u672c.png" in done.stdout


def test_a_closed_stderr_ends_nothing(tiny_run: TinyRun, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.png")
    command = [sys.executable, PROJECT / "inference.py", "--model_path", tiny_run.stage2, "--allow-tiny", "--json"]
    shell = ["bash", "-c", '"$@" 2>&-', "bash", *map(str, command)]
    done = subprocess.run([*shell, str(image)], check=True, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["path"] == str(image)
    done = subprocess.run([*shell, str(tmp_path / "gone")], check=False, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")


# ---------------------------------------------------------------------------------------------------------
# Exit codes


def test_exit_codes(judge: Judge, folder: Path) -> None:
    assert judge(folder / "a.png").code == 0
    assert judge(folder).code == 1
    assert judge(folder / "broken.png").out.splitlines()[1:] == []  # the error says it, once
    broken = judge(folder / "broken.png", "--json")
    assert broken.only_error().endswith("broken.png: not an image, or of a format that is not read")
    assert "error" in json.loads(broken.out)
    label = json.loads(judge(folder / "a.png", "--json").out)["label"]
    assert judge(folder / "a.png", "--fail-on", "fake").code == (3 if label == "fake" else 0)


def test_large_images_are_read_up_to_a_limit(
    judge: Judge, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = make_image(tmp_path / "a.png", size=(100, 100))
    assert judge(path, "--max-megapixels", 0.01).code == 0
    error = judge(path, "--max-megapixels", 0.0098).only_error()
    assert error.endswith("a.png: too many pixels; images of at most 0.0098 megapixels are read")


@pytest.mark.parametrize("limit", ["inf", "nan", "0", "-1", "many"])
def test_a_limit_that_is_none_is_refused(judge: Judge, folder: Path, limit: str) -> None:
    assert "--max-megapixels" in judge(folder, f"--max-megapixels={limit}").only_error()


def test_a_file_too_large_for_memory_is_one_that_cannot_be_read(judge: Judge, folder: Path) -> None:
    with (folder / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    rows = {Path(row["path"]).name: row for row in map(json.loads, judge(folder, "--json").out.splitlines())}
    assert rows["large.png"]["error"] == "a file of 1024.0 GiB is too large for an image"
    assert "score" in rows["a.png"]


def test_options_that_do_not_go_together(judge: Judge, folder: Path, tmp_path: Path) -> None:
    assert "--format parquet needs --out" in judge(folder, "--format", "parquet").only_error()
    assert "--json is --format jsonl, and not csv" in judge(folder, "--json", "--format", "csv").only_error()
    other = judge(folder, "--out", tmp_path / "a.csv", "--format", "json").only_error()
    assert "a.csv is no file for json; name one with the suffix .json" in other
    assert "a table is .jsonl, .json, .csv or .parquet" in judge(folder, "--out", tmp_path / "a.txt").only_error()
    assert not list(tmp_path.glob("a.txt*"))


# ---------------------------------------------------------------------------------------------------------
# Tables that are resumed


def row_of(name: str, score: float = 0.25) -> dict[str, Any]:
    return Result(name, name * 64, Verdict(score, -1.0, "real", 0.6, 0.3, ("mind",))).row(METHOD)


def table_at(
    path: Path, *, overwrite: bool = False, images: str = "ab", explainer: str | None = None, **asked: str
) -> Table:
    method = replace(METHOD, **asked)
    return Table(path, format="jsonl", method=method, images=images, overwrite=overwrite, explainer=explainer)


def test_a_stopped_table_goes_on(tmp_path: Path) -> None:
    path, journal = tmp_path / "t.jsonl", tmp_path / "t.jsonl.part"
    table_at(path).add(row_of("a"))
    with journal.open("a") as file:
        file.write('{"path": "torn')
    again = table_at(path)
    assert again.judged() == {"a" * 64: Judged(Verdict(0.25, -1.0, "real", 0.6, 0.3, ("mind",)))}
    again.add(row_of("a"))
    again.add(row_of("b"))
    again.finish()
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert not journal.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"label": "../up"},
        {"score": "x"},
        {"logit": float("nan")},
        {"threshold": True},
        {"warnings": [1]},
        {"sha256": "../up"},
    ],
)
def test_a_table_that_was_edited_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row_of("a") | changed) + "\n")
    wrong = rf"in row 1, {next(iter(changed))}(\[0\])? cannot be .*; expected"
    with pytest.raises(ValueError, match=rf"t.jsonl is there already, and {wrong}"):
        table_at(path)
    path.unlink()
    table_at(path).add(row_of("a") | changed)
    with pytest.raises(ValueError, match=rf"t.jsonl.part: {wrong}"):
        table_at(path)


def test_a_table_is_neither_replaced_nor_mixed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    table_at(path).add(row_of("a"))
    with pytest.raises(ValueError, match=r"t.jsonl.part is of another detector or options; --overwrite"):
        table_at(path, views="fast")
    table_at(path, views="fast", overwrite=True).finish()
    with pytest.raises(ValueError, match=r"t.jsonl is there already, and no table of .*; --overwrite replaces it"):
        table_at(path)


@pytest.mark.parametrize("line", ["no json", "{}", "5", '{"path": [], "error": ""}', "[" * 100_000])
def test_a_damaged_journal_is_refused(tmp_path: Path, line: str) -> None:
    table_at(tmp_path / "t.jsonl").add(row_of("a"))
    with (tmp_path / "t.jsonl.part").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"t.jsonl.part(:| is damaged) .*; --overwrite begins anew"):
        table_at(tmp_path / "t.jsonl")


@pytest.mark.parametrize("content", ["notes", "notes\nof a user\nand more"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    journal = tmp_path / "t.jsonl.part"
    journal.write_text(content)
    with pytest.raises(ValueError, match=r"t.jsonl.part is of another detector or options"):
        table_at(tmp_path / "t.jsonl")
    assert journal.read_text() == content


@pytest.mark.parametrize("content", ["", '{"asked": {"mo'])
def test_a_run_that_was_stopped_before_its_first_result_is_continued(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.jsonl.part").write_text(content)
    table = table_at(tmp_path / "t.jsonl")
    table.add(row_of("a"))
    table.finish()
    assert json.loads((tmp_path / "t.jsonl").read_text()) == row_of("a")


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_a_finished_table_is_brought_up_to_date(
    format: str, judge: Judge, folder: Path, tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"t.{format}"
    first = judge(folder, "--out", out, "--fail-on", "unsure")
    content = out.read_bytes()
    judged: list[int] = []
    original = inference.Detector.judge

    def counting(self: inference.Detector, seen: list[Any]) -> list[Verdict]:
        judged.append(len(seen))
        return original(self, seen)

    monkeypatch.setattr(inference.Detector, "judge", counting)
    again = judge(folder, "--out", out, "--fail-on", "unsure")
    assert (again.code, sum(judged)) == (first.code, 0)
    assert out.read_bytes() == content
    make_image(folder / "new.png", seed=9)
    make_image(folder / "b.png", seed=10)
    judge(folder, "--out", out)
    assert sum(judged) == 2
    (folder / "a.png").unlink()
    lost = judge(folder, "--out", out).only_error()
    assert f"with {folder / 'a.png'}, which is not named now; --overwrite replaces it" in lost
    assert not list(tmp_path.glob("*.part"))


def test_a_table_holds_what_its_last_run_found(tmp_path: Path) -> None:
    refused = Result("a", "a" * 64, None, "too many pixels").row(METHOD)
    for found in (row_of("a"), row_of("b"), refused):
        table_at(tmp_path / "t.jsonl").add(found)  # and stopped
    table = table_at(tmp_path / "t.jsonl")
    table.add(row_of("a"))
    table.finish()
    assert json.loads((tmp_path / "t.jsonl").read_text()) == row_of("a")


def test_two_runs_do_not_write_one_table(tmp_path: Path) -> None:
    first = table_at(tmp_path / "t.jsonl")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"t.jsonl is being written by another run"):
            table_at(tmp_path / "t.jsonl", overwrite=overwrite)
    first.add(row_of("a"))
    first.finish()
    assert json.loads((tmp_path / "t.jsonl").read_text()) == row_of("a")


def test_a_full_disk_is_told_by_the_file_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _rows: object) -> None:
        raise OSError(28, "No space left on device")

    table = table_at(tmp_path / "t.jsonl")
    table.add(row_of("a"))
    monkeypatch.setitem(tables._WRITERS, "jsonl", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*t.jsonl'"):
        table.finish()
    del table
    assert list(table_at(tmp_path / "t.jsonl").judged()) == ["a" * 64]


def test_only_a_file_is_replaced_by_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").mkdir()
    os.mkfifo(tmp_path / "u.jsonl.part")
    for name in ("t.jsonl", "u.jsonl"):
        with pytest.raises(ValueError, match="is no regular file; name another --out"):
            table_at(tmp_path / name, overwrite=True)


def test_a_journal_is_of_the_content_of_a_detector(
    judge: Judge, folder: Path, tiny_run: TinyRun, tmp_path: Path
) -> None:
    out = tmp_path / "t.csv"
    # Of the folder of a run, whose detector may be another one by now
    method = Method(str(tiny_run.stage2), "", "full", "")
    (tmp_path / "t.csv.part").write_text(json.dumps({"asked": asdict(method)}) + "\n")
    assert "t.csv.part is of another detector" in judge(folder, "--out", out).only_error()


def test_a_killed_run_is_continued(tiny_run: TinyRun, make_image: MakeImage, tmp_path: Path, judge: Judge) -> None:
    for i in range(40):
        make_image(tmp_path / f"in/{i:02}.png", seed=i)
    out = tmp_path / "out.csv"
    journal = tmp_path / "out.csv.part"
    given = ["--model_path", tiny_run.stage2, "--allow-tiny", tmp_path / "in", "--out", out, "--batch-size", "1"]
    process = subprocess.Popen(
        [sys.executable, PROJECT / "inference.py", *map(str, given)], stderr=subprocess.DEVNULL
    )
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    assert judge(*given[2:]).code == 0 if not out.exists() else True
    rows = list(csv.DictReader(out.open()))
    assert [Path(row["path"]).name for row in rows] == [f"{i:02}.png" for i in range(40)]
    first = json.loads(kept.splitlines()[1])
    assert float(rows[0]["score"]) == first["score"]
