"""Collect the open corpus from a git server on this machine, and check the list that ships."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from data import collect
from data.benchmarks.benchmark import Benchmark
from data.benchmarks.find import find_benchmarks
from data.folders import scan_folder
from data.open_corpus import rendering
from data.open_corpus.collection import _place_of
from data.open_corpus.host import Host
from data.open_corpus.listing import PARTS, PICTURE_COLUMNS, REPOSITORY_COLUMNS, SHIPPED, Origin, read_listing
from data.open_corpus.rendering import draw_factor, render
from data.tables import read_manifest
from data.words import class_of, classes_of, split_of
from gapl.decode import UnreadableImage
from gapl.files.lock import lock
from gapl.labels import Label

if TYPE_CHECKING:
    from tests.conftest import Finished, RunCli

ODD_PATH = 'pictures/--a "quoted", caf\u00e9 & $(touch x);.png'
HAS_DAEMON = (
    Path(subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True).stdout.strip())
    / "git-daemon"
).exists()


def git(folder: Path, *arguments: str) -> str:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@localhost"),
        **dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull),
    }
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()


def commit(folder: Path, files: dict[str, bytes]) -> str:
    """Commit files to a repository with a work tree, which is made if it is not there; return the commit."""
    if not folder.exists():
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        git(folder, "config", "uploadpack.allowFilter", "true")
        git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "pictures")
    return git(folder, "rev-parse", "HEAD")


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Lists:
    """A list of pictures that a test writes, with what the collector needs to read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: list[tuple[str, ...]] = []
        self.repositories: set[tuple[str, str, str]] = set()
        folder.mkdir()
        self.remove("# nobody so far")

    def add(
        self,
        origin: tuple[str, str],
        path: str,
        sha: str,
        *,
        part: str = "train",
        label: int = 1,
        source: str = "a",
    ) -> None:
        repository, commit = origin
        self.pictures.append((part, str(label), source, source, repository, commit[:8], path, sha))
        self.repositories.add((repository, commit, "MIT"))
        self.write()

    def write(self) -> None:
        for name, columns, rows in (
            ("pictures.csv", PICTURE_COLUMNS, self.pictures),
            ("repositories.csv", REPOSITORY_COLUMNS, sorted(self.repositories)),
        ):
            with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *rows])

    def remove(self, text: str) -> None:
        (self.folder / "removed.txt").write_text(f"{text}\n", encoding="utf-8")


class Server:
    """Git hosting on this machine: the repositories below `root`, and the requests that it had."""

    def __init__(self, root: Path, url: str, log: Path) -> None:
        self.root, self.url, self.log = root, url, log

    def commit(self, repository: str, files: dict[str, bytes]) -> tuple[str, str]:
        return repository, commit(self.root / f"{repository}.git", files)

    def requests(self) -> list[str]:
        return re.findall(r"Request upload-pack for '/(.+?)\.git'", self.log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A git daemon on a real port; where git has none, the same folder by file:// (its requests are not seen)."""
    root = tmp_path_factory.mktemp("server")
    log = root / "log"
    log.touch()
    if not HAS_DAEMON:
        yield Server(root, f"file://{root}", log)
        return
    port = free_port()
    command = ["git", "daemon", "--verbose", "--export-all", "--reuseaddr", f"--base-path={root}"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--listen=127.0.0.1", f"--port={port}", str(root)], stderr=file, start_new_session=True
        )
    try:
        wait_for(port)
        yield Server(root, f"git://127.0.0.1:{port}", log)
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("the git daemon does not listen")


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path / "list")


@pytest.fixture
def run(run_cli: RunCli, server: Server, lists: Lists, tmp_path: Path) -> Any:
    def collect_with(*options: object, host: str = server.url) -> Finished:
        common = ("--out", tmp_path / "out", "--list", lists.folder, "--host", host, "--pause", 0, "--timeout", 20)
        return run_cli(collect.main, *common, *options)

    return collect_with


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reasons(out: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in table(out / "missing.csv")}


# ---------------------------------------------------------------------------------------------------------
# From a server


