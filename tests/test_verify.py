"""What verification finds in a benchmark with known faults, in files and in shards."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import with_damaged_palette
from PIL import Image

from data.benchmarks.benchmark import Absent, Benchmark
from data.benchmarks.find import find_benchmarks
from data.benchmarks.verify import Verification, to_problems, to_text, verify
from gapl.labels import Label


def encode(colour: int, *, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, encoded: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """ForenSynths with one subset: a doubled content, a doubled name, a broken file and an empty one."""
    root = tmp_path / "ForenSynths/progan"
    write(root / "car/0_real/1.png", encode(1))
    write(root / "car/0_real/2.jpg", encode(2, size=(10, 20), kind="JPEG"))
    write(root / "car/0_real/3.png", encode(3, size=(12, 6)))
    write(root / "cat/0_real/1.png", encode(4))
    write(root / "car/1_fake/5.png", encode(1))
    write(root / "car/1_fake/6.png", encode(6)[:45])
    write(root / "car/1_fake/7.png", b"")
    return tmp_path


def look(root: Path, name: str, *, read: bool = True, num_workers: int = 0) -> Verification:
    (found,) = find_benchmarks(root, names=[name])
    return verify(found, read=read, num_workers=num_workers)


def test_every_fault_is_named(faulty: Path) -> None:
    seen = look(faulty, "ForenSynths")
    progan, *missing = seen.subsets
    assert (progan.n_real, progan.n_fake, progan.expected_real, progan.expected_fake) == (4, 3, 4000, 4000)
    assert [(subset.name, subset.is_missing) for subset in missing][:2] == [
        ("stylegan", True),
        ("stylegan2", True),
    ]
    assert [uri for uri, _ in progan.unreadable] == ["progan/car/1_fake/6.png", "progan/car/1_fake/7.png"]
    assert "damaged" in progan.unreadable[0][1]
    assert progan.same_name == (("progan/car/0_real/1.png", "progan/cat/0_real/1.png"),)
    assert progan.same_content == (("progan/car/0_real/1.png", "progan/car/1_fake/5.png"),)
    assert not seen.is_clean()


def test_damage_that_shows_in_conversion_alone_is_found(tmp_path: Path) -> None:
    """As scoring finds it: the decoded image has the right size, and no colours."""
    write(tmp_path / "ForenSynths/progan/car/1_fake/1.png", with_damaged_palette())
    ((uri, reason),) = look(tmp_path, "ForenSynths").subsets[0].unreadable
    assert (uri, reason) == ("progan/car/1_fake/1.png", "damaged image: palette index out of range")


def test_formats_and_sizes_by_class(faulty: Path) -> None:
    facts = look(faulty, "ForenSynths").subsets[0].facts
    assert facts[Label.REAL].formats == {"PNG": 3, "JPEG": 1}
    assert facts[Label.REAL].width == (8, 9, 12)
    assert facts[Label.REAL].height == (6, 6, 20)
    assert facts[Label.FAKE].formats == {"PNG": 1}
    assert facts[Label.FAKE].bytes_per_pixel == len(encode(1)) / 48


def test_without_reading_it_only_counts(faulty: Path) -> None:
    seen = look(faulty, "ForenSynths", read=False)
    assert (seen.n_real, seen.n_fake, seen.was_read) == (4, 3, False)
    assert seen.subsets[0].same_name
    assert not seen.subsets[0].unreadable
    assert not seen.subsets[0].facts
    assert "4 (expected 4000) real, 3 (expected 4000) fake" in to_text([seen])


def test_worker_processes_find_the_same(faulty: Path) -> None:
    assert look(faulty, "ForenSynths", num_workers=2) == look(faulty, "ForenSynths")


def test_problems_and_text(faulty: Path) -> None:
    seen = [look(faulty, name) for name in ("ForenSynths", "Chameleon")]
    progan = seen[0].subsets[0]
    assert (len(progan.unreadable), len(progan.same_content), progan.facts[Label.REAL].width[2]) == (2, 1, 12)
    assert [row["uri"] for row in to_problems(seen)] == [
        "progan/car/1_fake/6.png",
        "progan/car/1_fake/7.png",
        "progan/car/1_fake/5.png",
    ]
    text = to_text(seen)
    assert "progan/car/1_fake/6.png: damaged image" in text
    assert "stylegan: missing" in text
    assert "Chameleon: not found" in text
    assert "handed out by mail" in text
    assert to_text(seen[::-1]) == text, "what is absent comes last"


def test_a_clean_benchmark_is_told_to_be_so(tmp_path: Path) -> None:
    write(tmp_path / "mine/real/1.png", encode(1))
    write(tmp_path / "mine/fake/1.png", encode(2))
    seen = look(tmp_path / "mine", "mine")
    assert seen.is_clean()
    assert "nothing is wrong with it" in to_text([seen])
    (found,) = (each for each in find_benchmarks(tmp_path / "mine") if isinstance(each, Benchmark))
    assert seen.file_list_sha256 == found.file_list_sha256()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_shards_are_read_row_by_row(num_workers: int, tmp_path: Path) -> None:
    columns = {
        "image_data": [encode(1), b"nothing", encode(1), encode(3)],
        "model_name": ["sdxl"] * 4,
        "label": [1, 1, 0, 0],
    }
    folder = tmp_path / "CommunityForensics-Eval"
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "a.parquet")
    seen = look(tmp_path, "CommFor-Eval", num_workers=num_workers)
    (subset,) = seen.subsets
    assert [uri for uri, _ in subset.unreadable] == ["a.parquet#1"]
    assert subset.same_content == (("a.parquet#2", "a.parquet#0"),)
    assert not subset.same_name
    text = to_text([seen])
    assert "1 (expected 21) subsets, 2 (expected 25918) real and 2 (expected 25918) fake images" in text


def test_a_shard_that_breaks_off_is_unreadable_from_there_on(tmp_path: Path) -> None:
    path = tmp_path / "set/a.parquet"
    path.parent.mkdir()
    columns = {"image_data": [encode(1), encode(2)], "model_name": ["m", "coco"], "label": [1, 0]}
    pq.write_table(pa.table(columns), path, row_group_size=1)
    (found,) = find_benchmarks(tmp_path, names=["set"])
    assert isinstance(found, Benchmark)
    chunk = pq.read_metadata(path).row_group(1).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    ((uri, reason),) = verify(found, num_workers=0).subsets[0].unreadable
    assert uri == "a.parquet#1"
    assert "cannot be read as parquet" in reason


def test_an_absent_benchmark() -> None:
    seen = verify(Absent("Mine", "not found: nowhere"))
    assert (seen.absent, seen.subsets, seen.is_clean()) == ("not found: nowhere", (), False)
