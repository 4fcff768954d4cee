"""Folder layouts: what is found, what is skipped, what it is called, and what is refused."""

from __future__ import annotations

import io
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.folders import scan_folder, title
from gapl.columns import normalise
from gapl.inputs.scan import Scan, Ways, scan_images
from gapl.labels import Label

MakeImage = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, make_image: MakeImage) -> Callable[..., Path]:
    """`tree("a/real/1.png", ...)` makes images below one root and returns it."""

    def build(*paths: str) -> Path:
        for seed, path in enumerate(paths):
            make_image(tmp_path / "root" / path, seed=seed, size=(8, 8))
        return tmp_path / "root"

    return build


def found(root: Path, *, split: str | None = None) -> list[tuple[str, int, str]]:
    """(path below root, label, generator) of every record."""
    return [
        (Path(r.uri).relative_to(root).as_posix(), int(r.label), r.generator)
        for r in scan_folder(root, split=split)
    ]


def paths(scan: Scan) -> list[Path]:
    """The files that a scan found."""
    return [Path(image.name) for image in scan.images]


def looked(root: Path) -> tuple[list[Path], dict[str, int], list[str]]:
    """What a scan of a folder found, left out and could not look at."""
    scan = scan_images([root])
    return paths(scan), scan.left_out, scan.unreachable


def test_plain_layout_is_called_after_its_root(tree: Callable[..., Path]) -> None:
    root = tree("real/b.png", "real/a.jpg", "fake/c.webp")
    assert found(root) == [("fake/c.webp", 1, "root"), ("real/a.jpg", 0, "root"), ("real/b.png", 0, "root")]
    assert scan_folder(root).name == "root"


def test_cnndetection_train_layout(tree: Callable[..., Path]) -> None:
    root = tree("airplane/0_real/1.png", "airplane/1_fake/1.png", "stylegan2/face/1_fake/2.png")
    assert found(root) == [
        ("airplane/0_real/1.png", 0, "airplane"),
        ("airplane/1_fake/1.png", 1, "airplane"),
        ("stylegan2/face/1_fake/2.png", 1, "stylegan2/face"),
    ]


def test_genimage_layout_and_its_splits(tree: Callable[..., Path]) -> None:
    inner = "ADM/imagenet_ai_0508_adm"
    root = tree(*(f"{inner}/{s}/{c}/n01/1.JPEG" for s in ("train", "val") for c in ("nature", "ai")))
    assert len(found(root)) == 4
    assert found(root, split="val") == [
        (f"{inner}/val/ai/n01/1.JPEG", 1, inner),
        (f"{inner}/val/nature/n01/1.JPEG", 0, inner),
    ]
    with pytest.raises(ValueError, match=r"no images of split 'test'"):
        scan_folder(root, split="test")


def test_a_folder_without_split_belongs_to_every_split(tree: Callable[..., Path]) -> None:
    root = tree("sd15/train/ai/1.png", "sd15/val/ai/1.png", "gan/1_fake/1.png", "old/fake/testing/1.png")
    assert [path for path, _, _ in found(root, split="val")] == ["gan/1_fake/1.png", "sd15/val/ai/1.png"]
    assert "old/fake/testing/1.png" in [path for path, _, _ in found(root, split="test")]


def test_the_object_class_called_train_is_no_split(tree: Callable[..., Path]) -> None:
    names = ("airplane", "train", "tvmonitor")
    root = tree(*(f"test/progan/{name}/0_real/1.png" for name in names), "train/train/1_fake/1.png")
    assert [g for _, _, g in found(root, split="test")] == [f"progan/{name}" for name in names]
    tree("train/car/1_fake/1.png")
    assert [g for _, _, g in found(root, split="train")] == ["car", "train"]


@pytest.mark.parametrize(
    "name", ["0_real", "0real", "Real", "reals", "NATURE", "natural", "Genuine", "authentic", "human-made"]
)
def test_names_of_real_folders(tree: Callable[..., Path], name: str) -> None:
    assert [label for _, label, _ in found(tree(f"g/{name}/1.png"))] == [Label.REAL]