def test_what_is_collected_is_read_as_folders_as_benchmarks_and_as_a_manifest(
    run: Any, server: Server, lists: Lists, tmp_path: Path
) -> None:
    contents = [encode(noise(seed)) for seed in range(6)]
    names = [ODD_PATH, *(f"{n}.png" for n in range(1, 6))]
    files = dict(zip(names, contents, strict=True))
    origin = server.commit("some-owner/a.name", {**files, "unlisted.png": encode(noise(99))})
    for number, (part, label, source) in enumerate(
        [
            *(("train", 1, "gen/one"), ("train", 0, "camera")),
            *(("bench/modern", 1, "gen two"), ("bench/modern", 0, "camera2")),
            *(("bench/unseen", 1, "gen3"), ("bench/unseen", 0, "camera3")),
        ]
    ):
        lists.add(origin, names[number], sha256(contents[number]), part=part, label=label, source=source)
    done = run()
    out = tmp_path / "out"
    assert (done.code, done.out) == (0, f"6 pictures are in {out}, 0 are missing\n")
    train = scan_folder(out / "train")
    assert [(record.label, record.generator) for record in train] == [
        (Label.REAL, "camera"),
        (Label.FAKE, "gen_one"),
    ]
    found = [each for each in find_benchmarks(out / "bench") if isinstance(each, Benchmark)]
    assert [each.name for each in found] == ["modern", "unseen"]
    manifest = read_manifest(out / "manifest.csv")
    assert sorted(record.generator for record in manifest if record.label is Label.FAKE) == [
        *("gen two", "gen/one", "gen3")
    ]
    assert not list(out.glob(".*")), "the scratch repository is left"


