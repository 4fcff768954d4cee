"""Fixtures that tests of several folders use."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Before huggingface_hub is imported: no test asks a network, whatever the machine has.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is imported, and for processes that tests start: on models this small, threads wait for each other
# several times longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("GAPL_DATA_ROOT", None)

collect_ignore = ["installed"]  # scripts/test.sh runs these where gapl is installed, without torch

MakeImage = Callable[..., Path]
RunCli = Callable[..., "Finished"]


@dataclass(frozen=True)
class Finished:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    def only_error(self) -> str:
        """The message of a command that refused: exit code 2, no traceback, and one line, the last of stderr."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        return lines[-1]


@dataclass(frozen=True)
class TinyRun:
    """What the road from images to a stage-2 detector left, on the random tower of the tests."""

    root: Path
    stage1: Path
    bank: Path
    stage2: Path


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features and copies of shards' rows are kept where tests end with them."""
    import datasets

    import features.store

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(features.store, "cache_dir", lambda: cache)
        yield


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """`make_image(path, seed=0, size=(64, 64), format=None, levels=256)` writes seeded noise, returns the path.

    `size` is (width, height) in pixels; `format` overrules the suffix; grey levels are below `levels`, so that
    fewer of them make a darker image. Missing folders are made.
    """

    def make(
        path: Path,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        format: str | None = None,
        levels: int = 256,
    ) -> Path:
        width, height = size
        noise = np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path, format=format)
        return path

    return make


def with_damaged_palette() -> bytes:
    """A PNG that can be opened and read, and has no colours: that shows when it is converted."""
    encoded = io.BytesIO()
    Image.new("P", (4, 4)).save(encoded, "PNG")
    at = encoded.getvalue().index(b"IDAT") - 4
    body = b"tRNS" + bytes(300)  # of more colours than a palette has
    chunk = (300).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return encoded.getvalue()[:at] + chunk + encoded.getvalue()[at:]


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forward pass of detectors with several views on the random tower, as gapl/graph.onnx has it."""
    from models.export import save_graph
    from tests.test_several_views import ALL, config_with

    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    save_graph(path, config_with(ALL))
    return path


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`run_cli(main, *arguments)` runs a command of the project in this process, as its file would."""
    from gapl import cli

    def run(main: Callable[[], None], *arguments: object) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", ["command", *map(str, arguments)])
            try:
                cli.run(main)
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Finished(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A chromium of the system; tests that need one are skipped without."""
    from timing.browser import CHROMIUM, find_chromium

    playwright = pytest.importorskip("playwright.sync_api")
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"none of {', '.join(CHROMIUM)} is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """A data root with training images of two generators, and with two small benchmarks. Fakes are darker."""
    root = tmp_path_factory.mktemp("root")
    progan = [f"bench/CNNDetection/test/progan/{kind}" for kind in ("0_real", "1_fake")]
    stylegan = [f"bench/CNNDetection/test/stylegan/car/{kind}" for kind in ("0_real", "1_fake")]
    sd14 = "bench/GenImage/stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/val"
    folders = [
        ("train/alpha/0_real", 256, 12),
        ("train/alpha/1_fake", 100, 12),
        ("train/beta/0_real", 256, 8),
        ("train/beta/1_fake", 100, 8),
        (progan[0], 256, 3),
        (progan[1], 100, 2),
        (stylegan[0], 256, 2),
        (stylegan[1], 100, 2),
        (f"{sd14}/nature", 256, 3),
        (f"{sd14}/ai", 100, 3),
    ]
    for number, (folder, levels, count) in enumerate(folders):
        for i in range(count):
            make_image(root / folder / f"{i}.png", seed=100 * number + i, size=(40, 36), levels=levels)
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory, run_cli: RunCli) -> TinyRun:
    """Stage 1, prototypes and stage 2 on `tiny_root`, by the commands that a user would give."""
    import train
    from prototype import dream_prototype

    runs = tmp_path_factory.mktemp("runs")
    stage1, bank, stage2 = runs / "stage1", runs / "prototypes.safetensors", runs / "stage2"
    # The published preset: the others may be tuned at any time.
    common = ("--data-root", tiny_root, "--preset", "paper", "--num-workers", 0, "--batch-size", 8)
    whole = ("--stop-accuracy", 1, "--patience", 0, "--keep", "last")
    commands = (
        (
            *(train.main, "--stage", 1, "--backbone", "tiny", "--out", stage1, *common),
            *("--feature-views", 1, "--epochs", 10, "--lr", 0.01),
        ),
        (
            *(dream_prototype.main, "--stage1", stage1 / "detector.safetensors", "--same-data"),
            *("--num", 8, "--num-workers", 0, "--out", bank),
        ),
        (
            *(train.main, "--stage", 2, "--init", stage1 / "detector.safetensors", "--prototypes", bank),
            *("--out", stage2, *common, "--epochs", 10, "--lr", 0.003, "--max-grad-norm", 1, *whole),
        ),
    )
    for main, *arguments in commands:
        done = run_cli(main, *arguments)
        assert done.code == 0, done.err
    return TinyRun(tiny_root, stage1 / "detector.safetensors", bank, stage2 / "detector.safetensors")


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory, run_cli: RunCli) -> Path:
    """A calibrated detector with several views on the random tower, in a file that needs no torch."""
    import export
    from tests.test_gapl import make_detector
    from tests.test_several_views import ALL, config_with

    folder = tmp_path_factory.mktemp("tiny_onnx")
    source = make_detector(folder / "tiny.safetensors", config_with(ALL))
    done = run_cli(export.main, "--model_path", source, "--out", folder / "onnx", "--allow-tiny")
    assert done.code == 0, done.err
    return folder / "onnx" / "tiny.onnx"


@pytest.fixture
def judge(run_cli: RunCli, tiny_run: TinyRun) -> RunCli:
    """`judge(*arguments)` runs inference.py with the detector of `tiny_run`."""
    import inference

    def run(*arguments: object) -> Finished:
        return run_cli(inference.main, "--model_path", tiny_run.stage2, "--allow-tiny", *arguments)

    return run


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a network fails the test."""

    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