@pytest.mark.parametrize(
    "name", ["1_fake", "1fake", "Fake", "fakes", "AI", "1_ai", "synthetic", "AI-generated", "Generated"]
)
def test_names_of_fake_folders(tree: Callable[..., Path], name: str) -> None:
    assert [label for _, label, _ in found(tree(f"g/{name}/1.png"))] == [Label.FAKE]


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        ("Human", "AI-generated"),
        ("human", "machine"),
        ("photos", "Generated"),
        ("original", "fake"),
        ("RealArt", "AiArtData"),
        ("real_images", "fake_images"),
        ("Non-AI", "AI"),
    ],
)
def test_ordinary_names_are_classes_beside_one_of_the_other_class(
    tree: Callable[..., Path], real: str, fake: str
) -> None:
    root = tree(f"g/{real}/1.png", f"g/{fake}/1.png", "g/photo album/1.png")
    assert {path: label for path, label, _ in found(root)} == {f"g/{real}/1.png": 0, f"g/{fake}/1.png": 1}


@pytest.mark.parametrize(
    "name", ["human", "photo", "machine", "deepfake", "art", "0", "1", "realistic", "airplane"]
)
def test_ordinary_names_alone_are_no_classes(tree: Callable[..., Path], name: str) -> None:
    root = tree(f"{name}/0_real/1.png", f"{name}/1_fake/1.png", f"only/{name}/1.png", "cat/1_fake/1.png")
    labels = {(label, generator) for _, label, generator in found(root)}
    assert labels == {(1, "cat"), (0, name), (1, name)}


def test_a_folder_that_holds_both_classes_is_none(tree: Callable[..., Path]) -> None:
    root = tree(
        "ai/0_real/1.png", "ai/1_fake/1.png", "synthetic/natural/1.png", "real/human/1.png", "real/ai/1.png"
    )
    assert found(root) == [
        ("ai/0_real/1.png", 0, "ai"),
        ("ai/1_fake/1.png", 1, "ai"),
        ("real/ai/1.png", 0, "root"),
        ("real/human/1.png", 0, "root"),
        ("synthetic/natural/1.png", 1, "root"),
    ]
    tree("synthetic/sd/real/1.png", "synthetic/sd/fake/1.png")
    with pytest.raises(ValueError, match=r"sd has folders of real .*synthetic is named like .*; rename"):
        found(root)


def test_doubled_nesting_counts_once(tree: Callable[..., Path]) -> None:
    root = tree("Chameleon/Chameleon/test/0_real/1.jpg", "Chameleon/Chameleon/test/1_fake/1.jpg")
    assert {g for _, _, g in found(root)} == {"Chameleon"}
    assert title(root / "Chameleon" / "Chameleon" / "test") == "Chameleon"


def test_rubbish_is_skipped_and_odd_names_are_kept(tree: Callable[..., Path]) -> None:
    kept = ("real/a.b.png", "real/UPPER.JPG", "real/deep/er/x.TIF", "real/y.bmp", "real/z.gif", "real/w.tiff")
    root = tree(*kept)
    image = (root / "real/a.b.png").read_bytes()
    for name in ("._a.png", ".hidden/b.png", "__MACOSX/c.png", ".DS_Store", "notes.txt"):
        (root / "real" / name).parent.mkdir(exist_ok=True)
        (root / "real" / name).write_bytes(image)
    assert {path for path, _, _ in found(root)} == set(kept)


def test_linked_folders_are_followed_but_not_in_circles(tree: Callable[..., Path]) -> None:
    root = tree("laion/0_real/1.png", "dalle/1_fake/1.png")
    (root / "dalle/0_real").symlink_to(root / "laion/0_real")
    (root / "dalle/1_fake/again").symlink_to(root)
    (root / "dalle/1_fake/self").symlink_to(root / "dalle/1_fake/self")
    paths = [path for path, _, _ in found(root)]
    assert paths == ["dalle/0_real/1.png", "dalle/1_fake/1.png", "laion/0_real/1.png"]


def test_a_broken_link_is_left_for_decoding_to_report(tree: Callable[..., Path]) -> None:
    root = tree("fake/1.png")
    (root / "fake/2.png").symlink_to(root / "gone.png")
    assert [path for path, _, _ in found(root)] == ["fake/1.png", "fake/2.png"]


