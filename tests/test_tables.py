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


@pytest.mark.parametrize(
    "text",
    [
        "filename;label\na.png;1\nsub/b.png;0\n",
        "filename\tlabel\r\na.png\t1\r\nsub/b.png\t0\r\n",
        "filename,label\na.png,1\nsub\\b.png,0\n",
        "filename,label\na.png,1.0\nsub/b.png,0.0\n",
        "filename,label\na.png,True\nsub/b.png,False\n",
        "filename,label\na.png,AI\nsub/b.png,REAL\n",
        "filename,label\na.png,ai-generated\nsub/b.png,Human\n",
        "image,class\na.png,1\nsub/b.png,0\n",
        "Image Path;target\na.png;fake\nsub/b.png;real\n",
        "file,is_fake\na.png,1\nsub/b.png,0\n",
        "filename,label,path,class\na.png,1,gone.png,cat\nsub/b.png,0,gone.png,dog\n",
        "path,label,label_str\na.png,1,fake\nsub/b.png,0,real\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_manifests_as_people_have_them(folder: Path, text: str, encoding: str) -> None:
    path = folder / "list.csv"
    path.write_text(text, encoding=encoding, newline="")
    wanted = [(str(folder / "a.png"), 1), (str(folder / "sub/b.png"), 0)]
    assert [(r.uri, int(r.label)) for r in open_source(path)] == wanted


def test_columns_with_names_of_their_own(folder: Path) -> None:
    path = write(folder, "picture;Kind;from;path\na.png;1;sd15;x\nc.png;0;coco;y\n").rename(folder / "list.tsv")
    columns = {"filename": "picture", "label": "kind", "generator": "from"}
    assert [str(r.source) for r in open_source(path, columns=columns)] == ["fake:sd15", "real:coco"]
    table = pa.table({"picture": ["a.png", "c.png"], "Kind": [1.0, 0.0]})
    pq.write_table(table, folder / "list.parquet")
    labels = [
        int(r.label)
        for r in open_source(folder / "list.parquet", columns={"filename": "picture", "label": "Kind"})
    ]
    assert labels == [1, 0]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "image,path,label\n",
            {},
            "image and path may both be the column filename; found image, path, label; say",
        ),
        ("filename,class,target\n", {}, "class and target may both be .*--columns label=class"),
        ("filename,is_real\na.png,1\n", {"label": "is_real"}, "column is_real says which images are real"),
        (
            "filename,label\na.png,1\n",
            {"label": "kind"},
            r"no column kind \(--columns label=kind\); found filename,",
        ),
        (
            "filename,label\na.png,1\n",
            {"name": "label"},
            "expected one of filename, label, generator, split before",
        ),
        ("filename,label,label_str\na.png,1,real\n", {}, "row 1: label '1', but 'real' in another column"),
    ],
)
def test_what_is_ambiguous_is_refused(folder: Path, text: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(write(folder, text), columns=columns)


def test_labels_that_contradict_every_folder_are_refused(folder: Path, make_image: MakeImage) -> None:
    for name in ("real/1.png", "fake/1.png", "fake/2.png"):
        make_image(folder / name, size=(8, 8))
    rows = "filename,label\nreal/1.png,1\nfake/1.png,0\n"
    with pytest.raises(ValueError, match=r"contradicts the folder .* 1, which means fake, of real/1\.png"):
        read_manifest(write(folder, rows))
    assert len(read_manifest(write(folder, rows + "fake/2.png,1\n"))) == 3


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
        ("id,label\na.png,1\n", r"no column filename; found id, label; name them with --columns filename=THEIRS"),
        ("a.png,0\n", r"no column filename or label; found a.png, 0; name them"),
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
    with pytest.raises(ValueError, match=r"expected a folder, a \.csv, \.tsv or \.parquet file"):
        open_source(folder / "a.png")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(folder / "nowhere")
