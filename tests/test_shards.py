"""Parquet shards: what the index tells, which bytes are read for it and for rows, and shards behind URLs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.shards.files import find_shards
from data.shards.index import join_indexes
from data.shards.scan import read_index
from gapl.labels import Label
from gapl.shards.rows import read_rows

PROJECT = Path(__file__).parent.parent


def write_shard(path: Path, *, label: int, columns: dict[str, list[Any]] | None = None, **options: Any) -> Path:
    """Three rows; `columns` replaces some, an empty one is left out of the file."""
    count = 3
    values: dict[str, list[Any]] = {
        "image_name": [f"{i}.png" for i in range(count)],
        "image_data": [f"{path.stem} {i}".encode() for i in range(count)],
        "model_name": [f"model{i}" for i in range(count)],
        "real_source": ["" if label else f"source{i}" for i in range(count)],
        "nsfw_flag": ["False"] * count if label else [False] * count,
        "label": [label] * count,
        "architecture": ["GAN"] * count,
    }
    values |= columns or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: value for name, value in values.items() if value}), path, **options)
    return path


def noise(count: int, *, size: int, seed: int = 0) -> list[bytes]:
    """Images as no compression makes them smaller, of about `size` bytes."""
    generator = np.random.default_rng(seed)
    return [generator.bytes(size + i) for i in range(count)]


def write_images(path: Path, images: list[Any], *, labels: list[int] | None = None, **options: Any) -> Path:
    """A shard with the needed columns alone; all are fakes unless `labels` are given."""
    count = len(images)
    columns = {
        "image_name": [],
        "image_data": images,
        "model_name": ["model"] * count,
        "real_source": [],
        "nsfw_flag": [],
        "label": labels or [1] * count,
        "architecture": [],
    }
    return write_shard(path, label=1, columns=columns, **options)


def destroy(path: Path, column: str, *, group: int = 0) -> None:
    """Overwrites a column of a row group, so that whoever reads it fails."""
    row_group = pq.read_metadata(path).row_group(group)
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write_shard(root / "data/train-1.parquet", label=0, columns={"architecture": []})
    write_shard(
        root / "data/train-0.parquet", label=1, columns={"label": [1, 0, 1], "real_source": ["", "coco", ""]}
    )
    write_shard(root / "data/._train-0.parquet", label=1)
    return root


# ---------------------------------------------------------------------------------------------------------
# The index


def test_rows_follow_the_order_of_the_shards(shards: Path) -> None:
    index = read_index(shards)
    assert index.name == "set"
    assert [shard.url for shard in index.shards] == [f"{shards}/data/train-{i}.parquet" for i in (0, 1)]
    assert [shard.num_bytes for shard in index.shards] == [
        Path(shard.url).stat().st_size for shard in index.shards
    ]
    assert index.shard_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.row_N.tolist() == [0, 1, 2, 0, 1, 2]
    assert index.label_N.tolist() == [1, 0, 1, 0, 0, 0]
    names = ["model0", "coco", "model2", "source0", "source1", "source2"]
    assert [index.generators[i] for i in range(len(index))] == names
    assert [index.architectures[i] for i in range(len(index))] == ["GAN"] * 3 + [""] * 3
    assert [index.count(label) for label in Label] == [4, 2]


def test_rows_that_are_taken_keep_what_they_are(shards: Path) -> None:
    index = read_index(shards)
    fakes = index.where(index.label_N == Label.FAKE)
    assert len(fakes) == 2
    assert fakes.shards == index.shards
    assert fakes.record(1) == index.record(2)
    assert index.record(4).uri == f"{shards}/data/train-1.parquet#1"
    assert (index.record(4).label, index.record(4).generator) == (Label.REAL, "source1")


def test_no_image_and_no_label_that_the_footer_tells_is_read(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", label=1, columns={"label": [1, 1, 0]}, row_group_size=2)
    for group in range(2):
        destroy(path, "image_data", group=group)
        destroy(path, "label", group=group)
    assert read_index(path).label_N.tolist() == [1, 1, 0]
    path = write_shard(tmp_path / "b.parquet", label=1, columns={"label": [1, 0, 0]}, row_group_size=2)
    assert read_index(path).label_N.tolist() == [1, 0, 0]
    destroy(path, "label")
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read as parquet"):
        read_index(path)


def test_several_indexes_become_one(shards: Path, tmp_path: Path) -> None:
    other = read_index(write_shard(tmp_path / "other.parquet", label=0))
    joined = join_indexes("both", [other, read_index(shards)])
    assert [joined.record(i).uri.rpartition("/")[2] for i in (0, 3, 8)] == [
        "other.parquet#0",
        "train-0.parquet#0",
        "train-1.parquet#2",
    ]
    assert [joined.record(i).generator for i in (0, 3, 8)] == ["source0", "model0", "source2"]
    with pytest.raises(ValueError, match="1 shards are listed twice, the first is"):
        join_indexes("both", [other, other])


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no parquet shards"):
        read_index(tmp_path)
    with pytest.raises(ValueError, match=r"a\.parquet: no column label, model_name; found"):
        read_index(write_shard(tmp_path / "a.parquet", label=1, columns={"model_name": [], "label": []}))
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: label 7; expected 0, 1, real or fake"):
        read_index(write_shard(tmp_path / "b.parquet", label=1, columns={"label": [1, 7, 0]}))
    with pytest.raises(ValueError, match=r"c\.parquet, row 0: label 2; expected"):
        read_index(write_shard(tmp_path / "c.parquet", label=2))
    with pytest.raises(ValueError, match=r"d\.parquet, row 2: label None; expected"):
        read_index(write_shard(tmp_path / "d.parquet", label=1, columns={"label": [1, 1, None]}))
    with pytest.raises(ValueError, match=r"e\.parquet: column image_data is string; expected binary"):
        read_index(write_shard(tmp_path / "e.parquet", label=1, columns={"image_data": ["a", "b", "c"]}))
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"f\.parquet cannot be read as parquet"):
        read_index(tmp_path / "f.parquet")


# ---------------------------------------------------------------------------------------------------------
# Images


def test_just_the_wanted_rows_come_and_other_row_groups_are_not_read(tmp_path: Path) -> None:
    images = noise(12, size=50)
    path = write_images(tmp_path / "a.parquet", images, row_group_size=4)
    (shard,) = read_index(path).shards
    assert shard.group_rows == (4, 4, 4)
    destroy(path, "image_data", group=1)
    assert list(read_rows(shard, [0, 3, 8, 9])) == [(row, images[row]) for row in (0, 3, 8, 9)]
    assert list(read_rows(shard, [])) == []
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as parquet"):
        list(read_rows(shard, [3, 4]))


@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary_bytes", [0, 30_000, 1 << 20])
def test_every_image_is_what_was_written(
    compression: str, version: str, dictionary_bytes: int, tmp_path: Path
) -> None:
    """Noise, repeated patterns, the same image twice, none at all; in a dictionary, in part of one, without."""
    images: list[bytes | None] = [*noise(20, size=3000), *(image[:40] * 200 for image in noise(20, size=50)), b""]
    images += [*images[:5], None, b"\0" * 100_000, *images[7:9], None, *noise(5, size=70_000, seed=1)]
    path = write_images(
        tmp_path / "a.parquet",
        images,
        compression=compression,
        data_page_version=version,
        data_page_size=10_000,
        write_batch_size=4,
        use_dictionary=dictionary_bytes > 0,
        dictionary_pagesize_limit=max(1, dictionary_bytes),
    )
    (shard,) = read_index(path).shards
    assert list(read_rows(shard, range(len(images)))) == [(row, image or b"") for row, image in enumerate(images)]
    some = [1, 6, 25, 42, 46, 47, len(images) - 1]
    assert list(read_rows(shard, some)) == [(row, images[row] or b"") for row in some]


MEMORY = """
import resource, sys
from gapl.shards.rows import read_rows
from data.shards.scan import read_index
(shard,) = read_index(sys.argv[1]).shards
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
sizes = [len(image) for _, image in read_rows(shard, range(shard.num_rows))]
print(sum(sizes), (peak() - before) * 1024)
"""


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_large_row_group_takes_little_memory(dictionary: bool, tmp_path: Path) -> None:
    """pyarrow writes all of it as one page, and takes more than twice its bytes to read that."""
    path = write_images(tmp_path / "a.parquet", noise(40, size=1_000_000), use_dictionary=dictionary)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", MEMORY, path], env=environment, capture_output=True, text=True)
    num_bytes, growth = map(int, done.stdout.split())
    assert num_bytes > 40_000_000
    assert growth < 20_000_000


def test_damaged_images_are_named(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.parquet", noise(5, size=200) * 3)
    sound = path.read_bytes()
    (shard,) = read_index(path).shards
    generator = np.random.default_rng(0)
    refusals = []
    for _ in range(200):
        damaged = bytearray(sound)
        damaged[int(generator.integers(4, 60))] = int(generator.integers(256))
        path.write_bytes(damaged)
        try:
            assert [row for row, _ in read_rows(shard, range(15))] == list(range(15))
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(text.startswith(f"{path} cannot be read as parquet: ") for text in refusals)


def test_a_changed_shard_is_not_read(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.parquet", noise(3, size=50))
    (shard,) = read_index(path).shards
    write_images(path, noise(3, size=51))
    with pytest.raises(ValueError, match=r"a\.parquet has changed since its rows were listed"):
        next(read_rows(shard, [0]))
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        next(read_rows(shard, [0]))


# ---------------------------------------------------------------------------------------------------------
# URLs


def test_any_file_system_of_fsspec(shards: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/set", recursive=True)
    try:
        for root in ("memory://set", Path("memory://set"), "memory://set/data"):
            index = read_index(root)
            assert [shard.url for shard in index.shards] == [
                f"memory:///set/data/train-{i}.parquet" for i in (0, 1)
            ]
            assert index.label_N.tolist() == [1, 0, 1, 0, 0, 0]
        assert index.record(1).uri == "memory:///set/data/train-0.parquet#1"
        assert list(read_rows(index.shards[1], [2])) == [(2, b"train-1 2")]
        assert find_shards("memory://set/data/train-1.parquet") == ["memory://set/data/train-1.parquet"]
    finally:
        memory.rm("/set", recursive=True)
    with pytest.raises(ValueError, match="memory://set cannot be reached or read"):
        read_index("memory://set")
    with pytest.raises(ValueError, match="nowhere://set cannot be reached: Protocol not known"):
        read_index("nowhere://set")


@dataclass
class DataSets:
    """A hub of data sets on this machine: what the one repository owner/set holds, and what was asked of it."""

    folder: Path
    url: str = ""
    sent: int = 0  # bytes of files
    asked: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Of a process for which this is the hub; others have none (tests/conftest.py)."""
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HTTP"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder.parent / "hf"),
            "HF_HUB_OFFLINE": "0",
            "PYTHONPATH": str(PROJECT),
        }

    def run(self, *command: object, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, command)],
            env=self.environment() | settings,
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )


