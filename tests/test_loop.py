"""The training loop, and that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from training.batches import FeatureBatch, TrainingBatches
from training.loop import fit
from training.processes import start_processes
from training.recipe import Recipe
from training.runs import Run, RunContext
from training.trainer import Fitted, LogitModel

if TYPE_CHECKING:
    pass


FEATURES_ND = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
LABELS_N = (FEATURES_ND[:, 0] > 0).float()


class Trial:
    """A linear model on 64 points that a plane separates; `validate` tells made-up accuracies."""

    def __init__(self, folder: Path, accuracies: list[float | None] | None = None, **fields: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.weights: list[Tensor] = []
        accuracies_left = iter(accuracies or ())

        def validate() -> dict[str, Any]:
            self.weights.append(self.model.weight.detach().clone())
            return {"random": {"accuracy": next(accuracies_left), "auroc": None}}

        self.run = Run(folder / "run")
        self.run.resume()
        with start_processes(device="cpu") as accelerator:
            self.fitted: Fitted = fit(
                LogitModel(self.model, lambda feature_BD: self.model(feature_BD).squeeze(-1)),
                TrainingBatches(self.draw, per_epoch=4, num_images=16),
                recipe=Recipe(**({"lr": 0.1, "epochs": 6} | fields)),
                context=RunContext(accelerator, self.run),
                validate=validate if accuracies else None,
            )

    def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        return (FeatureBatch(FEATURES_ND[chosen], LABELS_N[chosen]) for chosen in order.split(16)[first_batch:])

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.folder / "metrics.jsonl").read_text().splitlines()]


def test_loop_learns_what_can_be_learnt(tmp_path: Path) -> None:
    trial = Trial(tmp_path, epochs=40)
    assert trial.fitted == Fitted(40, 160, None)
    losses = [entry["loss"] for entry in trial.log()]
    assert len(losses) == 160
    assert losses[0] > 0.5
    assert max(losses[-4:]) < 0.15
    with torch.inference_mode():
        called = trial.model(FEATURES_ND).squeeze(-1) > 0
    assert (called == LABELS_N.bool()).float().mean() > 0.95


def test_logged_loss_is_the_binary_cross_entropy_of_the_first_batch(tmp_path: Path) -> None:
    trial = Trial(tmp_path, epochs=1)
    torch.manual_seed(0)
    untrained = nn.Linear(4, 1)
    first = next(trial.draw(epoch=0, first_batch=0))
    labels_B, probability_B = first.labels_B, untrained(first.inputs).squeeze(-1).sigmoid()
    expected = -(labels_B * probability_B.log() + (1 - labels_B) * (1 - probability_B).log()).mean()
    assert trial.log()[0]["loss"] == pytest.approx(float(expected.detach()), abs=1e-6)


@pytest.mark.parametrize(("keep", "epoch", "accuracy"), [("best", 2, 0.9), ("last", 5, 0.7)])
def test_patience_and_what_is_kept(tmp_path: Path, keep: str, epoch: int, accuracy: float) -> None:
    trial = Trial(tmp_path, [0.5, 0.9, 0.8, 0.9, 0.7, 1.0], patience=3, keep=keep)
    assert trial.fitted == Fitted(epoch, 20, accuracy)
    assert torch.equal(trial.model.weight, trial.weights[epoch - 1])
    assert not torch.equal(trial.weights[1], trial.weights[4])


def test_without_patience_every_epoch_runs(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [1.0, 0.5, 0.5, 0.5, 0.5, 0.5], keep="best")
    assert trial.fitted == Fitted(1, 24, 1.0)
    assert torch.equal(trial.model.weight, trial.weights[0])


def test_training_stops_at_the_wanted_accuracy(tmp_path: Path) -> None:
    assert Trial(tmp_path, [0.5, 0.9989, 0.999, 1.0], stop_accuracy=0.999).fitted == Fitted(3, 12, 0.999)


def test_training_stops_after_the_wanted_steps(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [0.5, 0.6], max_steps=6)
    assert trial.fitted == Fitted(2, 6, 0.6)
    assert [entry["step"] for entry in trial.log() if "loss" in entry] == list(range(1, 7))


def test_average_of_the_weights_validates_and_is_kept(tmp_path: Path) -> None:
    """The average begins as the start; after step k it keeps k / (k + 9) of itself, here 0.4 at most."""
    before_step: list[Tensor] = []

    class Watched(Trial):
        def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
            for micro_batch in super().draw(epoch=epoch, first_batch=first_batch):
                before_step.append(self.model.weight.detach().clone())
                yield micro_batch

    plain = Watched(tmp_path / "plain", [0.5, 0.6], epochs=2)
    start, *after_step = [*before_step, plain.weights[-1]]
    expected = [start]
    for k, weight in enumerate(after_step, 1):
        decay = min(0.4, k / (k + 9))
        expected.append(decay * expected[-1] + (1 - decay) * weight)
    averaged = Trial(tmp_path / "averaged", [0.5, 0.6], epochs=2, ema_decay=0.4)
    torch.testing.assert_close(averaged.weights, [expected[4], expected[8]])
    assert torch.equal(averaged.model.weight, averaged.weights[-1]), "what validated is kept"


def test_schedule_spans_the_steps_that_are_taken(tmp_path: Path) -> None:
    log = Trial(tmp_path, max_steps=6, schedule="cosine", final_lr_fraction=0.1).log()
    assert log[0]["lr"] == pytest.approx(0.1)
    assert log[-1]["lr"] == pytest.approx(0.01)


def test_gradients_are_clipped_before_the_step(tmp_path: Path) -> None:
    """Clipped to less than Adam's epsilon, so that hardly anything moves."""
    free, clipped = Trial(tmp_path / "free"), Trial(tmp_path / "clipped", max_grad_norm=1e-9)
    assert free.log()[0]["grad_norm"] == pytest.approx(clipped.log()[0]["grad_norm"])
    assert clipped.log()[-1]["loss"] > free.log()[-1]["loss"]


