"""The demonstration corpus: its split, its pairs, the trace of its up-samplers, and how it is built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from data import demo
from data.images import upsample
from data.images.upsample import make_fake

if TYPE_CHECKING:
    from tests.conftest import RunCli


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.build_demo(tmp_path_factory.mktemp("demo") / "corpus", train_crops=1, test_crops=1)


def files_under(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pairs_of(subset: Path) -> Iterator[tuple[Path, Path]]:
    for real in sorted((subset / "0_real").iterdir()):
        yield real, subset / "1_fake" / real.name


def subsets_of(corpus: Path) -> list[Path]:
    return [corpus / split / name for split in ("train", "test") for name in demo.SPLITS[split]]


def photographs_in(split: Path) -> set[str]:
    return {path.stem.rpartition("_")[0] for path in split.rglob("*.jpg")}


def replica_correlation(path: Path) -> float:
    """How far the log-spectrum's detail recurs half the sampling frequency away: 0 by chance, 1 exactly."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64)
    window = np.hanning(len(grey))
    log_spectrum = np.log(np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(window, window))) + 1)
    # The fall of the spectrum from low to high frequencies is every image's; its detail is this image's own.
    detail = log_spectrum - sum(np.roll(log_spectrum, k, axis) for k in (-2, 2) for axis in (0, 1)) / 4
    half = len(grey) // 2
    shifted = (np.roll(detail, half, axis) for axis in (0, 1))
    return float(np.mean([np.corrcoef(detail.ravel(), other.ravel())[0, 1] for other in shifted]))


def test_no_photograph_is_on_both_sides_of_the_split(corpus: Path) -> None:
    train, test = photographs_in(corpus / "train"), photographs_in(corpus / "test")
    assert len(train) == 10
    assert len(test) == 5
    assert not train & test
    assert {"motorcycle_left", "motorcycle_right"} <= train


def test_held_out_upsampler_is_absent_from_train(corpus: Path) -> None:
    assert {p.name for p in (corpus / "train").iterdir()} == {"transposed_conv", "nearest_conv"}
    assert {p.name for p in (corpus / "test").iterdir()} == {
        "transposed_conv",
        "nearest_conv",
        "pixel_shuffle",
    }


def test_every_real_image_has_a_fake_that_is_stored_alike(corpus: Path) -> None:
    tables = set()
    for subset in subsets_of(corpus):
        names = [sorted(p.name for p in (subset / kind).iterdir()) for kind in ("0_real", "1_fake")]
        assert names[0] == names[1]
        for path in (path for pair in pairs_of(subset) for path in pair):
            with Image.open(path) as image:
                assert isinstance(image, JpegImageFile)
                assert (image.mode, image.size) == ("RGB", (256, 256))
                tables.add(json.dumps([image.quantization, image.layer, sorted(image.info)], default=str))
    assert len(tables) == 1


def test_subsets_share_no_crop(corpus: Path) -> None:
    reals = [real.read_bytes() for subset in subsets_of(corpus) for real, _ in pairs_of(subset)]
    assert len(set(reals)) == len(reals) == 10 * 2 + 5 * 3


def test_fakes_look_like_their_photographs(corpus: Path) -> None:
    for subset in subsets_of(corpus):
        for real, fake in pairs_of(subset):
            a, b = (np.asarray(Image.open(path), dtype=np.float64) for path in (real, fake))
            psnr_db = 10 * np.log10(255**2 / np.mean((a - b) ** 2))
            assert 20 < psnr_db < 55, fake
            # Otherwise the brightness would give the fakes away.
            assert abs(a.mean() - b.mean()) < 1, fake


@pytest.mark.parametrize("name", demo.SPLITS["test"])
def test_fakes_carry_spectral_replicas_and_photographs_do_not(corpus: Path, name: str) -> None:
    pairs = list(pairs_of(corpus / "test" / name))
    real, fake = (np.array([replica_correlation(pair[i]) for pair in pairs]) for i in (0, 1))
    assert abs(real.mean()) < 0.05
    assert fake.mean() > 0.25
    assert (fake > real + 0.1).all()


@pytest.mark.parametrize("name", ["transposed_conv", "pixel_shuffle"])
def test_uneven_kernels_draw_a_grid_of_period_two(name: str) -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.uint8)
    fake = make_fake(flat, upsampler=name, seed=3)[..., 0].astype(np.float64)
    spectrum = np.abs(np.fft.fft2(fake - fake.mean()))
    at_nyquist = spectrum[32, 0] ** 2 + spectrum[0, 32] ** 2 + spectrum[32, 32] ** 2
    assert at_nyquist > 0.95 * (spectrum**2).sum() > 0


