"""The store of features and what fills it: what is computed, what is not, and what survives damage and death."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from data.images.augment import train_view
from data.images.views import eval_tensor_view, seeded
from data.loading.plan import Rank
from data.records import Manifest, Record
from data.seeds import draw_seed
from features import store as features
from features.extractor import FeatureExtractor
from features.spec import FORMAT, FeatureSpec
from features.store import FeatureStore, FeatureTable
from gapl.config import DetectorConfig, TowerSpec
from gapl.decode import decode_image
from gapl.files.cache import cache_dir
from gapl.info import DetectorInfo
from gapl.labels import Label
from gapl.names import TINY
from gapl.pixels import IMAGENET_MEAN, PixelSpec
from models import tensorfile
from models.weights.backbone import load_backbone

if TYPE_CHECKING:
    from tests.conftest import MakeImage

PIXEL = PixelSpec(size_px=8)
CLIP_LIKE: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "image_size": 8,
    "patch_size": 4,
}


def backbone_of(**tower: Any) -> str:
    """What a spec says of the tower of a detector: CLIP's, with some facts changed."""
    shape = TowerSpec(**CLIP_LIKE | tower)
    config = DetectorConfig(1, TINY, shape, PIXEL)
    return FeatureSpec.of(DetectorInfo(config=config, backbone_fingerprint="weights"), precision="fp32").backbone


SPEC = FeatureSpec("weights", 6, PIXEL, "fp32", view="crop")


class Tower:
    """Every other pixel of a row, 6 numbers; counts the images that went through."""

    def __init__(self) -> None:
        self.num_images = 0

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        self.num_images += len(pixels_BCHW)
        return pixels_BCHW[:, :2, 3, 1:7:2].flatten(1)


@pytest.fixture
def images(tmp_path: Path, make_image: MakeImage) -> Manifest:
    """Ten images of seeded noise."""
    paths = [make_image(tmp_path / f"images/{i}.png", seed=i, size=(14, 12)) for i in range(10)]
    return Manifest("ten", tuple(Record(str(path), Label(i % 2), "noise") for i, path in enumerate(paths)))


@pytest.fixture
def extract(tmp_path: Path) -> Callable[..., Any]:
    """`extract(manifest, *specs, **options)`: (how many images the tower saw, tables, manifest, failures)."""

    def run(manifest: Manifest, *specs: FeatureSpec, **options: Any) -> Any:
        tower = Tower()
        stores = [FeatureStore.open(spec, tmp_path / "cache") for spec in specs or (SPEC,)]
        extractor = FeatureExtractor(tower, batch_size=4, **{"num_workers": 0} | options)
        tables, read, failures = extractor.tables(manifest, stores, desc="test")
        return tower.num_images, tables, read, failures

    return run


def whole(table: FeatureTable) -> Tensor:
    return table[torch.arange(len(table))]


def by_hand(record: Record, spec: FeatureSpec = SPEC) -> Tensor:
    """The feature of the fake tower, from the definition."""
    encoded = Path(record.uri).read_bytes()
    image = decode_image(encoded)
    if spec.view == "eval":
        pixels_CHW = eval_tensor_view(spec.pixel)(image)
    else:
        number = int(hashlib.sha256(encoded).hexdigest(), 16)
        view = train_view(spec.view, size_px=8, mean=PIXEL.mean, std=PIXEL.std)
        pixels_CHW = seeded(view, image, seed=draw_seed(0, spec.number, number))
    return pixels_CHW[:2, 3, 1:7:2].flatten()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("cache/*/*.safetensors"))


# ---------------------------------------------------------------------------------------------------------
# What is computed


