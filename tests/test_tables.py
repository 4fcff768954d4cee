"""CSV and parquet manifests: what is read, and that each mistake names its row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources import open_source
from data.tables import read_manifest
from gapl.labels import Label

MakeImage = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, make_image: MakeImage) -> Path:
    for name in ("a.png", "sub/b.png", "c.png"):
        make_image(tmp_path / name, size=(8, 8))
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_columns(folder: Path) -> None:
    path = write(
        folder,
        "filename,label,generator,split\na.png,0,coco,train\nsub/b.png,FAKE,sd15,val\nc.png,Real,,\n",
    )
    manifest = read_manifest(path)
    assert manifest.name == "list"
    assert [(r.uri, r.label, r.generator) for r in manifest] == [
        (str(folder / "a.png"), Label.REAL, "coco"),
        (str(folder / "sub/b.png"), Label.FAKE, "sd15"),
        (str(folder / "c.png"), Label.REAL, "list"),
    ]
    assert [r.generator for r in read_manifest(path, split="val")] == ["sd15", "list"]


def test_what_spreadsheets_do_to_a_file(folder: Path) -> None:
    path = write(folder, "\ufeffLabel, Filename ,note\r\n1,a.png,x\r\n0, sub/b.png ,y\r\n")
    assert [int(r.label) for r in read_manifest(path)] == [1, 0]


def test_absolute_paths_and_other_names_of_splits(folder: Path) -> None:
    path = write(folder, f"filename,label,split\n{folder / 'a.png'},1,Validation\nc.png,0,test\n")
    assert [r.uri for r in read_manifest(path, split="val")] == [str(folder / "a.png")]


def test_parquet(folder: Path) -> None:
    path = folder / "list.parquet"
    pq.write_table(pa.table({"filename": ["a.png", "c.png"], "label": [1, 0], "size": [8, 8]}), path)
    assert [int(r.label) for r in read_manifest(path)] == [1, 0]
    assert len(open_source(path)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column filename or label; found nothing"),
        ("path,label\na.png,1\n", r"no column filename; found path, label, expected filename, label"),
        ("filename,label\n", r"list.csv: no rows"),
        ("filename,label\na.png,1\nc.png,maybe\n", r"row 2: label 'maybe'; expected 0, 1, real or fake"),
        ("filename,label\na.png\n", r"row 1: label None"),
        ("filename,label\n,1\n", r"row 1: no filename"),
        ("filename,label\na,b.png,1\n", r"row 1: more fields than columns"),
        ("filename,label\na.png,1\nc.png,0\na.png,1\n", r"row 3: .*a.png is listed before, in row 1"),
        ("filename,label\na.png,1\nx.png,1\ny.png,1\n", r"2 of 3 files do not exist, .*x.png \(row 2\)"),
    ],
)
def test_mistakes_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(write(folder, text))


def test_other_mistakes_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_manifest(folder / "nowhere.csv")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        read_manifest(write(folder, "filename,label\na.png,1\n"), split="dev")
    with pytest.raises(ValueError, match="no rows of split 'test' among 1"):
        read_manifest(write(folder, "filename,label,split\na.png,1,train\n"), split="test")
    (folder / "list.csv").write_bytes(b"filename,label\n\xff\xfe.png,1\n")
    with pytest.raises(ValueError, match="no CSV file in UTF-8"):
        read_manifest(folder / "list.csv")
    (folder / "list.parquet").write_bytes(b"filename,label\n")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        open_source(folder / "list.parquet")


def test_a_source_is_told_by_what_is_there(folder: Path, make_image: MakeImage) -> None:
    make_image(folder / "set/sd15/1_fake/1.png", size=(8, 8))
    pq.write_table(pa.table({"caption": ["x"]}), folder / "set/captions.parquet")
    assert [r.generator for r in open_source(folder / "set")] == ["sd15"]
    assert [r.generator for r in open_source(str(write(folder, "filename,label\na.png,1\n")))] == ["list"]
    with pytest.raises(ValueError, match=r"expected a folder, a \.csv or a \.parquet file"):
        open_source(folder / "a.png")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(folder / "nowhere")