def test_what_is_left_out_is_told(tree: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = tree("a/real/1.png", "a/stray.png", "a/Flux/1.png", "b.png")
    (root / "a/fake").mkdir()
    (root / "a/real/more.zip").write_bytes(b"PK")
    with caplog.at_level(logging.WARNING):
        scan_folder(root)
    assert "images outside of class folders are left out: images directly in it, a, a/Flux" in caplog.text
    assert r"left out: 1 x no image (.zip)" in caplog.text
    assert "1 class folders without images" in caplog.text


def test_mistakes_are_named(tree: Callable[..., Path]) -> None:
    root = tree("pictures/1.png")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        scan_folder(root / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        scan_folder(root / "pictures/1.png")
    with pytest.raises(
        ValueError, match=r"no class folder found; there are: pictures; known are real,.* and fake,"
    ):
        scan_folder(root)
    for i in range(9):
        tree(f"set{i}/1.png")
    with pytest.raises(ValueError, match=r"there are: pictures, set0, set1, set2, set3, and 5 more; known"):
        scan_folder(root)
    with pytest.raises(ValueError, match=r"unknown split 'dev'; expected one of test, train, val"):
        scan_folder(root, split="dev")
    (root / "real").mkdir()
    with pytest.raises(ValueError, match="1 class folders found, but no images"):
        scan_folder(root)


def test_scan_images(tree: Callable[..., Path]) -> None:
    root = tree("b.png", "a/real/2.jpg", "a/1.png")
    (root / "notes.txt").write_text("no image")
    images = [root / "a/1.png", root / "a/real/2.jpg", root / "b.png"]
    assert looked(root) == (images, {"no image (.txt)": 1}, [])
    assert paths(scan_images([root / "notes.txt", root / "a"])) == [root / "notes.txt", *images[:2]]
    with pytest.raises(ValueError, match="does not exist"):
        scan_images([root / "nowhere"])
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no image files$"):
        scan_images([root / "empty"])
    (root / "empty/a.zip").write_bytes(b"PK")
    with pytest.raises(
        ValueError, match=r"empty: no image files; found 1 x archive \(\.zip; read if it is named\)$"
    ):
        scan_images([root / "empty"])


def test_images_are_known_by_their_first_bytes_where_a_suffix_says_nothing(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    for name in ("photo.jpg_large", "x.png.1", "download", "b.avif", "c.JFIF"):
        (tmp_path / name).write_bytes(image.getvalue())
    (tmp_path / "sums").write_text("no image")
    (tmp_path / "x.py").write_bytes(image.getvalue())  # of a known type: not opened
    scan = scan_images([tmp_path])
    assert [path.name for path in paths(scan)] == ["b.avif", "c.JFIF", "download", "photo.jpg_large", "x.png.1"]
    assert scan.left_out == {"no image (.py)": 1, "no image (no suffix)": 1}


def test_what_is_no_file_is_not_opened(tree: Callable[..., Path]) -> None:
    root = tree("a.png")
    os.mkfifo(root / "b.png")
    (root / "c.png").symlink_to(root / "c.png")  # to itself: an image that cannot be read
    assert looked(root) == ([root / "a.png", root / "c.png"], {"no regular file": 1}, [])
    with pytest.raises(ValueError, match=r"b\.png: no regular file"):
        scan_images([root / "b.png"])


def test_links_to_the_outside_are_followed_only_if_wanted(tree: Callable[..., Path]) -> None:
    root = tree("inside/a.png", "outside/b.png")
    inside = root / "inside"
    (inside / "up").symlink_to(root)
    (inside / "other.png").symlink_to(root / "outside/b.png")
    (inside / "same.png").symlink_to("a.png")
    assert paths(scan_images([inside])) == [inside / "a.png", inside / "same.png"]
    assert sum(scan_images([inside]).left_out.values()) == 2
    followed = {str(path.relative_to(inside)) for path in paths(scan_images([inside], Ways(follow_links=True)))}
    assert followed == {"a.png", "other.png", "same.png", "up/outside/b.png"}


def test_a_folder_that_cannot_be_listed_is_told_and_the_others_are_scanned(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree("a/1.png", "b/2.png")
    scandir = os.scandir

    def refuses(folder: str) -> object:
        if folder == str(root / "a"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuses)
    assert looked(root) == ([root / "b/2.png"], {}, [f"{root}/a: Permission denied"])
    with pytest.raises(PermissionError):
        scan_folder(root)


def test_folders_of_any_depth_are_scanned(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)  # pathlib would recurse
    (deep / "a.png").touch()  # a path of 2,500 characters
    try:
        assert paths(scan_images([tmp_path])) == [deep / "a.png"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # nor can pytest remove it


def test_a_long_list_of_paths_makes_a_short_message(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(2000)]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(ValueError, match=r"/0, .*/1, .*/2, 1997 more: no image files$"):
        scan_images(folders)


def test_normalise() -> None:
    assert normalise("Stable_Diffusion_v-1.4") == "stablediffusionv14"
