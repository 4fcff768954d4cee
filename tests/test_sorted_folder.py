"""Images that are sorted by their verdicts: nothing is replaced, lost or changed, and twice is as once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gapl.inputs.input import Input
from gapl.options import HARD, SYMBOLIC
from gapl.results import Result
from gapl.sorted_folder import SortedFolder
from gapl.verdict import Verdict

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun


def result_of(path: Path | str, label: str = "fake") -> Result:
    if label == "unreadable":
        return Result(str(path), "", None, "damaged image")
    return Result(str(path), "0" * 64, Verdict(0.5, 0.0, label, 0.6, 0.3))


def sort(folder: Path, *results: Result, link: str | None = None) -> dict[str, bytes]:
    """Sort, and return what is in the folder then."""
    sorted_folder = SortedFolder(folder, link=link)
    for result in results:
        sorted_folder.add(result)
    sorted_folder.finish()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two of the same name, one of another, and a copy of it. Their contents are looked at by nobody."""
    paths = [tmp_path / name for name in ("x/a.jpg", "y/a.jpg", "x/b", "y/b")]
    for path, content in zip(paths, (b"1", b"2", b"3", b"3"), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
    return paths


@pytest.mark.parametrize("link", [None, HARD, SYMBOLIC])
def test_images_of_one_name_are_numbered(link: str | None, images: list[Path], tmp_path: Path) -> None:
    results = [*map(result_of, images[:2]), *(result_of(path, "real") for path in images[2:])]
    expected = {"fake/a.jpg": b"1", "fake/a-2.jpg": b"2", "real/b": b"3"}
    out = tmp_path / "out"
    assert sort(out, *results, link=link) == expected
    assert (out / "fake/a.jpg").stat().st_mtime == 1e9
    assert (out / "fake/a.jpg").is_symlink() == (link == SYMBOLIC)
    assert (out / "fake/a.jpg").samefile(images[0]) == (link is not None)
    before = {path: path.lstat() for path in out.rglob("*")}
    assert sort(out, *results, link=link) == expected
    assert sort(out, *results) == expected
    assert {path: path.lstat() for path in out.rglob("*")}.keys() == before.keys()
    assert [path.read_bytes() for path in images] == [b"1", b"2", b"3", b"3"]


def test_files_of_others_stay(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out/fake/a-2.jpg").mkdir(parents=True)
    (tmp_path / "out/fake/a.jpg").write_text("a note")
    (tmp_path / "out/fake/a-3.jpg").symlink_to("gone")
    found = sort(tmp_path / "out", result_of(images[0]))
    assert found == {"fake/a.jpg": b"a note", "fake/a-4.jpg": b"1"}
    assert (tmp_path / "out/fake/a-3.jpg").readlink() == Path("gone")


def test_what_cannot_be_opened_is_counted(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    os.mkfifo(tmp_path / "pipe.png")
    names = (images[0], tmp_path / "pipe.png", tmp_path / "gone.png")
    assert sort(tmp_path / "out", *(result_of(name, "unreadable") for name in names)) == {"unreadable/a.jpg": b"1"}
    assert "out: 1 added, 2 could not be opened" in caplog.text


def test_an_image_that_is_no_file_is_written(tmp_path: Path) -> None:
    folder = SortedFolder(tmp_path / "out", link=SYMBOLIC)
    assert folder.keeping(Input("photos.zip/in/a.jpg", lambda: b"1")).read() == b"1"
    folder.add(result_of("photos.zip/in/a.jpg"))
    folder.finish()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fake"]
    assert (tmp_path / "out/fake/a.jpg").read_bytes() == b"1"


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.png"
    path.write_bytes(b"1")
    assert sort(tmp_path / "out", result_of(path)) == {f"fake/{path.name}": b"1"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("x" * 300 + ".png", "x" * 251 + ".png"),
        ("x" + "." * 300, "x" + "." * 250 + ".ppm"),
        ("a\0b.png", "a_b.png"),
        ("clip.mp4#t=1.00", "clip.mp4#t=1.00.ppm"),
    ],
)
def test_a_name_that_no_file_can_have(name: str, written: str, tmp_path: Path) -> None:
    folder = SortedFolder(tmp_path / "out")
    for place in ("photos.zip", "photos.tar"):
        content = b"P6 1 1 255\n" + place.encode()
        folder.keeping(Input(f"{place}/{name}", lambda content=content: content)).read()
        folder.add(result_of(f"{place}/{name}"))
    folder.finish()
    names = {path.name for path in (tmp_path / "out/fake").iterdir()}
    assert len(names) == 2
    assert written in names


def test_the_command(tiny_run: TinyRun, make_image: MakeImage, run_cli: RunCli, tmp_path: Path) -> None:
    import inference

    make_image(tmp_path / "in/a.png")
    make_image(tmp_path / "in/deep/a.png", seed=1)
    (tmp_path / "in/b.png").write_text("no image")
    given = ("--model_path", tiny_run.stage2, "--allow-tiny", tmp_path / "in")
    out = tmp_path / "in/sorted"
    for _ in range(2):  # the second time, its own folder is in the way
        done = run_cli(inference.main, *given, "--json", "--sort-into", out)
        assert (done.code, len(done.out.splitlines())) == (1, 3), done.err
        assert sorted(path.name for path in out.rglob("*.png")) == ["a-2.png", "a.png", "b.png"]
        assert (out / "unreadable/b.png").read_text() == "no image"
    inside = run_cli(inference.main, *given[:3], out, "--sort-into", out)
    assert "all images are inside; name another folder to sort them into" in inside.only_error()
    assert "--link needs --sort-into DIR" in run_cli(inference.main, *given, "--link", "hard").only_error()
    (tmp_path / "file").touch()
    assert "file" in run_cli(inference.main, *given, "--sort-into", tmp_path / "file").only_error()


def test_a_full_disk_is_one_line(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"hal")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    folder = SortedFolder(tmp_path / "out")
    with pytest.raises(OSError, match=r"No space left on device: '.*fake/a.jpg'"):
        folder.add(result_of(images[0]))
    monkeypatch.undo()
    del folder  # which removes what it was about to copy
    assert sort(tmp_path / "out", result_of(images[0])) == {"fake/a.jpg": b"1"}
