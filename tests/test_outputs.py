"""What a command line writes replaces neither an image nor what it reads."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import MakeImage, RunCli

from gapl import __main__ as command


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("a.png", "--out", "t.csv", "--gallery", "t.csv"),
            "--out and --gallery are both {t.csv}; name two files",
        ),
        (
            ("a.png", "--out", "a.png", "--format", "csv"),
            "--out {a.png} is read by this command; name another file",
        ),
        ((".", "--gallery", "a.png"), "--gallery {a.png} is read by this command; name another file"),
        (("list.csv", "--out", "list.csv"), "--out {list.csv} is read by this command; name another file"),
        (
            ("a.png", "--model_path", "detector.csv", "--out", "detector.csv"),
            "--out {detector.csv} is read by this command; name another file",
        ),
        (
            ("@list.txt", "--gallery", "list.txt"),
            "--gallery {list.txt} is read by this command; name another file",
        ),
        (("@names.txt", "--out", "list.csv"), "--out {list.csv} is read by this command; name another file"),
        (("mo*.zip", "--gallery", "more.zip"), "--gallery {more.zip} is read by this command; name another file"),
        (
            ("a.png", "--gallery", "other.html"),
            "--gallery {other.html} is an image, which is not replaced; name another file",
        ),
        (
            ("a.png", "--sheets", "sheets"),
            "--sheets {sheets/index.html} is read by this command; name another file",
        ),
        (("a.png", "--sheets", "a.png"), "--sheets {a.png} is a file; expected a folder"),
        (
            ("a.png", "--gallery", "in/index.html", "--sheets", "in"),
            "--gallery and --sheets are both {in/index.html}; name two files",
        ),
        (
            ("a.png", "--gallery", "in/page.html", "--sheets", "in"),
            "--gallery {in/page.html} is inside of --sheets {in}; name a file elsewhere",
        ),
        (
            ("a.png", "--gallery", "in/../in/index.html", "--sheets", "in"),
            "--gallery and --sheets are both {in/../in/index.html}; name two files",
        ),
        (("a.png", "--out", "in", "--format", "csv"), "--out {in} is a folder; expected the name of a file"),
        (("a.png", "--sort-into", "list.csv"), "--sort-into {list.csv} is a file; expected a folder"),
        (("@none.txt",), "none.txt: no such file; expected a file with a path in each line"),
    ],
)
def test_nothing_of_a_user_is_replaced(
    arguments: tuple[str, ...],
    error: str,
    judge: RunCli,
    make_image: MakeImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(Path("a.png"))
    Path("in").mkdir()
    Path("sheets").mkdir()
    Path("sheets/index.html").hardlink_to("a.png")
    Path("other.html").write_bytes(Path("a.png").read_bytes())
    Path("list.csv").write_text("filename\na.png\n")
    Path("list.txt").write_text("a.png\n")
    Path("names.txt").write_text("list.csv\n")
    with zipfile.ZipFile("more.zip", "w") as archive:
        archive.write("a.png")
    Path("detector.csv").write_text("a detector\n")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = judge(*arguments, "--overwrite")
    assert (done.code, done.err.splitlines()[-1]) == (2, f"error: {error}".replace("{", "").replace("}", ""))
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_the_detector_that_ships_is_not_replaced(
    run_cli: RunCli, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped.csv"
    shipped.write_text("a detector\n")
    monkeypatch.setattr("gapl.detector.shipped_file", lambda: shipped)
    done = run_cli(command._main, make_image(tmp_path / "a.png"), "--out", shipped, "--overwrite")
    assert done.only_error() == f"error: --out {shipped} is read by this command; name another file"


def test_a_path_that_no_file_can_have_is_a_row(judge: RunCli, make_image: MakeImage, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(b"filename\na\0.png\na.png\n")
    done = judge(tmp_path / "list.csv", "--json")
    assert done.code == 1
    assert "its path has a NUL character" in done.out
    assert done.out.count("\n") == 2


@pytest.mark.parametrize("option", ["--max-seconds", "--max-megapixels"])
@pytest.mark.parametrize("value", ["1e303", "x", "0"])
def test_a_limit_that_is_no_number_is_refused(option: str, value: str, judge: RunCli, tmp_path: Path) -> None:
    done = judge(tmp_path, option, value)
    assert done.code == 2
    assert f"{value}; expected a number above 0, and at most 1,000,000" in done.err


@pytest.mark.parametrize("option", ["--out", "--gallery", "--sheets", "--sort-into"])
def test_an_empty_path_is_refused(option: str, judge: RunCli, tmp_path: Path) -> None:
    assert f"argument {option}: an empty path; name a" in judge(tmp_path, option, "").only_error()
