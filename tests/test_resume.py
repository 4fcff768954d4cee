"""A run that was stopped goes on as if it had not been: checkpoints, signals, full disks, several processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import train
from data.loading.batches import Failure
from data.records import Record
from gapl.labels import Label
from training.batches import FeatureBatch, TrainingBatches
from training.interrupt import Interrupted
from training.loop import fit
from training.processes import start_processes
from training.recipe import Recipe
from training.runs import Run, RunContext, Saving
from training.state import Position, TrainingState, read_state, write_state
from training.trainer import Fitted, LogitModel

if TYPE_CHECKING:
    from tests.conftest import RunCli, TinyRun

PROJECT = Path(__file__).parent.parent
FEATURES_ND = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
LABELS_N = (FEATURES_ND[:, 0] > 0).float()
STEPS = 24


class Attempt:
    """A run of a small model with dropout in `folder`, which a signal reaches before one of its steps.

    `signal_at` counts all batches asked for, from 0; `error_at` raises as a killed process would stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        signal_at: int | None = None,
        error_at: int | None = None,
        saving: Saving | None = None,
        settings: dict[str, Any] | None = None,
        dropout_seed: int = 8,
        **fields: Any,
    ) -> None:
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        torch.manual_seed(dropout_seed)
        self.signal_at, self.error_at, self.asked = signal_at, error_at, 0
        self.run = Run(folder, settings=settings or {"lr": 0.1})
        self.run.resume()
        recipe = {"lr": 0.1, "epochs": 6, "schedule": "cosine", "keep": "best", "patience": 5} | fields
        with start_processes(device="cpu") as accelerator:
            self.fitted: Fitted = fit(
                LogitModel(self.model, lambda feature_BD: self.model(feature_BD).squeeze(-1)),
                TrainingBatches(self.draw, per_epoch=4, num_images=16),
                recipe=Recipe(**recipe),
                context=RunContext(accelerator, self.run, saving or Saving(steps=5)),
                validate=self.validate,
            )

    def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(16)[first_batch:]:
            step, self.asked = epoch * 4 + first_batch, self.asked + 1
            first_batch += 1
            if step == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == self.error_at:
                raise ConnectionAbortedError("as if killed")
            yield FeatureBatch(FEATURES_ND[chosen], LABELS_N[chosen])

    def validate(self) -> dict[str, Any]:
        self.model.eval()
        with torch.inference_mode():
            right = (self.model(FEATURES_ND).squeeze(-1) > 0) == LABELS_N.bool()
        return {"random": {"accuracy": float(right.float().mean()), "auroc": None}}

    def outcome(self) -> tuple[Fitted, list[Tensor], list[dict[str, Any]]]:
        lines = [json.loads(line) for line in self.run.metrics.read_text().splitlines()]
        metrics = [{name: line[name] for name in line if name != "images_per_s"} for line in lines]
        return self.fitted, [p.detach() for p in self.model.parameters()], metrics


def same(left: Attempt, right: Attempt) -> bool:
    """To the last bit."""
    (fitted, weights, metrics), (other_fitted, other_weights, other_metrics) = left.outcome(), right.outcome()
    equal = all(torch.equal(*pair) for pair in zip(weights, other_weights, strict=True))
    return fitted == other_fitted and metrics == other_metrics and equal


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """Not disturbed."""
    return Attempt(tmp_path_factory.mktemp("runs") / "alone")


def test_random_numbers_matter_to_the_result(alone: Attempt, tmp_path: Path) -> None:
    """Else the tests below would not see whether their state comes back."""
    assert same(alone, Attempt(tmp_path / "again"))
    assert not same(alone, Attempt(tmp_path / "other", dropout_seed=9))


@pytest.mark.parametrize("step", [0, 3, 4, 10, 23])
def test_signal_saves_and_the_same_command_goes_on(alone: Attempt, tmp_path: Path, step: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stop:
        Attempt(tmp_path, signal_at=step)
    assert (stop.value.signal_number, stop.value.step) == (signal.SIGTERM, step + 1)
    resumed = Attempt(tmp_path)
    assert resumed.asked == STEPS - step - 1, "nothing is done twice"
    assert same(resumed, alone)
    assert signal.getsignal(signal.SIGTERM) == before


def test_average_of_the_weights_is_gone_on_with(tmp_path: Path) -> None:
    whole = Attempt(tmp_path / "whole", ema_decay=0.9)
    with pytest.raises(Interrupted):
        Attempt(tmp_path / "cut", ema_decay=0.9, signal_at=9)
    assert same(Attempt(tmp_path / "cut", ema_decay=0.9), whole)


@pytest.mark.parametrize("step", [4, 7, 13, 22])
def test_what_a_killed_run_did_after_its_last_checkpoint_is_done_again(
    alone: Attempt, tmp_path: Path, step: int
) -> None:
    with pytest.raises(ConnectionAbortedError):
        Attempt(tmp_path, error_at=step)
    resumed = Attempt(tmp_path)
    assert resumed.asked == STEPS - step // 5 * 5
    assert same(resumed, alone)


def test_run_can_be_stopped_again_and_again(alone: Attempt, tmp_path: Path) -> None:
    for step in (2, 3, 9, 16, 20):
        with pytest.raises(Interrupted):
            Attempt(tmp_path, signal_at=step)
    assert same(Attempt(tmp_path), alone)


def test_checkpoints_by_the_clock_and_before_validation(alone: Attempt, tmp_path: Path) -> None:
    with pytest.raises(ConnectionAbortedError):
        Attempt(tmp_path, error_at=9, saving=Saving(minutes=1e-9))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000008.safetensors",
        "step_00000009.safetensors",
    ], "all but two are removed"
    assert same(Attempt(tmp_path), alone)


