"""Files of weights from anywhere: each is read as what was written, or refused in one line, without harm."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Finished
from hostile import IMAGE, SOUND, Case, crafted, flipped_anywhere, good_files, hostile_files, load

PROJECT = Path(__file__).resolve().parent.parent
MAX_LINE = 400
MAX_SECONDS = 5
FLIPS = 200  # a form
SLACK_MB = 25
OF_MEMORY = ("stage1", "bank")  # small: what they take is what the bombs made of them take

OF_COMMAND = {
    ("code: nested", "official"): "it could run code",
    ("pickle: stride 0", "official"): "larger than its bytes",
    ("truncated", "merged"): "damaged",
    ("labels", "full"): "its labels are",
    ("a folder", "official"): "a folder; expected a detector",
}

# In a process of its own: reads a sound file of either form, then all others, and tells how its memory grew.
MEASURE = """
import gc, json, sys
from pathlib import Path
from hostile import load

def peak_mb():  # not ru_maxrss, which begins with what the parent process had
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3

good, hostile = json.load(sys.stdin)
for base, path in good:
    load(base, Path(path))
gc.freeze()
before = peak_mb()
refused = 0
for base, path in hostile:
    try:
        load(base, Path(path))
    except (ValueError, OSError):
        refused += 1
print(json.dumps({"refused": refused, "grown_mb": peak_mb() - before}))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    paths = good_files(tmp_path_factory.mktemp("good"))
    gc.freeze()  # of a file that asks for many objects, most time goes into looking for garbage among all others
    yield paths
    gc.unfreeze()


@pytest.fixture(scope="module")
def kept(good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The hostile files that other processes read."""
    folder = tmp_path_factory.mktemp("kept")
    cases: list[Case] = []
    for case in hostile_files(good, tmp_path_factory.mktemp("hostile"), folder / "marker"):
        kept = replace(case, path=folder / f"{len(cases)}-{case.path.name}")
        if (case.kind, case.base) not in OF_COMMAND and case.base not in OF_MEMORY:
            continue
        if case.path.is_dir():
            kept.path.mkdir()
        elif case.path.is_file():
            kept.path.write_bytes(case.path.read_bytes())
        cases.append(kept)
    return cases


def test_sound_files_are_read(good: dict[str, Path], tmp_path: Path) -> None:
    for base, path in good.items():
        assert all(tensor.isfinite().all() for tensor in load(base, path).values())
    own = tmp_path / "crafted.pt"
    own.write_bytes(crafted(SOUND))  # what the hostile pickles are made of is read itself
    assert torch.equal(load("stage1", own)["project.weight"], torch.ones(128, 32))


def test_every_hostile_file_is_refused_in_one_line(good: dict[str, Path], tmp_path: Path) -> None:
    marker = tmp_path / "code was run"
    problems, count = [], 0
    for case in hostile_files(good, tmp_path / "hostile", marker):
        count += 1
        start = time.perf_counter()
        try:
            load(case.base, case.path)
            problems.append((case, "read"))
        except (ValueError, OSError) as error:
            line = " ".join(str(error).split())
            if line != str(error) or len(line) > MAX_LINE or not line.isprintable() or str(case.path) not in line:
                problems.append((case, line))
        except Exception as error:
            problems.append((case, repr(error)))
        if (taken := time.perf_counter() - start) > MAX_SECONDS:
            problems.append((case, f"{taken:.1f} s"))
        if marker.exists():
            problems.append((case, "its code was run"))
            marker.unlink()
    assert problems == []
    assert count >= 500


def test_a_bit_anywhere_is_noticed_or_changes_nothing(good: dict[str, Path], tmp_path: Path) -> None:
    """Of a zip archive, some bytes mean nothing: times, versions, padding."""
    whole = {base: load(base, path) for base, path in good.items()}
    read = dict.fromkeys(good, 0)
    for case in flipped_anywhere(good, tmp_path, FLIPS):
        try:
            found = load(case.base, case.path)
        except (ValueError, OSError):
            continue
        expected = whole[case.base]
        assert found.keys() == expected.keys()
        assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in found)
        read[case.base] += 1
    assert all(0 <= count < FLIPS for count in read.values())
    assert any(read.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process")
def test_no_hostile_file_takes_much_memory(good: dict[str, Path], kept: list[Case]) -> None:
    """Of all together, the peak grows by at most twice the largest file, and a slack for containers."""
    hostile = [(case.base, str(case.path)) for case in kept if case.base in OF_MEMORY and case.path.is_file()]
    asked = json.dumps([[(base, str(good[base])) for base in OF_MEMORY], hostile])
    command = [sys.executable, "-c", MEASURE]
    environment = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"] == len(hostile)
    largest_mb = max(Path(path).stat().st_size for _, path in hostile) / 1e6
    assert found["grown_mb"] <= 2 * largest_mb + SLACK_MB, (found, largest_mb)


def test_command_line_refuses_in_one_line(kept: list[Case]) -> None:
    """Nothing else is written: no traceback, no warning of torch, no second line."""
    chosen = {(case.kind, case.base): case.path for case in reversed(kept) if (case.kind, case.base) in OF_COMMAND}
    assert chosen.keys() == OF_COMMAND.keys()
    with ThreadPoolExecutor(2) as pool:
        for kind, finished in zip(chosen, pool.map(infer, chosen.values()), strict=True):
            assert OF_COMMAND[kind] in finished.only_error()
            assert len(finished.err.splitlines()) == 1


def infer(path: Path) -> Finished:
    arguments = ("--model_path", str(path), "--image_path", str(IMAGE))
    command = [sys.executable, str(PROJECT / "inference.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)
