"""Judging on a Ray cluster: the results are those of one process, also when a worker is killed."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from PIL import Image

import inference
from gapl.cluster import _Judge
from gapl.detector import Detector
from gapl.inputs.input import file_input
from gapl.workers import Limits

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
NUM_IMAGES = 120


@pytest.fixture
def images(tmp_path: Path, make_image: MakeImage) -> list[Path]:
    """A folder with a copy and a broken image, and an archive."""
    folder = tmp_path / "in"
    paths = [make_image(folder / f"{i:03}.png", seed=i, size=(40, 36)) for i in range(NUM_IMAGES)]
    paths[60].write_bytes(paths[2].read_bytes())
    paths[7].write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(make_image(tmp_path / "a.png", seed=1000, size=(50, 40)), "deep/a.png")
        archive.write(paths[2], "b.png")
    return [folder, tmp_path / "more.zip"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_killed_worker_costs_time_only(
    images: list[Path], tiny_run: TinyRun, run_cli: RunCli, tmp_path: Path
) -> None:
    given = ["--model_path", tiny_run.stage2, "--allow-tiny", "--device", "cpu", *images]
    alone = run_cli(inference.main, *given, "--workers", 0, "--out", tmp_path / "alone.csv")
    assert alone.code == 1, alone.err
    out = tmp_path / "ray.csv"
    command = [sys.executable, PROJECT / "inference.py", *given, "--ray", 2, "--batch-size", 4, "--out", out]
    environment = os.environ | {"RAY_worker_niceness": "0"}
    running = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
    journal = Path(f"{out}.part")
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    workers = [each for each in psutil.Process(running.pid).children(recursive=True) if _is_worker(each)]
    assert workers
    workers[0].kill()
    _, err = running.communicate(timeout=300)
    assert running.returncode == 1, err
    expected, found = rows_of(tmp_path / "alone.csv"), rows_of(out)
    assert len(found) == NUM_IMAGES + 2
    for one, other in zip(expected, found, strict=True):
        logits = [float(row.pop("logit") or 0) for row in (one, other)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-5)
        assert {name: one[name] for name in one if name != "score"} == {n: other[n] for n in other if n != "score"}


def _is_worker(process: psutil.Process) -> bool:
    return any("MapWorker" in word for word in process.cmdline())


def test_a_worker_reads_no_larger_images(
    tiny_onnx: Path, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # of this process: put back afterwards
    images = [file_input(make_image(tmp_path / f"{side}.png", size=(side, side))) for side in (100, 200)]
    judge = _Judge(partial(Detector.load, tiny_onnx), 0, False, "", 2, Limits(0.02, 60), {})
    (encoded,) = judge({"images": [cloudpickle.dumps(images)]})["results"]
    refused = "too many pixels; images of at most 0.02 megapixels are read"
    assert [each.error for each in cloudpickle.loads(encoded)] == ["", refused]


def test_what_needs_one_process_is_refused(run_cli: RunCli, tmp_path: Path) -> None:
    for option, message in (
        ("--gallery", "--ray makes a table"),
        ("--ray-address", "--ray-address needs --ray N"),
    ):
        number = ("--ray", 2) if option == "--gallery" else ()
        given = ("--model_path", "m", PROJECT / "assets", option, tmp_path / "x.html", *number)
        assert message in run_cli(inference.main, *given).only_error()
    assert "--ray" in run_cli(inference.main, "--model_path", "m", "a.png", "--ray", 0).only_error()