def test_half_written_or_damaged_checkpoint_is_passed_over(
    alone: Attempt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectionAbortedError):
        Attempt(tmp_path, error_at=13)
    newest = tmp_path / "checkpoints/step_00000010.safetensors"
    blob = bytearray(newest.read_bytes())
    blob[-5] ^= 1
    newest.write_bytes(blob)
    (tmp_path / "checkpoints/.step_00000015.safetensors.123.tmp").write_bytes(blob[:100])
    resumed = Attempt(tmp_path)
    assert "a checkpoint is skipped" in caplog.text
    assert resumed.asked == STEPS - 5
    assert same(resumed, alone)


def test_run_without_a_sound_checkpoint_is_not_thrown_away(tmp_path: Path) -> None:
    with pytest.raises(ConnectionAbortedError):
        Attempt(tmp_path, error_at=6)
    (tmp_path / "checkpoints/step_00000005.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"none of its checkpoints can be read .* --overwrite to start again"):
        Attempt(tmp_path)
    assert (tmp_path / "checkpoints/step_00000005.safetensors").exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        Attempt(tmp_path, signal_at=6)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"was stopped at step 7 and had lr 0\.1, not 0\.2; give the same"):
        Attempt(tmp_path, settings={"lr": 0.2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_full_disk_is_told_and_the_last_checkpoint_stays(alone: Attempt, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        Attempt(tmp_path, signal_at=6)
    (kept,) = (path for path in (tmp_path / "checkpoints").iterdir() if "07" in path.name)
    before = kept.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match=r"could not be written .* the same command without --overwrite"):
            Attempt(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept.read_bytes() == before
    assert not list((tmp_path / "checkpoints").glob(".*")), "nothing half written is left"
    assert same(Attempt(tmp_path), alone)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = TrainingState(
        position=Position(
            step=3, epoch=1, batch=2, seen=48, unreadable=1, value=0.25, best_value=0.5, best_epoch=1
        ),
        model={"weight": torch.randn(2, 3)},
        best={"weight": torch.randn(2, 3)},
        average={"weight": torch.randn(2, 3)},
        optimizer={
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        random=[{"cpu": torch.get_rng_state()}, {"cpu": torch.Generator().manual_seed(9).get_state()}],
        scaler={"scale": 65536.0},
        settings={"seed": 4},
        sizes={"metrics.jsonl": 12},
    )
    write_state(tmp_path / "state.safetensors", state)
    again = read_state(tmp_path / "state.safetensors")
    assert again.position == state.position
    assert (again.scaler, again.settings, again.sizes) == (state.scaler, state.settings, state.sizes)
    assert torch.equal(again.model["weight"], state.model["weight"])
    assert torch.equal(again.best["weight"], state.best["weight"])
    assert torch.equal(again.average["weight"], state.average["weight"])
    assert again.optimizer["param_groups"] == state.optimizer["param_groups"]
    assert torch.equal(again.optimizer["state"][0]["exp_avg"], state.optimizer["state"][0]["exp_avg"])
    for before, after in zip(state.random, again.random, strict=True):
        assert torch.equal(before["cpu"], after["cpu"])


def test_checkpoints_of_before_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that were seen were called `met` in them."""
    state = TrainingState(Position(step=3), {}, {}, {}, optimizer={"state": {}, "param_groups": []}, random=[])
    stored = asdict(state.position)
    stored["met"] = stored.pop("seen") + 48
    monkeypatch.setattr("training.state.asdict", lambda _position: stored)
    write_state(tmp_path / "state.safetensors", state)
    assert read_state(tmp_path / "state.safetensors").position == Position(step=3, seen=48)


def test_detector_file_is_no_checkpoint(tiny_run: TinyRun) -> None:
    with pytest.raises(ValueError, match="a safetensors file of the format 'gapl-detector-1', not"):
        read_state(tiny_run.stage2)


def test_too_many_unreadable_images_stop_a_run(tmp_path: Path) -> None:
    class Broken(Attempt):
        def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
            for number, micro_batch in enumerate(super().draw(epoch=epoch, first_batch=first_batch)):
                record = Record(f"{epoch}/{number}.png", Label.REAL, "camera")
                yield replace(micro_batch, failures=(Failure(record, "damaged image"),))

    with pytest.raises(ValueError, match=r"4 of 64 images could not be read, more than the share of 0\.05"):
        Broken(tmp_path / "many")
    named = (tmp_path / "many/unreadable.csv").read_text().splitlines()
    assert named == [f"0/{number}.png,damaged image" for number in range(4)]
    assert Broken(tmp_path / "allowed", max_unreadable=0.1).fitted.num_steps == STEPS


# ---------------------------------------------------------------------------------------------------------
# Real processes


Command = Callable[..., list[str]]


@pytest.fixture
def command(tiny_run: TinyRun) -> Command:
    """`command(out, *options)`: train.py's stage 2 on few images, a checkpoint a step."""

    def make(out: Path, *options: object) -> list[str]:
        start = ("--stage", 2, "--preset", "small", "--init", tiny_run.stage1, "--prototypes", tiny_run.bank)
        recipe = ("--batch-size", 4, "--epochs", 3, "--precision", "fp32", "--device", "cpu", "--save-steps", 1)
        return [
            str(each)
            for each in ("train.py", *start, "--data-root", tiny_run.root, "--out", out, *recipe, *options)
        ]

    return make


def environment(num_threads: int) -> dict[str, str]:
    """The last bits of a sum depend on how many threads add it up."""
    return os.environ | {"OMP_NUM_THREADS": str(num_threads)}


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def tensors(out: Path) -> bytes:
    blob = (out / "detector.safetensors").read_bytes()
    return blob[8 + int.from_bytes(blob[:8], "little") :]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_process_that_gets_a_signal_is_continued_by_the_same_command(
    command: Command, run_cli: RunCli, tmp_path: Path, number: int
) -> None:
    """With workers, which get the signal too, as they do from Ctrl-C or a cluster's scheduler."""
    options = ("--num-workers", 1, "--lora-dropout", 0.1)
    assert run_cli(train.main, *command(tmp_path / "alone", *options)[1:]).code == 0
    process = subprocess.Popen(
        [sys.executable, *command(tmp_path / "run", *options)],
        cwd=PROJECT,
        env=environment(torch.get_num_threads()),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "run/metrics.jsonl").exists() or len(losses(tmp_path / "run")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert "stopped by SIGTERM after step" in err.splitlines()[-1]
        assert "The same command continues from there" in err.splitlines()[-1]
        assert "Traceback" not in err
    done = run_cli(train.main, *command(tmp_path / "run", *options)[1:])
    assert done.code == 0, done.err
    assert "continuing from step" in done.out
    assert losses(tmp_path / "run") == losses(tmp_path / "alone")
    assert tensors(tmp_path / "run") == tensors(tmp_path / "alone")
    assert not (tmp_path / "run/checkpoints").exists()


def test_run_that_replaces_another_is_continued_without_the_option(
    command: Command, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Interrupted(signal.SIGTERM, 3)

    monkeypatch.setattr(train, "train", stop)
    done = run_cli(train.main, *command(tmp_path, "--overwrite")[1:])
    assert done.code == 128 + signal.SIGTERM
    assert "The same command without --overwrite continues from there" in done.err


def test_processes_wait_for_one_that_copies_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState

    def join(*_: object, timeout: timedelta, **__: object) -> None:
        raise ConnectionAbortedError(timeout)

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    try:
        with pytest.raises(ConnectionAbortedError) as told, start_processes(device="cpu"):
            pass
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert told.value.args[0] >= timedelta(hours=12)


def test_two_processes_train_as_one_does(command: Command, run_cli: RunCli, tmp_path: Path) -> None:
    """The same global batch, also in micro-batches: losses within 1e-5, and validation is of all images."""
    options = ("--num-workers", 0, "--lora-dropout", 0, "--epochs", 3, "--val-fraction", 0.2)
    assert run_cli(train.main, *command(tmp_path / "one", *options)[1:]).code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, micro_batches in (("two", 1), ("micro-batches", 2)):
        arguments = command(tmp_path / name, *options, "--accumulate", micro_batches)
        done = subprocess.run(
            [*torchrun, *arguments], cwd=PROJECT, env=environment(1), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert len(losses(tmp_path / name)) >= 20
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
        for found, expected in zip(validations(tmp_path / name), validations(tmp_path / "one"), strict=True):
            of_logits = {"nll", "brier", "ece", "threshold_oracle"}
            for name in found.keys() | expected.keys():
                if name in of_logits:
                    assert found[name] == pytest.approx(expected[name], abs=1e-5)
                else:
                    assert found[name] == expected[name], name


def validations(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["validation"]["random"] for line in lines if "validation" in line]


def test_batch_that_processes_cannot_share_is_refused(command: Command, run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli(train.main, *command(tmp_path, "--accumulate", 3)[1:])
    assert "--batch-size 4 cannot be shared by 1 processes in 3 micro-batches each" in done.only_error()
