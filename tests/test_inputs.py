"""What images come from besides files and folders: archives, shards, lists, patterns, videos, stdin."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gapl.decode import UnreadableImage, decode_image
from gapl.inputs import archives
from gapl.inputs.archives import Limits, list_archive
from gapl.inputs.input import Input, read_within
from gapl.inputs.kinds import TAR, ZIP, kind_of
from gapl.inputs.scan import Scan, Ways, scan_images

if TYPE_CHECKING:
    from tests.conftest import Finished, MakeImage

PROJECT = Path(__file__).resolve().parent.parent
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
SMALL = Limits(members=3, member_bytes=2000, ratio=5, free_bytes=1000)
Judge = Callable[..., "Finished"]


@pytest.fixture
def images(tmp_path: Path, make_image: MakeImage) -> list[bytes]:
    return [make_image(tmp_path / "made" / f"{i}.png", seed=i, size=(9, 7)).read_bytes() for i in range(3)]


def write_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tar_entry(name: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


def names(scan: Scan) -> list[str]:
    return [image.name for image in scan.images]


def refusals(images: list[Input]) -> dict[str, str]:
    """Why images cannot be read, by their names."""
    found = {}
    for image in images:
        try:
            image.read()
        except UnreadableImage as error:
            found[image.name] = str(error)
    return found


def rows_of(done: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


# ---------------------------------------------------------------------------------------------------------
# Archives


@pytest.mark.parametrize("kind", ["zip", *TARS])
def test_an_archive_is_read_in_its_order(kind: str, tmp_path: Path, images: list[bytes]) -> None:
    members = [
        ("b.png", images[0]),
        ("inner/a.JPG", images[1]),
        ("no suffix", images[2]),
        ("/etc/root.png", images[0]),
        ("../../up.png", images[1]),
        ("notes.txt", b"text"),
        ("more.zip", b"PK"),
        (".hidden/c.png", images[0]),
        ("__MACOSX/._b.png", images[0]),
    ]
    path = tmp_path / f"photos.{kind}"
    _ = write_zip(path, *members) if kind == "zip" else write_tar(path, *members, mode=TARS[kind])
    scan = scan_images([path])
    inside = ["b.png", "inner/a.JPG", "no suffix", "/etc/root.png", "../../up.png"]
    assert names(scan) == [f"{path}/{name}" for name in inside]
    assert [image.read() for image in scan.images] == [images[i] for i in (0, 1, 2, 0, 1)]
    assert scan.images[1].read() == images[1]  # again, and out of order
    assert scan.left_out == {"no image (.txt)": 1, "an archive inside an archive": 1}
    assert scan.images[0].file is None


def test_an_archive_is_known_by_its_first_bytes(tmp_path: Path, images: list[bytes]) -> None:
    kinds = {"download": ZIP, "one.cbz": ZIP, "two": TAR, "three.part": TAR}
    for name in ("download", "one.cbz"):
        write_zip(tmp_path / name, ("a.png", images[0]))
    write_tar(tmp_path / "two", ("a.png", images[0]))
    write_tar(tmp_path / "three.part", ("a.png", images[0]), mode="w:gz")
    assert {path.name: kind_of(path) for path in tmp_path.iterdir() if path.is_file()} == kinds
    assert len(scan_images([tmp_path / name for name in kinds]).images) == 4


def test_a_name_that_stands_twice_is_numbered(tmp_path: Path, images: list[bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", *((name, images[0]) for name in ("a", "a (2)", "b", "a", "a")))
    assert names(scan_images([path])) == [f"{path}/{name}" for name in ("a", "a (2)", "b", "a (3)", "a (4)")]


def test_links_and_devices_in_archives_are_left_out(tmp_path: Path, images: list[bytes]) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    special = [(tar_entry(f"{i}.png", kind), b"") for i, kind in enumerate(kinds)]
    path = write_tar(tmp_path / "x.tar", *special, ("a.png", images[0]))
    assert scan_images([path]).left_out == {"a link inside an archive": 2, "no regular file": 2}
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    scan = scan_images([write_zip(tmp_path / "x.zip", (link, b"/etc/passwd"), ("a.png", images[0]))])
    assert (len(scan.images), scan.left_out) == (1, {"a link inside an archive": 1})


def test_archives_in_a_folder_are_left_out(tmp_path: Path, images: list[bytes]) -> None:
    folder = tmp_path / "made"
    write_zip(folder / "more.zip", ("a.png", images[0]))
    (folder / "clip.MP4").write_bytes(b"")
    scan = scan_images([folder])
    assert len(scan.images) == 3
    assert scan.left_out == {"archive (.zip; read if it is named)": 1, "video (.mp4; read if it is named)": 1}


def test_members_that_cannot_be_read_are_a_row_each(tmp_path: Path, images: list[bytes]) -> None:
    path = write_zip(tmp_path / "x.zip", *((f"{i}.png", images[0]) for i in range(3)))
    content = bytearray(path.read_bytes())
    second, third = content.index(b"1.png"), content.index(b"2.png")
    content[third - 30 + 6] |= 1  # encrypted, by the member itself
    content[content.rindex(b"2.png") - 46 + 8] |= 1  # and by the list
    content[second + 8] ^= 0xFF  # the packed bytes
    path.write_bytes(content)
    found = refusals(scan_images([path]).images)
    assert list(found) == [f"{path}/1.png", f"{path}/2.png"]
    assert "damaged in the archive" in found[f"{path}/1.png"]
    assert "encrypted" in found[f"{path}/2.png"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])  # bzip2 packs all of it at once
def test_a_tar_that_breaks_off_is_read_as_far_as_it_goes(kind: str, tmp_path: Path) -> None:
    noise = [random.Random(i).randbytes(20_000) for i in range(20)]
    whole = write_tar(tmp_path / f"x.{kind}", *((f"{i}.png", n) for i, n in enumerate(noise)), mode=TARS[kind])
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(whole.read_bytes()[:250_000])
    *members, last = scan_images([path]).images
    assert len(members) >= 10
    assert members[3].read() == noise[3]
    assert last.name == str(path)
    assert "damaged" in refusals([last])[str(path)]


def test_a_tar_with_a_damaged_header_does_not_end_in_silence(tmp_path: Path, images: list[bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", *((f"{i}.png", images[0]) for i in range(3)))
    content = bytearray(path.read_bytes())
    content[content.index(b"1.png") + 150] ^= 0xFF  # in the sum of its header
    path.write_bytes(content)
    scan = scan_images([path])
    assert names(scan) == [f"{path}/0.png", str(path)]
    assert refusals(scan.images) == {str(path): "damaged after 1 members"}


def test_archives_that_hold_nothing_or_are_none(tmp_path: Path, images: list[bytes]) -> None:
    write_zip(tmp_path / "empty.zip")
    write_tar(tmp_path / "empty.tar.gz", mode="w:gz")
    write_zip(tmp_path / "text.zip", ("a.txt", b"text"))
    for name in ("none.zip", "none.tar", "none.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive at all")
    expected = {
        "empty.zip": "no image files",
        "empty.tar.gz": "no image files",
        "text.zip": r"no image files; found 1 x no image (.txt)",
        "none.zip": "damaged, or no zip archive (File is not a zip file)",
        "none.tar": "damaged, or no tar archive (truncated header)",
        "none.tar.gz": "damaged, or no tar archive (truncated header)",
    }
    for name, reason in expected.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
            scan_images([tmp_path / name])
        assert str(caught.value) == f"{tmp_path / name}: {reason}"
    scan = scan_images([tmp_path / "made/0.png", *(tmp_path / name for name in expected)])
    assert refusals(scan.images) == {str(tmp_path / name): reason for name, reason in expected.items()}


# ---------------------------------------------------------------------------------------------------------
# Limits of archives


def listed(path: Path, limits: Limits) -> list[Input]:
    kind = ZIP if path.suffix == ".zip" else TAR
    return list_archive(path, kind, note=lambda *_: None, limits=limits)


def test_bombs_are_refused(tmp_path: Path) -> None:
    zeros = bytes(100_000)
    path = write_zip(tmp_path / "x.zip", ("a.png", zeros))
    with pytest.raises(ValueError, match=r"x\.zip: it unpacks to more than 5 times its size"):
        listed(path, SMALL)
    path = write_zip(tmp_path / "y.zip", ("a.png", zeros), ("b.bin", random.Random(0).randbytes(50_000)))
    (reason,) = refusals(listed(path, Limits(ratio=5, free_bytes=1000))).values()
    assert reason == "it unpacks to too many times its size"
    path = write_zip(tmp_path / "z.zip", ("a.png", random.Random(0).randbytes(5000)))
    (reason,) = refusals(listed(path, SMALL)).values()
    assert "too large for an image" in reason
    for kind, mode in list(TARS.items())[1:]:
        path = write_tar(tmp_path / f"x.{kind}", ("a.png", bytes(1_000_000)), ("b.png", b""), mode=mode)
        (broken,) = refusals_of_listing(path, Limits(ratio=5, free_bytes=1000))
        assert broken.endswith("it unpacks to more than 5 times its size")


def refusals_of_listing(path: Path, limits: Limits) -> Iterator[str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller compares
        listed(path, limits)
    yield str(caught.value)


def test_too_many_members_are_refused(tmp_path: Path, images: list[bytes]) -> None:
    members = [(f"{i}.png", images[0]) for i in range(4)]
    for path in (write_zip(tmp_path / "x.zip", *members), write_tar(tmp_path / "x.tar", *members)):
        with pytest.raises(ValueError, match="members"):
            listed(path, SMALL)
        assert len(listed(path, Limits(members=4))) == 4
    with pytest.raises(ValueError, match="its list of members is larger than"):
        listed(tmp_path / "x.zip", Limits(name_bytes=150))


def test_a_long_description_of_a_tar_member_is_not_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a.png")
    entry.pax_headers = {"comment": "x" * 5000}
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry)
    with pytest.raises(ValueError, match="what describes a member is larger"):
        listed(path, Limits(name_bytes=2000))


def test_a_packed_tar_is_unpacked_twice_and_not_once_for_each_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = random.Random(0).randbytes(10_000)
    path = write_tar(tmp_path / "x.tar.gz", *((f"{i}.png", noise) for i in range(60)), mode="w:gz")
    unpacked = 0

    class Counting(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal unpacked
            content = super().read(size)
            unpacked += len(content)
            return content

        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            assert whence == io.SEEK_CUR or offset >= super().seek(0, io.SEEK_CUR), "it begins anew"
            return super().seek(offset, whence)

    monkeypatch.setitem(archives._UNPACK, b"\x1f\x8b", lambda file: Counting(fileobj=file))
    assert all(image.read() == noise for image in scan_images([path]).images)
    assert unpacked < 2.5 * 60 * 10_500


# ---------------------------------------------------------------------------------------------------------
# Tables


def write_shard(path: Path, images: list[bytes | None], *, column: str = "image_data", group: int = 2) -> Path:
    pq.write_table(pa.table({column: pa.array(images, pa.binary())}), path, row_group_size=group)
    return path


@pytest.mark.parametrize("column", ["image_data", "image"])
def test_rows_of_a_shard(tmp_path: Path, images: list[bytes], column: str) -> None:
    path = write_shard(tmp_path / "x.parquet", [*images, None, images[0]], column=column)
    scan = scan_images([path])
    assert names(scan) == [f"{path}#{row}" for row in range(5)]
    assert refusals(scan.images) == {f"{path}#3": "the row has no image"}
    assert [scan.images[row].read() for row in (0, 1, 2, 4, 1)] == [*images, images[0], images[1]]


def test_a_shard_of_structs_and_one_that_changes(tmp_path: Path, images: list[bytes]) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [{"bytes": each, "path": None} for each in images]}), path)
    scan = scan_images([path])
    assert scan.images[1].read() == images[1]
    write_shard(path, images[:1])
    assert "has changed" in refusals(scan_images_again(scan))[f"{path}#0"]


def scan_images_again(scan: Scan) -> list[Input]:
    """The images of a scan, with their files closed."""
    for image in scan.images:
        refusals([image])
    return scan.images


def test_tables_without_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a"], "score": [1]}), tmp_path / "x.parquet")
    with pytest.raises(
        ValueError, match=r"x\.parquet: no column of encoded images, nor one of paths; found caption, score$"
    ):
        scan_images([tmp_path / "x.parquet"])
    named = Ways(columns={"filename": "nope"})
    with pytest.raises(ValueError, match=r"no column nope \(--columns filename=nope\); found caption, score$"):
        scan_images([tmp_path / "x.parquet"], named)
    pq.write_table(pa.table({"image": ["a.png"], "path": ["b.png"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"image and path may both be the column filename; found image, path; "):
        scan_images([tmp_path / "x.parquet"])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read as parquet"):
        scan_images([tmp_path / "broken.parquet"])
    (tmp_path / "x.csv").write_text("caption,score\na,1\n")
    with pytest.raises(ValueError, match=r"no column filename; found caption, score; name them with --columns"):
        scan_images([tmp_path / "x.csv"])
    (tmp_path / "x.csv").write_text("path\n")
    with pytest.raises(ValueError, match=r"x\.csv: no image files$"):
        scan_images([tmp_path / "x.csv"])


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet", "x.pq", "x"])
def test_a_list_of_paths(tmp_path: Path, images: list[bytes], name: str) -> None:
    path, header = tmp_path / name, ["label", "img_path"]
    rows = [["real", "made/0.png"], ["fake", "made\\1.png"], ["fake", "gone.png"], ["real", ""]]
    if path.suffix not in (".csv", ".tsv"):
        pq.write_table(pa.table(dict(zip(header, zip(*rows, strict=True), strict=True))), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if name == "x.tsv" else ";").writerows([header, *rows])
    scan = scan_images([path])
    assert names(scan) == [str(tmp_path / each) for each in ("made/0.png", "made/1.png", "gone.png")] + [
        f"{path}, row 4"
    ]
    assert [image.read() for image in scan.images[:2]] == images[:2]
    assert refusals(scan.images[3:]) == {f"{path}, row 4": "no path"}
    assert scan.images[0].file == tmp_path / "made/0.png"


def test_columns_name_the_paths(judge: Judge, tmp_path: Path, images: list[bytes]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("image,path\nmade/0.png,other\n")
    assert "image and path may both be the column filename" in judge(path).only_error()
    done = judge(path, "--json", "--columns", "filename=image")
    assert [row["path"] for row in rows_of(done)] == [str(tmp_path / "made/0.png")]


# ---------------------------------------------------------------------------------------------------------
# Patterns, and stdin


def test_patterns(tmp_path: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made/deep").mkdir()
    (tmp_path / "made/deep/3.png").write_bytes(images[0])
    (tmp_path / "made/[4].png").write_bytes(images[0])
    assert names(scan_images(["made/?.png"])) == [f"made/{i}.png" for i in range(3)]
    assert names(scan_images(["made/**/*.png"])) == [
        *(f"made/{i}.png" for i in range(3)),
        "made/[4].png",
        "made/deep/3.png",
    ]
    assert names(scan_images(["made/[4].png"])) == ["made/[4].png"]  # a file of this name
    assert names(scan_images(["made/d*"])) == ["made/deep/3.png"]  # a folder
    assert len(scan_images(["made/**"]).images) == 5
    with pytest.raises(ValueError, match=r"^made/\*\.jpg matches no file"):
        scan_images(["made/*.jpg"])
    assert names(scan_images(["made/*.jpg", "made/0.png"])) == ["made/*.jpg", "made/0.png"]  # a row that says so


def test_an_image_on_stdin(
    judge: Judge, images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = rows_of(judge(tmp_path / "made/0.png", "--json"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(images[0])))
    done = judge("--stdin-image", "--json", tmp_path / "made/0.png")
    assert rows_of(done) == [expected | {"path": "stdin"}, expected | {"duplicate_of": "stdin"}]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "stdin is empty; expected the bytes of an image"),
        (("-",), "stdin is the image, with --stdin-image; - cannot name paths there, too"),
    ],
)
def test_stdin_that_is_no_image(arguments: tuple[str, ...], error: str) -> None:
    command = [sys.executable, "-m", "gapl", "--stdin-image", *arguments]
    done = subprocess.run(command, input="", capture_output=True, cwd=PROJECT, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {error}\n")


# ---------------------------------------------------------------------------------------------------------
# Videos


def write_video(path: Path, *, seconds: float = 2, rate: int = 10, **options: str) -> Path:
    """Write a video of one grey that is lighter from frame to frame."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4" if path.suffix != ".webm" else "libvpx", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(round(seconds * rate)):
            grey = np.full((48, 64, 3), 10 * i + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def greys(scan: Scan) -> list[float]:
    return [float(np.asarray(decode_image(image.read())).mean()) for image in scan.images]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MOV", "clip.avi", "clip.mkv"])
def test_frames_of_a_video(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name)
    scan = scan_images([path], Ways(frames=4))
    assert names(scan) == [f"{path}#t={time:.2f}" for time in (0.25, 0.75, 1.25, 1.75)]
    assert greys(scan) == pytest.approx([20 + 10 * i for i in (2, 7, 12, 17)], abs=4)
    assert decode_image(scan.images[0].read()).size == (64, 48)


def test_a_video_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.webm", live="1")  # as browsers record
    assert greys(scan_images([path], Ways(frames=2))) == pytest.approx([60, 160], abs=8)
    assert names(scan_images([path], Ways(frames=2))) == [f"{path}#t=0.47", f"{path}#t=1.42"]


def test_few_frames_and_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", seconds=0.1)
    assert len(scan_images([path], Ways(frames=50)).images) == 11  # hundredths of a second
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"none\.mp4: damaged, or no video that is read"):
        scan_images([tmp_path / "none.mp4"])
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)  # ffmpeg would open what it names
    with pytest.raises(ValueError, match=r"list\.mp4: damaged, or no video that is read"):
        scan_images([tmp_path / "list.mp4"])