def test_a_second_run_asks_nothing_and_a_third_only_for_what_is_lost(
    run: Any, server: Server, lists: Lists, tmp_path: Path
) -> None:
    if not HAS_DAEMON:
        pytest.skip("this git has no daemon that tells of its requests")
    for name in ("resume/one", "resume/two"):
        contents = [encode(noise(seed)) for seed in ((1, 2, 3) if name.endswith("one") else (4,))]
        origin = server.commit(name, {f"{n}.png": content for n, content in enumerate(contents)})
        for n, content in enumerate(contents):
            lists.add(origin, f"{n}.png", sha256(content))

    def requests() -> list[str]:
        return [name for name in server.requests() if name.startswith("resume/")]

    assert run().code == 0
    assert requests() == ["resume/one"] * 2 + ["resume/two"] * 2  # the commit, then all of its pictures
    done = run()
    assert (done.code, len(requests())) == (0, 4)
    assert done.out.startswith("4 pictures are in")
    lost = tmp_path / "out/train/a/1_fake" / f"{sha256(encode(noise(4)))[:16]}.jpg"
    lost.unlink()
    (tmp_path / "out/.repository-of-a-killed-run/objects").mkdir(parents=True)
    assert run().code == 0
    assert requests()[4:] == ["resume/two"] * 2
    assert lost.exists()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_that_another_run_collects_into_is_refused(
    run: Any, server: Server, lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr("gapl.files.lock.PATIENCE_S", 0.1)
    content = encode(noise(1))
    lists.add(server.commit("two/runs", {"a.png": content}), "a.png", sha256(content))
    of_the_other = tmp_path / "out/.repository-of-the-other-run"
    of_the_other.mkdir(parents=True)
    held = lock(tmp_path / "out")
    assert held is not None
    try:
        assert "out is used by another run; wait for it, or name another folder" in run().only_error()
        assert list((tmp_path / "out").iterdir()) == [of_the_other]
    finally:
        os.close(held)
    assert run().code == 0
    assert not of_the_other.exists()


def test_only_listed_files_are_downloaded(server: Server, tmp_path: Path) -> None:
    repository, sha = server.commit("few/files", {"a.png": b"listed", "b.png": b"not listed"})
    with Host(server.url).fetch(Origin(repository, sha), ["a.png", "none.png"], scratch=tmp_path) as fetched:
        options = ("cat-file", "--batch-check=%(objecttype)", "--batch-all-objects")
        assert git(fetched.git_dir, *options).split().count("blob") == 1
        assert fetched.read(fetched.files()["a.png"]) == b"listed"
    assert list(tmp_path.iterdir()) == []


def test_each_missing_picture_is_named_with_its_reason(
    run: Any, server: Server, lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it was not installed
    good, text, cut = encode(noise(1)), b"no image at all", encode(noise(2))[:200]
    heic = b"\0\0\0\x18ftypheic" + b"\0" * 40
    files = {"good.png": good, "text.png": text, "cut.png": cut, "phone.jpg": heic, "other.png": encode(noise(3))}
    origin = server.commit("missing/things", files)
    for name in ("good.png", "text.png", "cut.png", "phone.jpg"):
        lists.add(origin, name, sha256(files[name]))
    lists.add(origin, "other.png", sha256(b"what stood there before"))
    lists.add(origin, "gone.png", sha256(b"1"))
    lists.add(("missing/things", "0" * 40), "old.png", sha256(b"2"))
    lists.add(("missing/nobody", "0" * 40), "lost.png", sha256(b"3"))
    done = run()
    assert done.code == 0, done.err
    assert (
        done.out
        == f"1 pictures are in {tmp_path / 'out'}, 7 are missing: {tmp_path / 'out'}/missing.csv says why\n"
    )
    found = reasons(tmp_path / "out")
    assert found.pop("cut.png").startswith("not decodable: damaged image: ")
    assert found == {
        "text.png": "not decodable: not an image, or of a format that is not read",
        "phone.jpg": "not decodable: HEIC, which needs the package pillow-heif: pip install pillow-heif",
        "other.png": "another hash",
        "gone.png": "path not there",
        "old.png": "commit gone",
        "lost.png": "repository gone",
    }


def test_several_commits_of_a_repository(run: Any, server: Server, lists: Lists, tmp_path: Path) -> None:
    versions = [encode(noise(seed)) for seed in (11, 12)]
    for content in versions:
        lists.add(server.commit("two/commits", {"same.png": content}), "same.png", sha256(content))
    assert run().code == 0
    assert len(scan_folder(tmp_path / "out/train")) == 2


def test_parts_are_chosen_and_a_moved_picture_is_not_kept_twice(
    run: Any, server: Server, lists: Lists, tmp_path: Path
) -> None:
    contents = [encode(noise(seed)) for seed in (21, 22)]
    origin = server.commit("parts/here", {f"{n}.png": content for n, content in enumerate(contents)})
    lists.add(origin, "0.png", sha256(contents[0]), part="bench/wide")
    lists.add(origin, "1.png", sha256(contents[1]))
    assert run("--part", "bench/wide").out.startswith("1 pictures")
    assert [row["part"] for row in table(tmp_path / "out/manifest.csv")] == ["bench/wide"]
    lists.pictures[0] = ("train", *lists.pictures[0][1:])
    lists.write()
    assert run().out.startswith("2 pictures")
    assert sorted(path.parts[-4] for path in (tmp_path / "out").rglob("*.jpg")) == ["train", "train"]


@pytest.mark.parametrize("by", ["sha256", "repository"])
def test_what_its_owner_removed_is_not_taken_and_is_deleted(
    run: Any, server: Server, lists: Lists, tmp_path: Path, by: str
) -> None:
    contents = [encode(noise(seed)) for seed in (31, 32)]
    for name, content in zip(("removed/Yes", "removed/no"), contents, strict=True):
        lists.add(server.commit(name + by, {"a.png": content}), "a.png", sha256(content))
    assert run().out.startswith("2 pictures")
    lists.remove(f"# asked for\n{sha256(contents[0]) if by == 'sha256' else 'Removed/yes' + by}  # by its owner")
    done = run()
    assert (done.code, done.out.startswith("1 pictures")) == (0, True)
    assert [row["sha256"] for row in table(tmp_path / "out/manifest.csv")] == [sha256(contents[1])]
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 1
    assert reasons(tmp_path / "out") == {"a.png": "removed on request"}


# ---------------------------------------------------------------------------------------------------------
# From a mirror, and without a host


@pytest.mark.parametrize("bare", [False, True], ids=["work tree", "git directory"])
def test_a_mirror_is_read_and_an_unreachable_host_is_asked_three_times(
    run: Any, lists: Lists, tmp_path: Path, bare: bool
) -> None:
    content = encode(noise(1))
    folder = tmp_path / "mirror/z+last/repo"
    sha = commit(tmp_path / "work" if bare else folder, {ODD_PATH: content})
    if bare:
        git(tmp_path, "clone", "--quiet", "--bare", str(tmp_path / "work"), str(folder))
    lists.add(("z/last", sha), ODD_PATH, sha256(content))
    for n in range(5):
        lists.add((f"a/not-in-mirror{n}", "1" * 40), f"{n}.png", sha256(str(n).encode()))
    done = run("--mirror", tmp_path / "mirror", host=f"git://127.0.0.1:{free_port()}")
    assert done.code == 0, done.err
    found = list(reasons(tmp_path / "out").values())
    assert [reason.startswith("host failed: unable to connect") for reason in found] == [True] * 3 + [False] * 2
    assert all("failed 3 times in a row" in reason for reason in found[3:])
    assert [record.generator for record in scan_folder(tmp_path / "out/train")] == ["a"]


def test_a_repository_whose_mirror_lacks_the_folders_of_the_commit_is_downloaded(
    run: Any, server: Server, lists: Lists, tmp_path: Path
) -> None:
    content = encode(noise(1))
    origin = server.commit("treeless/clone", {"folder/a.png": content})
    lists.add(origin, "folder/a.png", sha256(content))
    source, folder = f"file://{server.root}/treeless/clone.git", tmp_path / "mirror/treeless+clone/repo"
    git(tmp_path, "clone", "--quiet", "--bare", "--filter=tree:0", source, str(folder))
    done = run("--mirror", tmp_path / "mirror")
    assert done.code == 0, done.err
    assert done.out.startswith("1 pictures")


def test_one_clear_line_when_nothing_can_be_had(
    run: Any, lists: Lists, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists.add(("some/name", "1" * 40), "a.png", sha256(b"a"))
    message = run(host=f"git://127.0.0.1:{free_port()}").only_error()
    assert message.startswith("error: no picture could be had; 1 of 1: host failed: unable to connect")
    assert len(table(tmp_path / "out/missing.csv")) == 1
    assert "invalid choice: 'bench/none'" in run("--part", "bench/none").only_error()
    assert "no such folder; expected a mirror" in run("--mirror", tmp_path / "none").only_error()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no git on this machine" in run().only_error()


def test_a_host_that_does_not_answer_is_given_up(run: Any, lists: Lists) -> None:
    lists.add(("some/name", "1" * 40), "a.png", sha256(b"a"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = run("--timeout", 0.5, host=f"git://127.0.0.1:{silent.getsockname()[1]}").only_error()
    assert message.endswith("host failed: no answer within 0.5 s")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("part", "bench/other", "unknown part 'bench/other'"),
        ("label", "2", "label '2' is neither 0 nor 1"),
        ("repository", "../../etc", "'../../etc' is no owner/name"),
        ("repository", "--upload-pack=x/y", "is no owner/name"),
        ("commit", "--output=x", "'--output=x' is no commit of 40 digits"),
        ("sha256", "../../x", "'../../x' is no SHA-256"),
        ("path", "", "line 2: no path"),
    ],
)
def test_a_wrong_list_is_refused(run: Any, lists: Lists, column: str, value: str, expected: str) -> None:
    lists.add(("some/name", "1" * 40), "a.png", sha256(b"a"))
    row = dict(zip(PICTURE_COLUMNS, lists.pictures[0], strict=True)) | {column: value}
    if column in REPOSITORY_COLUMNS:
        origin = {"repository": "some/name", "commit": "1" * 40} | {column: value}
        lists.repositories = {(origin["repository"], origin["commit"], "MIT")}
    lists.pictures = [tuple(row.values())]
    lists.write()
    assert expected in run().only_error()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(
    run: Any, server: Server, lists: Lists, tmp_path: Path
) -> None:
    content = encode(noise(1))
    lists.add(server.commit("foreign/manifest", {"a.png": content}), "a.png", sha256(content))
    assert run().code == 0
    manifest = tmp_path / "out/manifest.csv"
    manifest.write_text(manifest.read_text().replace("train/a/1_fake/", "../"))
    lists.remove(sha256(content))
    assert "does not follow from its line" in run().only_error()
    assert list((tmp_path / "out").rglob("*.jpg"))


def test_wrong_lines_of_a_removal_list_are_refused(run: Any, lists: Lists) -> None:
    lists.add(("some/name", "1" * 40), "a.png", sha256(b"a"))
    lists.remove("some words")
    assert "line 1: 'some words' is neither a SHA-256 nor an owner/name" in run().only_error()


# ---------------------------------------------------------------------------------------------------------
# The rule by which a picture becomes an image


def hash_that_draws(index: int, of: int) -> str:
    return f"{of + index:08x}".ljust(64, "0")


def test_a_large_picture_is_reduced_by_the_factor_drawn_and_cut_to_its_centre() -> None:
    picture = noise(0, (3300, 1030))
    for index, factor in enumerate((1, 2)):
        sha = hash_that_draws(index, of=2)
        assert draw_factor(picture.size, sha) == factor
        done = render(encode(picture), sha256=sha)
        reduced = picture.reduce(factor) if factor > 1 else picture
        left = (reduced.width - 1536) // 2
        expected = reduced.crop((left, 0, left + 1536, reduced.height))
        assert (done.original_size, done.original_format) == ((3300, 1030), "PNG")
        np.testing.assert_array_equal(np.asarray(done.image), np.asarray(expected))


@pytest.mark.parametrize(
    ("short", "factors"), [(100, {1}), (1023, {1}), (1024, {1, 2}), (2048, {1, 2, 4}), (9000, {1, 2, 4, 8})]
)
def test_a_reduced_image_keeps_a_short_side_of_512(short: int, factors: set[int]) -> None:
    assert {draw_factor((short, 10_000), hash_that_draws(index, of=24)) for index in range(24)} == factors


def test_a_picture_is_turned_as_its_exif_says() -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    done = render(encode(picture, "JPEG", exif=exif, quality=95), sha256="0" * 64)
    assert (done.image.size, done.original_size) == ((20, 40), (20, 40))
    pixels = np.asarray(done.image)
    assert pixels[:18].min() > 240
    assert pixels[22:].max() < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    options = {"transparency": 1} if mode == "P" else {}
    if mode == "P":
        indices = np.ones((8, 8), np.uint8)
        indices[:, :4] = 0
        picture = Image.fromarray(indices)
        picture.putpalette([0, 0, 0, 255, 0, 0])
    else:
        picture = picture.convert(mode)
    pixels = np.asarray(render(encode(picture, **options), sha256="0" * 64).image)
    assert pixels[:, :4].max() == 0
    assert pixels[:, 4:].min() == 255


def test_an_image_is_saved_in_full_colour_and_without_the_comment_of_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    render(encode(noise(0), "JPEG", comment=b"made by X"), sha256="0" * 64).save(path)
    assert b"made by X" not in path.read_bytes()
    with Image.open(path) as image:
        assert image.format == "JPEG"
        assert image.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # type: ignore[attr-defined]
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]


def test_a_picture_of_a_phone_is_read_where_the_package_for_it_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "white")).save(file)
    done = render(file.getvalue(), sha256="0" * 64)
    assert (done.image.size, done.original_format) == ((64, 48), "HEIF")
    assert np.asarray(done.image).min() > 240


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        render(encode(noise(0)), sha256="0" * 64)