@pytest.mark.parametrize("num_workers", [0, 2])
def test_features_are_those_of_the_images_views(
    extract: Callable[..., Any], images: Manifest, num_workers: int
) -> None:
    specs = (SPEC, replace(SPEC, number=1), replace(SPEC, view="eval", pixel=replace(PIXEL, resize_px=9)))
    seen, tables, read, failures = extract(images, *specs, num_workers=num_workers)
    assert (seen, read, failures) == (30, images, [])
    for spec, table in zip(specs, tables, strict=True):
        assert torch.equal(whole(table), torch.stack([by_hand(record, spec) for record in images]))
    assert not torch.equal(whole(tables[0]), whole(tables[1]))
    assert torch.equal(tables[0][torch.tensor([7, 2, 2])], whole(tables[0])[[7, 2, 2]])
    assert extract(images, *specs)[0] == 0


def test_cached_features_of_a_tower_are_its_own_to_the_bit(tmp_path: Path, tiny_root: Path) -> None:
    tower = load_backbone(TINY).tower
    paths = sorted(tiny_root.glob("train/alpha/*/*.png"))
    manifest = Manifest("alpha", tuple(Record(str(path), Label.REAL, "alpha") for path in paths))
    pixel = PixelSpec(size_px=32)
    spec = FeatureSpec("tiny", 32, pixel, "fp32")
    pixels_NCHW = torch.stack([spec.make_view()(decode_image(path.read_bytes())) for path in paths])
    with torch.inference_mode():
        fresh_ND = torch.cat([tower(part) for part in pixels_NCHW.split(10)])
    for feature in (tower, refuse):
        extractor = FeatureExtractor(feature, batch_size=10, num_workers=0)
        (table,), _, _ = extractor.tables(manifest, [FeatureStore.open(spec, tmp_path)], desc="test")
        assert torch.equal(whole(table), fresh_ND)
        assert not whole(table).is_inference()


def refuse(_pixels_BCHW: Tensor) -> Tensor:
    raise AssertionError("the tower was called")


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 1},
        {"backbone": "other"},
        {"backbone": backbone_of(hidden_act="gelu")},
        {"backbone": backbone_of(layer_norm_eps=1e-6)},
        {"backbone": backbone_of(num_attention_heads=2)},
        {"precision": "bf16"},
        {"view": "crop_flip"},
        {"pixel": replace(PIXEL, mean=IMAGENET_MEAN)},
        {"view": "eval"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_spec_is_another_store(
    extract: Callable[..., Any], images: Manifest, tmp_path: Path, changed: dict[str, Any]
) -> None:
    other = replace(SPEC, **changed)
    assert [extract(images, spec)[0] for spec in (SPEC, other, SPEC, other)] == [10, 10, 0, 0]
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("cache/*/spec.json")]
    assert len(facts) == 2
    assert {each["backbone"] for each in facts} == {backbone_of(), other.backbone}


def test_number_is_nothing_to_the_evaluation_view(extract: Callable[..., Any], images: Manifest) -> None:
    spec = replace(SPEC, view="eval")
    assert [extract(images, each)[0] for each in (spec, replace(spec, number=2))] == [10, 0]


def test_image_is_known_by_its_bytes(extract: Callable[..., Any], images: Manifest, make_image: MakeImage) -> None:
    _, (before,), _, _ = extract(images)
    first, second, *rest = images
    moved = Path(first.uri).rename(Path(first.uri).with_name("moved.png"))
    make_image(Path(second.uri), seed=99, size=(14, 12))
    other_set = Manifest("other", (*reversed(rest), Record(str(moved), Label.REAL, "moved"), second, second))
    seen, (table,), _, _ = extract(other_set)
    assert seen == 1
    assert torch.equal(whole(table)[:9], whole(before)[[9, 8, 7, 6, 5, 4, 3, 2, 0]])
    assert torch.equal(whole(table)[9:], by_hand(second).expand(2, -1))