def test_a_video_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"clip\.mp4: a video needs the package av; install it: pip install av"):
        scan_images([tmp_path / "clip.mp4"])


# ---------------------------------------------------------------------------------------------------------
# All together


def test_every_input_is_judged_like_its_image(judge: Judge, tmp_path: Path, images: list[bytes]) -> None:
    paths = [
        write_zip(tmp_path / "x.zip", ("a.png", images[0]), ("b.png", b"broken")),
        write_tar(tmp_path / "x.tgz", ("a.png", images[1]), mode="w:gz"),
        write_shard(tmp_path / "x.parquet", [images[2]]),
    ]
    (tmp_path / "x.csv").write_text("file\nmade/0.png\n")
    done = judge(*paths, tmp_path / "x.csv", tmp_path / "gone.zip", "https://example.org/a.png", "--json")
    rows = rows_of(done)
    files = rows_of(judge(tmp_path / "made", "--json"))
    assert done.code == 1
    assert [row["path"] for row in rows] == [
        *(str(tmp_path / each) for each in ("x.zip/a.png", "x.zip/b.png", "x.tgz/a.png", "x.parquet#0")),
        *(str(tmp_path / each) for each in ("made/0.png", "gone.zip")),
        "https://example.org/a.png",
    ]
    assert [row.get("score") for row in rows[:5] if "score" in row] == [files[i]["score"] for i in (0, 1, 2, 0)]
    assert [row["error"] for row in rows if "error" in row] == [
        "not an image, or of a format that is not read",
        "No such file or directory",
        "URLs are read only with --allow-urls",
    ]


