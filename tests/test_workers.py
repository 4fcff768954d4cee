"""Processes that decode: what breaks one costs a row, the rest goes on, and none of them outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import psutil
import pytest

import inference
from gapl import cli
from gapl.detector import seeing
from gapl.inputs.input import Input, file_input, refused_input
from gapl.options import chosen_workers
from gapl.pixels import PixelSpec
from gapl.workers import Limits, Look, Workers

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
SPEC = PixelSpec(size_px=32)
LIMITS = Limits(megapixels=1, seconds=4)
END_S = 20  # in which processes must be gone; it takes a part of a second where nothing else runs


@dataclass(frozen=True)
class Odd:
    """A file whose reading does something."""

    does: str

    def read(self) -> bytes:
        if self.does == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.does == "exit":
            os._exit(3)
        if self.does == "hang":
            time.sleep(3600)
        assert self.does == "eat"
        return bytes(LIMITS.bytes + (1 << 28))


@pytest.fixture(scope="module")
def images(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    return [make_image(folder / f"{i}.png", seed=i, size=(40 + i, 36)) for i in range(6)]


def inputs(*images: Path | Odd) -> list[Input]:
    return [Input(str(image), lambda: b"", cast(Path, image)) for image in images]


def start(function: Callable[[], None]) -> subprocess.Popen[str]:
    """Run a function of this file in a session of its own."""
    command = [sys.executable, "-c", f"import test_workers; test_workers.{function.__name__}()"]
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def hang() -> None:
    """Look at an image for ever, and say when that has begun."""

    def main() -> None:
        with Workers(1, pixel=SPEC, limits=Limits(1, 3600)) as workers:
            workers.submit(refused_input("a", "no image")).result()
            workers.submit(Input("b", lambda: b"no image")).result()
            waiting = workers.submit(*inputs(Odd("hang")))
            print("hangs", flush=True)
            waiting.result()

    cli.run(main)


def all_end(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=END_S)
    return not [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_what_is_seen_is_that_of_one_process(images: list[Path]) -> None:
    broken = images[0].with_name("broken.png")
    broken.write_bytes(images[0].read_bytes()[:60])
    paths = [*images, broken, images[0], images[0].with_name("gone.png")]
    asked = [*map(file_input, paths), Input("in", images[0].read_bytes), refused_input("no", "it is refused")]
    with Workers(0, pixel=SPEC, limits=LIMITS) as workers:
        expected = list(workers.look(asked, ahead=2))
    with Workers(2, pixel=SPEC, limits=LIMITS) as workers:
        found = list(workers.look(asked, ahead=2))
    assert [(look.sha256, look.error) for look in found] == [(look.sha256, look.error) for look in expected]
    assert [bool(look.seen) for look in expected] == [True] * 6 + [False] * 5
    for path, one, other in zip(images, expected, found, strict=False):
        assert one.seen
        assert other.seen
        assert np.array_equal(one.seen.pixels, other.seen.pixels)
        assert np.array_equal(one.seen.pixels, seeing(SPEC)(path).pixels)
        assert one.seen.warnings == other.seen.warnings


def test_what_breaks_a_process_costs_one_row(images: list[Path]) -> None:
    expected = {
        "crash": "what decodes it crashed (SIGSEGV)",
        "exit": "what decodes it ended with exit code 3",
        "hang": "took longer than 4 s",
        "eat": "not enough memory to judge it",
    }
    asked = [each for pair in zip(images, map(Odd, expected), strict=False) for each in pair]
    with Workers(2, pixel=SPEC, limits=LIMITS) as workers:
        found = list(workers.look(inputs(*asked, *images), ahead=3))
    assert found[1:8:2] == [Look("", error=error) for error in expected.values()]
    assert [look.error for look in (*found[0:8:2], *found[8:])] == [""] * 10
    contents = {look.sha256 for look in found if look.seen}
    assert len(contents) == len(images)


def test_a_process_that_was_killed_while_it_waited_costs_nothing(images: list[Path]) -> None:
    before = psutil.Process().children()
    with Workers(1, pixel=SPEC, limits=LIMITS) as workers:
        assert workers.submit(file_input(images[0])).result().seen
        started = (each for each in psutil.Process().children() if each not in before)
        (child,) = (each for each in started if "spawn_main" in " ".join(each.cmdline()))
        child.kill()
        while child.status() != psutil.STATUS_ZOMBIE or child.num_threads() > 1:  # until it can be waited for
            time.sleep(0.01)
        assert workers.submit(file_input(images[1])).result().seen


def test_known_contents_are_not_decoded(images: list[Path]) -> None:
    with Workers(0, pixel=SPEC, limits=LIMITS) as workers:
        known = [workers.submit(file_input(images[0])).result().sha256]
    with Workers(1, pixel=SPEC, limits=LIMITS, known=known) as workers:
        assert list(workers.look(inputs(images[0]), ahead=1)) == [Look(known[0])]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_contents_are_seen_again_where_none_is_remembered(images: list[Path], num_workers: int) -> None:
    encoded = images[0].read_bytes()
    with Workers(num_workers, pixel=SPEC, limits=LIMITS, known=None) as workers:
        looks = [workers.submit(encoded, explain=explain).result() for explain in (False, True)]
    assert [bool(look.seen) for look in looks] == [True, True]
    assert [look.origin for look in looks] == [None, ()]


@pytest.mark.parametrize("how", ["kill -9", "Ctrl-C"])
def test_no_process_outlives_its_parent(how: str) -> None:
    parent = start(hang)
    assert parent.stdout
    assert parent.stdout.readline() == "hangs\n"
    processes = psutil.Process(parent.pid).children(recursive=True)
    assert len(processes) >= 1
    if how == "kill -9":
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    _, err = parent.communicate(timeout=END_S)
    assert (parent.returncode, err) == ((-9, "") if how == "kill -9" else (130, "interrupted\n"))
    assert all_end(processes)


def test_verdicts_are_those_of_one_process(
    run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path, make_image: MakeImage
) -> None:
    for i in range(5):
        make_image(tmp_path / f"{i}.png", seed=i % 4, size=(30 + i % 4, 40))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    given = ("--model_path", tiny_run.stage2, "--allow-tiny", "--json", "--batch-size", 2, tmp_path)
    done = [run_cli(inference.main, *given, "--workers", number) for number in (0, 1)]
    assert [each.code for each in done] == [1, 1], done
    assert len(done[0].out.splitlines()) == 6
    assert done[0].out == done[1].out
    rows = [json.loads(line) for line in done[0].out.splitlines()]
    assert rows[0]["logit"] == rows[4]["logit"]


def test_how_many_processes_there_are() -> None:
    """A single image starts none, unless they are asked for."""
    asked = {None: (0, 0, 2, 2), 0: (0, 0, 0, 0), 1: (1, 1, 1, 1), 4: (1, 4, 4, 4)}
    for workers, expected in asked.items():
        args = Namespace(workers=workers)
        assert tuple(chosen_workers(args, number) for number in (1, 15, 16, 2000)) == expected


def test_wrong_limits_are_refused(run_cli: RunCli) -> None:
    for option, value in (("--workers", "-1"), ("--workers", "x"), ("--max-seconds", "0")):
        assert option in run_cli(inference.main, "--model_path", "m", "a.png", option, value).only_error()


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("inference.py --model_path m", "logging"),
        ("inference.py --model_path m", "PIL.Image"),
        ("-m gapl", "logging"),
    ],
)
def test_ctrl_c_while_modules_are_imported_is_silent(command: str, module: str) -> None:
    words = [sys.executable, "-X", "importtime", *command.split(), "assets"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert running.stderr
    while not running.stderr.readline().rstrip().endswith(f" {module}"):
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=END_S)
    assert running.returncode in (-signal.SIGINT, 130)
    assert not [line for line in err.splitlines() if not line.startswith("import time:") and line != "interrupted"]