# ---------------------------------------------------------------------------------------------------------
# The list that ships


def test_the_list_that_ships_is_well_formed() -> None:
    listing = read_listing()  # refuses unknown parts, labels, repositories, and a SHA-256 that is there twice
    pictures = listing.pictures
    assert {(each.part, each.label) for each in pictures} == {(part, label) for part in PARTS for label in Label}
    assert len({_place_of(each) for each in pictures}) == len(pictures)
    files = {(each.origin, each.path) for each in pictures}
    assert len(files) == len(pictures)
    named = {tuple(row.values())[:2] for row in table(SHIPPED / "repositories.csv")}
    assert named == {(each.origin.repository, each.origin.commit) for each in pictures}


def test_the_list_that_ships_is_sorted_so_that_changes_are_small() -> None:
    for name in ("pictures.csv", "repositories.csv"):
        rows = [tuple(row.values()) for row in table(SHIPPED / name)]
        assert rows == sorted(rows), name


def test_every_source_of_the_list_that_ships_has_a_folder_of_its_own() -> None:
    pictures = read_listing().pictures
    folders = {(each.part, each.source): Path(_place_of(each)).parts[-3] for each in pictures}
    assert len({(part, name.lower()) for (part, _), name in folders.items()}) == len(folders)
    # A folder called "test" or "real" would be read as a split or a class.
    assert [name for name in folders.values() if split_of(name) or class_of(name)] == []
    for wanted in PARTS:
        assert classes_of(name for (part, _), name in folders.items() if part == wanted) == {}


def test_the_documents_count_as_the_list_does() -> None:
    pictures = read_listing().pictures
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for part in PARTS:
        fakes = sum(each.label is Label.FAKE for each in pictures if each.part == part)
        reals = sum(each.label is Label.REAL for each in pictures if each.part == part)
        sources = len({(each.label, each.source) for each in pictures if each.part == part})
        assert f"| `{part}` | {fakes:,} | {reals:,} | {sources:,} |" in text