def test_reading_that_hangs_is_given_up(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hang() -> bytes:
        go_on.wait(20)
        return b""

    started = time.monotonic()
    with pytest.raises(UnreadableImage, match=r"reading it took longer than 0\.05 s"):
        read_within(Input("slow", hang), seconds=0.05)
    assert time.monotonic() - started < 10
    go_on.set()
    assert read_within(Input("quick", lambda: b"x")) == b"x"
    with pytest.raises(OSError, match="gone"):
        read_within(Input("gone", lambda: (_ for _ in ()).throw(OSError("gone"))))


def test_a_container_that_hangs_fails_its_other_images_at_once() -> None:
    from contextlib import nullcontext

    from gapl.inputs.input import inputs_in

    go_on = threading.Event()
    one, two = inputs_in([("one", 1), ("two", 2)], lambda: nullcontext(lambda _key: os.urandom(go_on.wait(20))))
    with pytest.raises(UnreadableImage, match="took longer"):
        read_within(one, seconds=0.05)
    with pytest.raises(UnreadableImage, match="the file that holds it hangs"):
        read_within(two)
    go_on.set()


# ---------------------------------------------------------------------------------------------------------
# Object stores


@pytest.fixture
def store(images: list[bytes]) -> Iterator[Any]:
    """A store in memory: two images below photos/, a text, and a hidden image."""
    import fsspec

    store = fsspec.filesystem("memory")
    contents = {"b.png": images[0], "in/a.png": images[0], "broken.png": b"none", "read.txt": b"", ".x/c.png": b""}
    for name, content in contents.items():
        store.pipe(f"/photos/{name}", content)
    yield store
    store.rm("/photos", recursive=True)


def test_images_of_a_store(judge: Judge, store: Any, images: list[bytes]) -> None:
    done = judge("memory://photos", "--json", "--workers", 1)
    rows = {row["path"]: row for row in rows_of(done)}
    assert list(rows) == ["memory:///photos/b.png", "memory:///photos/broken.png", "memory:///photos/in/a.png"]
    assert rows["memory:///photos/in/a.png"]["duplicate_of"] == "memory:///photos/b.png"
    assert rows["memory:///photos/broken.png"]["error"] == "not an image, or of a format that is not read"
    assert (done.code, store.exists("/photos/read.txt")) == (1, True)
    (image,) = scan_images(["memory://photos/b.png"]).images
    assert image.read() == images[0]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memory://none", "memory://none: no image files"),
        ("s3://bucket/a.png", "s3://bucket/a.png cannot be reached: Install s3fs to access S3"),
    ],
)
def test_a_store_that_has_none(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}"):
        scan_images([url])


def test_a_row_of_a_list_asks_no_store(judge: Judge, store: Any, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("filename\nmemory://photos/b.png\n")
    (row,) = rows_of(judge(tmp_path / "list.csv", "--json"))
    assert row["error"] == "memory URLs are not read; http and https are"