@pytest.mark.parametrize("part", ["training", "validation"])
def test_nothing_readable_is_told_and_not_waited_for(tmp_path: Path, part: str) -> None:
    class Unreadable(Trial):
        def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
            empty = FeatureBatch(torch.empty(0), torch.empty(0))
            return iter([empty] * 4) if part == "training" else super().draw(epoch=epoch, first_batch=first_batch)

    message = {"training": "none of the images of a batch could be read", "validation": "none of the validation"}
    with pytest.raises(ValueError, match=message[part]):
        Unreadable(tmp_path, [None])


def test_micro_batch_of_which_nothing_is_read_is_left_out(tmp_path: Path) -> None:
    """What is missing adds nothing to the sum of the batch, as where the same images are one micro-batch."""

    class Parted(Trial):
        def draw(self, *, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
            empty = FeatureBatch(torch.empty(0), torch.empty(0))
            for batch in super().draw(epoch=epoch, first_batch=first_batch):
                halves = zip(batch.inputs.split(8), batch.labels_B.split(8), strict=True)
                parts = [FeatureBatch(*half) for half in halves]
                parts.insert(epoch % 3, empty)
                yield from parts

    whole, parted = Trial(tmp_path / "whole"), Parted(tmp_path / "parted", accumulate=3)
    torch.testing.assert_close(parted.model.weight, whole.model.weight)
    assert [each["loss"] for each in parted.log()] == pytest.approx([each["loss"] for each in whole.log()])


def test_only_what_requires_a_gradient_changes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with start_processes(device="cpu") as accelerator:
        fit(
            LogitModel(model, lambda feature_BD: model(feature_BD).squeeze(-1)),
            TrainingBatches(lambda **_: [FeatureBatch(FEATURES_ND, LABELS_N)], per_epoch=1, num_images=64),
            recipe=Recipe(epochs=2),
            context=RunContext(accelerator, Run(tmp_path)),
            validate=None,
        )
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.weight", "1.bias"}
