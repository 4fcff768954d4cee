"""Benchmarks in parquet shards, which are read where they are; and the catalog's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.benchmarks.benchmark import Absent, Benchmark
from data.benchmarks.find import find_benchmarks
from data.benchmarks.specs import read_catalog
from data.loading.samples import read_samples
from data.shards.scan import read_index
from gapl.labels import Label
from gapl.shards.rows import ShardRow, read_rows

Row = tuple[int, str, str]  # label, model, source


def write_community(path: Path, rows: list[Row], **options: Any) -> None:
    labels, models, sources = zip(*rows, strict=True)
    columns = {
        "image_data": [f"{path.stem} {i}".encode() for i in range(len(rows))],
        "model_name": models,
        "real_source": sources,
        "nsfw_flag": ["False"] * len(rows),
        "label": labels,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def write_openfake(path: Path, rows: list[tuple[str, str]], *, struct: bool = True, **options: Any) -> None:
    images: list[Any] = [f"{path.stem} {i}".encode() for i in range(len(rows))]
    columns = {
        "image": [{"bytes": image, "path": None} for image in images] if struct else images,
        "prompt": ["a cat"] * len(rows),
        "label": [label for label, _ in rows],
        "model": [model for _, model in rows],
        "type": ["base"] * len(rows),
        "release_date": ["2025"] * len(rows),
    }
    table = pa.table(columns)
    if struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = table.set_column(0, "image", pa.array(columns["image"], kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def only(root: Path | str, name: str | None = None) -> Benchmark:
    (found,) = find_benchmarks(root, names=[name] if name else None)
    assert isinstance(found, Benchmark), found
    return found


def images(benchmark: Benchmark, subset: int, label: Label) -> list[str]:
    wanted = [record for record in benchmark.subsets[subset].manifest if record.label is label]
    return [sample.read_bytes().decode() for sample in read_samples(wanted)]


EVAL: list[Row] = [(1, "sdxl", ""), (0, "sdxl", "coco"), (1, "gan", ""), (0, "gan", "coco")]


@pytest.mark.parametrize("place", ["CommunityForensics-Eval/data", "CommunityForensics-Eval"])
def test_community_forensics_eval_pairs_by_the_named_generator(place: str, tmp_path: Path) -> None:
    write_community(tmp_path / place / "CompEval-0.parquet", EVAL)
    found = only(tmp_path, "CommFor-Eval")
    assert [subset.name for subset in found.subsets] == ["gan", "sdxl"]
    assert not any(subset.reals_shared for subset in found.subsets)
    assert images(found, 0, Label.FAKE) == ["CompEval-0 2"]
    assert images(found, 0, Label.REAL) == ["CompEval-0 3"]
    assert {r.generator for r in found.images() if r.label is Label.REAL} == {"coco"}
    assert found.root == str(tmp_path / "CommunityForensics-Eval")


def test_rows_come_in_the_order_in_which_they_are_read(tmp_path: Path) -> None:
    for part in range(2):
        write_community(tmp_path / f"set/data/a-{part}.parquet", EVAL * 4)
    found = only(tmp_path, "set")
    uris = [record.uri for record in found.images()]
    assert uris == [f"{tmp_path}/set/data/a-{part}.parquet#{row}" for part in range(2) for row in range(16)]
    record = found.images().records[10]
    assert isinstance(record.location, ShardRow)
    assert record.read_bytes() == b"a-0 10"
    assert [sample.encoded for sample in read_samples(found.images())][-1] == b"a-1 15"


def test_shards_of_no_benchmark_are_scored_against_all_real_images_that_name_a_source(tmp_path: Path) -> None:
    rows: list[Row] = [(1, "sdxl", ""), (1, "gan", ""), (0, "coco", "coco"), (0, "bsds", "bsds")]
    write_community(tmp_path / "bench/mymini/data/train-0.parquet", rows)
    found = only(tmp_path / "bench", "mymini")
    assert [(s.name, s.manifest.count(Label.REAL), s.reals_shared) for s in found.subsets] == [
        ("gan", 2, True),
        ("sdxl", 2, True),
    ]
    assert len(found.images()) == 4
    itself = only(tmp_path / "bench/mymini", "mymini")
    assert itself == found
    assert only(tmp_path / "bench/mymini/data/train-0.parquet").subsets == found.subsets


def test_a_url_is_one_benchmark(tmp_path: Path) -> None:
    write_community(tmp_path / "x.parquet", EVAL)
    memory = fsspec.filesystem("memory")
    memory.pipe("/hub/CommunityForensics-Eval/data/CompEval-0.parquet", (tmp_path / "x.parquet").read_bytes())
    found = only("memory://hub/CommunityForensics-Eval")
    assert found.name == "CommFor-Eval"
    assert images(found, 1, Label.FAKE) == ["x 0"]
    assert isinstance(find_benchmarks("memory://hub/CommunityForensics-Eval", names=["UFD"])[0], Absent)
    with pytest.raises(ValueError, match="no parquet shards"):
        find_benchmarks("memory://hub")


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_openfake_takes_the_test_shards_of_its_folders(struct: bool, compression: str, tmp_path: Path) -> None:
    rows = [("fake", "flux"), ("real", "laion"), ("fake", "gpt")]
    options: dict[str, Any] = {"struct": struct, "compression": compression}
    write_openfake(tmp_path / "OpenFake/core/test-0.parquet", rows, **options)
    write_openfake(tmp_path / "OpenFake/core/train-0.parquet", rows, **options)
    write_openfake(tmp_path / "OpenFake/reddit/test-00000-of-00001.parquet", [("real", "reddit")], **options)
    for found in (only(tmp_path, "OpenFake"), only(tmp_path / "OpenFake", "OpenFake")):
        assert [subset.name for subset in found.subsets] == ["flux", "gpt"]
        assert images(found, 1, Label.FAKE) == ["test-0 2"]
        assert images(found, 1, Label.REAL) == ["test-0 1", "test-00000-of-00001 0"]
    present = [each.name for each in find_benchmarks(tmp_path / "OpenFake") if isinstance(each, Benchmark)]
    assert present == ["OpenFake"]


def test_a_null_image_in_a_struct_is_empty(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([None, {"bytes": None, "path": "a"}, {"bytes": b"x", "path": "b"}], kind)
    for compression in ("snappy", "zstd"):
        path = tmp_path / f"{compression}.parquet"
        columns = {"image": column, "label": ["fake", "real", "fake"], "model": ["m"] * 3}
        pq.write_table(pa.table(columns), path, compression=compression)
        (shard,) = read_index(path).shards
        assert list(read_rows(shard, [0, 1, 2])) == [(0, b""), (1, b""), (2, b"x")]


def test_only_training_shards_are_no_published_benchmark(tmp_path: Path) -> None:
    write_openfake(tmp_path / "OpenFake/core/train-0.parquet", [("fake", "flux")])
    (found,) = find_benchmarks(tmp_path, names=["OpenFake"])
    assert isinstance(found, Absent)
    assert "training split only" in found.reason


def test_a_broken_shard_stops_only_who_asks_for_it(tmp_path: Path) -> None:
    write_community(tmp_path / "good/a.parquet", EVAL)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.parquet").write_bytes(b"PAR1")
    assert only(tmp_path, "good")
    with pytest.raises(ValueError, match=r"broken.a\.parquet cannot be read as parquet"):
        find_benchmarks(tmp_path, names=["broken"])


def test_the_list_of_rows_has_the_same_hash_wherever_it_is(tmp_path: Path) -> None:
    write_community(tmp_path / "one/set/a.parquet", EVAL)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (only(tmp_path / name, "set") for name in ("one", "two"))
    assert one.file_list_sha256() == two.file_list_sha256()
    assert one.images().file_list_sha256() != two.images().file_list_sha256()


# ---------------------------------------------------------------------------------------------------------
# The catalog's files

MINE = "name: Mine\nsource: my page\nlicence: MIT\npairing: own\n"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    (tmp_path / "catalog").mkdir()
    return tmp_path / "catalog"


def test_a_benchmark_of_ones_own_is_a_file(catalog: Path, tmp_path: Path) -> None:
    (catalog / "mine.yaml").write_text(
        MINE + "folders: [my-set]\nsubsets:\n  - {name: flux, aliases: [f], n_fake: 2}\n"
    )
    for path in ("My_Set/F/real/1.png", "My_Set/F/fake/1.png"):
        (tmp_path / "root" / path).parent.mkdir(parents=True)
        (tmp_path / "root" / path).touch()
    (found,) = find_benchmarks(tmp_path / "root", names=["Mine"], catalog=catalog)
    assert isinstance(found, Benchmark)
    assert found.spec
    assert [(s.name, len(s.manifest)) for s in found.subsets] == [("flux", 2)]
    assert found.spec.subsets[0].n_fake == 2
    assert list(read_catalog(catalog)) == [*read_catalog(), "Mine"]


def test_a_file_can_replace_one_of_the_project(catalog: Path) -> None:
    (catalog / "a.yaml").write_text(MINE.replace("Mine", "UFD"))
    assert read_catalog(catalog)["UFD"].source == "my page"
    assert len(read_catalog(catalog)) == len(read_catalog())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE + "licens: x", r"a\.yaml: unknown field 'licens' in BenchmarkSpec; expected name, source"),
        ("name: Mine\nsource: x\npairing: own", r"a\.yaml: field 'licence' of BenchmarkSpec is missing"),
        (
            MINE + "subsets: [{n_real: 2}]",
            r"a\.yaml: BenchmarkSpec: subsets\[0\]: field 'name' of SubsetSpec is missing",
        ),
        (
            MINE + "subsets: [{name: a, n: 2}]",
            r"a\.yaml: BenchmarkSpec: subsets\[0\]: unknown field 'n' in SubsetSpec",
        ),
        (
            MINE + "subsets: [{name: 1.5}]",
            r"a\.yaml: BenchmarkSpec: subsets\[0\]: SubsetSpec: name cannot be 1\.5",
        ),
        (MINE + "subsets: [{name: a}, {name: a}]", r"a\.yaml: subsets: a name comes twice"),
        (MINE + "n_real: many", r"a\.yaml: BenchmarkSpec: n_real cannot be 'many'; expected int"),
        (MINE + "n_real: -1", r"a\.yaml: n_real: -1; expected 0 or more"),
        (MINE + "folders: [' ']", r"a\.yaml: folders: an empty text"),
        (MINE + "reals: [coco]\nsubsets: [{name: a}]", r"a\.yaml: reals: pairing own has no use"),
        (MINE.replace("own", "mine"), r"a\.yaml: pairing: 'mine'; expected one of own, shared"),
        (MINE + "folders: [GenImage]", "Mine and GenImage both go by the folder name"),
        ("- a", r"a\.yaml: BenchmarkSpec is an object with fields, not list"),
        ("a: [", r"a\.yaml cannot be read as YAML"),
        (None, "no .*yaml in it"),
    ],
)
def test_mistakes_in_a_file_are_named(text: str | None, message: str, catalog: Path) -> None:
    if text is not None:
        (catalog / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_catalog(catalog)


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        read_catalog(tmp_path / "nowhere")