def test_images_that_cannot_be_read_are_named(extract: Callable[..., Any], images: Manifest) -> None:
    cut, gone, copy = (images.records[i] for i in (1, 4, 8))
    for record in (cut, copy):
        Path(record.uri).write_bytes(Path(cut.uri).read_bytes()[:60])
    Path(gone.uri).unlink()
    for _ in range(2):
        seen, tables, read, failures = extract(images, SPEC, replace(SPEC, number=1))
        assert [failure.record for failure in failures] == [cut, gone, copy]
        assert [failure.reason.split(":")[0] for failure in failures] == [
            "damaged image",
            "[Errno 2] No such file or directory",
            "damaged image",
        ]
        assert read.records == tuple(record for record in images if record not in (cut, gone, copy))
        expected_ND = torch.stack([by_hand(record) for record in read])
        assert torch.equal(whole(tables[0]), expected_ND)
        assert len(tables[1]) == 7
    assert seen == 0
    with pytest.raises(ValueError, match="none of the images could be read"):
        extract(Manifest("broken", (cut, gone)))


# ---------------------------------------------------------------------------------------------------------
# Damage and death


def flip_a_bit(segment: Path) -> None:
    raw = bytearray(segment.read_bytes())
    raw[-7] ^= 1
    segment.write_bytes(raw)


def narrow(segment: Path) -> None:
    _, tensors = tensorfile.read(segment, format=FORMAT)
    tensors["features_ND"] = tensors["features_ND"][:, :5].clone()
    tensorfile.write(segment, tensors, format=FORMAT, header={})


def cut(segment: Path) -> None:
    segment.write_bytes(segment.read_bytes()[:50])


@pytest.mark.parametrize("damage", [flip_a_bit, narrow, cut])
def test_damaged_segment_is_computed_anew(
    extract: Callable[..., Any],
    images: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    monkeypatch.setattr(features, "SEGMENT_IMAGES", 4)
    _, (before,), _, _ = extract(images)
    expected_ND = whole(before)
    read = {path: tensorfile.read(path, format=FORMAT)[1] for path in segments(tmp_path)}
    sizes = {path: len(tensors["features_ND"]) for path, tensors in read.items()}
    assert list(sizes.values()).count(4) == 2
    victim = next(path for path, size in sizes.items() if size == 4)
    damage(victim)
    with caplog.at_level(logging.WARNING):
        seen, (table,), _, _ = extract(images)
    assert seen == 4
    assert torch.equal(whole(table), expected_ND)
    assert [record.getMessage().startswith(f"{victim}: ") for record in caplog.records] == [True]
    assert not victim.exists()
    assert extract(images)[0] == 0


def start_process(images: Manifest, cache: Path, *, dies_at: int = 0) -> multiprocessing.process.BaseProcess:
    """Fills a store from another process, two images a segment, and kills itself at a call of its tower."""

    def work() -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        calls = itertools.count(1)

        def tower(pixels_BCHW: Tensor) -> Tensor:
            if next(calls) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)
            return Tower()(pixels_BCHW)

        features.SEGMENT_IMAGES = 2
        extractor = FeatureExtractor(tower, batch_size=2, num_workers=0)
        extractor.tables(images, [FeatureStore.open(SPEC, cache)], desc="process")

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_pass_that_was_killed_goes_on_where_it_stopped(
    extract: Callable[..., Any], images: Manifest, tmp_path: Path
) -> None:
    process = start_process(images, tmp_path / "cache", dies_at=4)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    seen, (table,), _, _ = extract(images)
    assert seen == 10 - 3 * 2
    assert torch.equal(whole(table), torch.stack([by_hand(record) for record in images]))