class Handler(BaseHTTPRequestHandler):
    """What HfFileSystem asks: of a repository, of its folders, of ranges of files."""

    protocol_version = "HTTP/1.1"
    hub: DataSets

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.hub.asked.append(self.path)
        match parts:
            case ["api", "datasets", "owner", "set"]:
                self.reply(200, json.dumps({"id": "owner/set", "sha": "c" * 40}).encode())
            case ["api", "datasets", "owner", "set", "tree", "main", *inside]:
                self.reply(200, json.dumps([self.entry(path) for path in self.files(inside)]).encode())
            case ["datasets", "owner", "set", "resolve", "main", *inside]:
                self.send_range(self.hub.folder.joinpath(*inside).read_bytes())
            case _:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

    def files(self, inside: list[str]) -> list[Path]:
        return sorted(self.hub.folder.joinpath(*inside).iterdir())

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.hub.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        return {"type": "file", "path": name, "oid": "0" * 40, "size": path.stat().st_size}

    def send_range(self, content: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match
        part = content[int(match[1]) : int(match[2]) + 1]
        self.hub.sent += len(part)
        self.reply(206, part)

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *_arguments: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DataSets]:
    """A hub with two shards of 40 images each, 2 MB of both classes and 4 MB of real images."""
    hub = DataSets(tmp_path / "set")
    write_images(hub.folder / "data/train-0.parquet", noise(40, size=50_000), labels=[0, 1] * 20)
    write_images(hub.folder / "data/train-1.parquet", noise(40, size=100_000, seed=1), labels=[0] * 40)
    (hub.folder / "README.md").write_text("a data set")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfThisHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