def test_grey_photographs_stay_grey() -> None:
    crop = demo.read_photograph("skimage/data/camera.png")[:256, :256]
    for name in demo.SPLITS["test"]:
        fake = make_fake(crop, upsampler=name, seed=0)
        assert fake.shape == crop.shape
        assert (fake == fake[..., :1]).all()


def test_same_seed_gives_same_bytes_with_any_number_of_threads(corpus: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = demo.build_demo(tmp_path / "again", train_crops=1, test_crops=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    other = demo.build_demo(tmp_path / "other", seed=1, train_crops=1, test_crops=1)
    assert files_under(again) == files_under(corpus)
    assert not set(files_under(other / "test").values()) & set(files_under(corpus / "test").values())


def test_demo_json_tells_what_was_made(corpus: Path) -> None:
    facts = json.loads((corpus / "demo.json").read_text())
    for subset in subsets_of(corpus):
        found = {kind[2:]: len(list((subset / kind).iterdir())) for kind in ("0_real", "1_fake")}
        assert facts["images"][subset.relative_to(corpus).as_posix()] == found
    assert (facts["seed"], facts["version"]) == (0, demo.VERSION)
    readme = (corpus / "README.txt").read_text()
    assert all(Path(file).name in readme for photographs in demo.PHOTOGRAPHS.values() for file in photographs)


def test_second_call_reuses_the_corpus(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "make_fake", lambda *_, **__: pytest.fail("was built again"))
    assert demo.build_demo(corpus, train_crops=1, test_crops=1) == corpus


def test_corpus_of_another_seed_is_refused(corpus: Path) -> None:
    before = files_under(corpus)
    with pytest.raises(ValueError, match=r"'seed': 0.*not.*'seed': 1"):
        demo.build_demo(corpus, seed=1, train_crops=1, test_crops=1)
    assert files_under(corpus) == before


def test_corpus_that_lost_an_image_is_refused(tmp_path: Path) -> None:
    out = demo.build_demo(tmp_path / "corpus", train_crops=1, test_crops=1)
    next(out.rglob("*.jpg")).unlink()
    with pytest.raises(ValueError, match="changed images"):
        demo.build_demo(out, train_crops=1, test_crops=1)


@pytest.mark.parametrize("marker", [None, "not json", "[]", "{}"])
def test_foreign_folder_is_refused_and_kept(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    if marker is not None:
        (tmp_path / "demo.json").write_text(marker)
    before = files_under(tmp_path)
    with pytest.raises(ValueError, match="not a demonstration corpus"):
        demo.build_demo(tmp_path)
    assert files_under(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="not a demonstration corpus"):
        demo.build_demo(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        demo.build_demo(tmp_path / "file" / "corpus")


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(5))

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return make_fake(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(upsample, "make_fake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.build_demo(tmp_path / "corpus")
    assert not list(tmp_path.iterdir())


def test_corpus_that_another_process_finished_first_is_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus = demo._write_corpus

    def overtaken(folder: Path, settings: dict[str, int]) -> None:
        write_corpus(folder, settings)
        write_corpus(tmp_path / "corpus", settings)

    monkeypatch.setattr(demo, "_write_corpus", overtaken)
    out = demo.build_demo(tmp_path / "corpus", train_crops=1, test_crops=1)
    assert files_under(out) == files_under(corpus)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("file", ["skimage/data/gone.png", "no_such_package/gone.png"])
def test_missing_photograph_is_named(file: str) -> None:
    with pytest.raises(FileNotFoundError, match=file):
        demo.read_photograph(file)


def test_no_crops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1 crop, not 0"):
        demo.build_demo(tmp_path / "corpus", train_crops=0)


def test_command_line_prints_the_counts(tmp_path: Path, run_cli: RunCli) -> None:
    lines = run_cli(demo.main, "--out", tmp_path / "corpus").out.splitlines()
    assert lines[0].startswith("demonstration corpus, seed 0: ")
    assert "  train/nearest_conv: 60 real, 60 fake" in lines
    assert "  test/pixel_shuffle: 15 real, 15 fake" in lines
    assert len(lines) == 6