def test_two_processes_fill_one_store_at_once(
    extract: Callable[..., Any], images: Manifest, tmp_path: Path
) -> None:
    processes = [start_process(images, tmp_path / "cache") for _ in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(segments(tmp_path)) > 5  # they did work at once
    seen, (table,), _, _ = extract(images)
    assert seen == 0
    assert torch.equal(whole(table), torch.stack([by_hand(record) for record in images]))
    assert not list(tmp_path.glob("cache/*/.*"))


class Threads:
    """Ranks as threads: `gather(rank, part)` joins the parts of all."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world, timeout=20)
        self.parts: dict[int, list[Any]] = {}

    def gather(self, rank: int, part: list[Any]) -> list[Any]:
        self.parts[rank] = part
        self.barrier.wait()
        joined = [item for rank in sorted(self.parts) for item in self.parts[rank]]
        self.barrier.wait()
        return joined

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.barrier.parties) as pool:
            return list(pool.map(work, range(self.barrier.parties)))


@pytest.mark.parametrize("filled", [0, 3])
def test_processes_that_train_together_share_the_work(
    extract: Callable[..., Any], images: Manifest, filled: int
) -> None:
    spec = replace(SPEC, view="eval")  # seeds are not for threads
    broken = images.records[6]
    Path(broken.uri).write_bytes(b"no image")
    if filled:
        extract(Manifest("some", images.records[:filled]), spec)
    threads = Threads(2)
    results = threads.run(
        lambda rank: extract(images, spec, rank=Rank(rank, 2), gather=lambda part: threads.gather(rank, part))
    )
    assert sum(seen for seen, *_ in results) == 9 - filled
    assert all(seen >= 2 for seen, *_ in results)
    for _, (table,), read, failures in results:
        assert [failure.record for failure in failures] == [broken]
        assert read.records == tuple(record for record in images if record != broken)
        assert torch.equal(whole(table), torch.stack([by_hand(record, spec) for record in read]))


def test_ranks_agree_on_what_is_missing(extract: Callable[..., Any], images: Manifest) -> None:
    """Rank 1 comes when another process has filled a part of the store: still no image is left to nobody."""
    spec = replace(SPEC, view="eval")
    threads = Threads(2)
    is_there = threading.Event()

    def work(rank: int) -> Any:
        def gather(part: list[Any]) -> list[Any]:
            return threads.gather(rank, part)

        if rank == 1:
            is_there.wait(20)
        store = FeatureStore.open(spec, cache)
        if rank == 0:
            extract(Manifest("some", images.records[:5]), spec)
            is_there.set()
        extractor = FeatureExtractor(Tower(), 4, 0, rank=Rank(rank, 2), gather=gather)
        return extractor.tables(images, [store], desc="test")

    cache = Path(images.records[0].uri).parent.parent / "cache"
    for (table,), _, _ in threads.run(work):
        assert torch.equal(whole(table), torch.stack([by_hand(record, spec) for record in images]))


def test_ranks_with_different_folders_are_told(images: Manifest, tmp_path: Path) -> None:
    threads = Threads(2)

    def work(rank: int) -> None:
        extractor = FeatureExtractor(
            Tower(), 4, 0, rank=Rank(rank, 2), gather=lambda part: threads.gather(rank, part)
        )
        store = FeatureStore.open(replace(SPEC, view="eval"), tmp_path / f"cache{rank}")
        with pytest.raises(ValueError, match="5 features that another process computed are not there; all proc"):
            extractor.tables(images, [store], desc="test")

    threads.run(work)


def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    store = FeatureStore.open(SPEC, tmp_path / "cache")
    store.add([bytes(32)], torch.zeros(1, 6))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"features cannot be kept in \S+/cache/\w{64}: .* or --feature-cache"):
            store.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in store.folder.iterdir()] == ["spec.json"]
    store.flush()
    store.load()
    assert bytes(32) in store


def test_cache_that_is_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"features cannot be kept in \S+/file/\w{64}: .*--feature-cache moves them"):
        FeatureStore.open(SPEC, tmp_path / "file")


def test_store_is_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "cache_dir", cache_dir)  # which the tests' own fixture has replaced
    monkeypatch.setenv("GAPL_CACHE", str(tmp_path))
    store = FeatureStore.open(SPEC)
    assert store.folder.parent == tmp_path / "features"
    assert json.loads((store.folder / "spec.json").read_text())["view"] == "crop"