INDEX = """
import sys
from gapl.shards.rows import read_rows
from data.shards.scan import read_index
index = read_index(sys.argv[1])
print(index.name, len(index), index.count(0), index.count(1), index.record(41).uri)
for shard in map(int, sys.argv[2:]):
    for row, image in read_rows(index.shards[shard], [3, 17]):
        print(row, image[:8].hex(), len(image))
"""


def test_the_index_of_a_hub_takes_a_small_part_of_its_bytes(hub: DataSets) -> None:
    done = hub.run("-c", INDEX, "hf://datasets/owner/set")
    assert done.stdout == "set 80 60 20 hf://datasets/owner/set/data/train-1.parquet#1\n", done.stderr
    footers = 2 * 65536  # pyarrow asks for that much at the end of a file
    assert hub.sent < footers + 10_000
    assert sum(path.stat().st_size for path in hub.folder.rglob("*.parquet")) > 40 * 150_000
    assert len([path for path in hub.asked if "/resolve/" in path]) <= 3 * 2


def test_images_of_a_hub(hub: DataSets) -> None:
    done = hub.run("-c", INDEX, "hf://datasets/owner/set", "1")
    images = noise(40, size=100_000, seed=1)
    assert done.stdout.splitlines()[1:] == [f"{row} {images[row][:8].hex()} {len(images[row])}" for row in (3, 17)]
    assert not any("train-0.parquet" in path for path in hub.asked[-2:])


def test_a_hub_that_is_not_there_or_has_not_this_is_one_line(hub: DataSets) -> None:
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    expected = {
        ("hf://datasets/owner/other", hub.url): "repository not found",
        ("hf://datasets/owner/set", nobody): "Connection refused",
    }
    for (url, endpoint), reason in expected.items():
        last = hub.run("-c", INDEX, url, HF_ENDPOINT=endpoint).stderr.strip().splitlines()[-1]
        assert last.startswith(f"ValueError: {url} cannot be reached or read: ")
        assert reason in last
    with pytest.raises(ValueError, match=r"owner/set cannot be reached or read: .* offline mode is enabled"):
        read_index("hf://datasets/owner/set")  # as tests/conftest.py sets it
