"""The images of the open corpus, and detectors that are trained without some of them.

Shape suffixes: N images, D width of a feature, P prototypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.choices import EVAL
from data.holdout import Split, split_images
from data.records import Manifest
from features.spec import FeatureSpec
from models.device import pick_device
from models.precision import resolve_precision
from models.weights.backbone import Backbone, load_backbone
from models.weights.checkpoint import load_checkpoint, save_checkpoint
from prototype.bank import PrototypeBank
from prototype.reduce import reduce_embeddings
from prototype_dataset import open_data
from studies.keep_up_base import Base
from training.processes import keep_freed_memory, start_processes
from training.recipe import make_recipe
from training.runs import Run, RunContext
from training.stages import fit_stage, load_features
from training.start import start_stage1, start_stage2

if TYPE_CHECKING:
    from accelerate import Accelerator

    from studies.keep_up import Case

BACKBONE = "clip-vit-b16-int8"
HOLDOUT = 0.1


@dataclass
class Lab:
    """The images of the corpus, the held-out ones among them, and the features of the frozen tower.

    delivered_ND   of the training images, in each of the two views of stage 1
    """

    accelerator: Accelerator
    backbone: Backbone
    seed: int
    precision: str
    images: Manifest
    held_out: Manifest
    delivered_ND: list[Tensor]
    held_out_ND: Tensor

    def train(self, cases: Sequence[Case], folder: Path) -> Base:
        """Train a detector without the images of the cases, or read the one that was."""
        left_out = {row for case in cases for rows in case.rows.values() for row in rows}
        rows = [row for row in range(len(self.images)) if row not in left_out]
        return Base(self, load_checkpoint(self._train(rows, folder), allow_tiny=True), rows)

    def retrain(self, base: Base, added: Sequence[int], folder: Path) -> Base:
        """Train the detector of a base anew with some images more."""
        rows = sorted({*base.rows, *added})
        return Base(self, load_checkpoint(self._train(rows, folder), allow_tiny=True), rows)

    def _train(self, rows: Sequence[int], folder: Path) -> Path:
        """Train stage 1, prototypes and head, and return the file of the detector."""
        done = folder / "head" / "detector.safetensors"
        if done.is_file():
            return done
        images = Manifest("some", tuple(self.images.records[row] for row in rows))
        split = Split(images, Manifest("none", ()), Manifest("none", ()), ())
        first, then = (
            make_recipe(
                name, stage=stage, overrides={"seed": self.seed, "precision": self.precision, "select": "random"}
            )
            for stage, name in ((1, "open"), (2, "open-head"))
        )
        torch.manual_seed(self.seed)
        start = start_stage1(first, backbone=self.backbone)
        fit_stage(start, split, recipe=first, context=RunContext(self.accelerator, _run(folder / "stage1")))
        with torch.no_grad():
            embeddings_NE = start.detector.embed(self.delivered_ND[0][torch.tensor(rows)])
        labels_N = torch.tensor([int(record.label) for record in images])
        vectors_PE, labels_P = reduce_embeddings(
            embeddings_NE, labels_N, method="kmeans", num_prototypes=64, seed=self.seed
        )
        head = start_stage2(replace(then, lora_rank=0), init=start, bank=PrototypeBank(vectors_PE, labels_P))
        fit_stage(head, split, recipe=then, context=RunContext(self.accelerator, _run(folder / "head")))
        save_checkpoint(done, head)
        return done


@contextmanager
def open_lab(corpus: Path, out: Path, *, mix: str, seed: int, precision: str) -> Iterator[Lab]:
    """Open the corpus, and compute the features that are not in the cache yet; no mix: all training images."""
    chosen = (None, corpus) if mix else ([str(corpus / "train")], None)
    every = open_data(*chosen, stage=1, mix=mix or "auto", seed=seed)
    split = split_images(every, fraction=0.0, holdout=HOLDOUT, names=(), max_images=0, seed=seed)
    device = pick_device("auto")
    if device == "cpu":
        keep_freed_memory()
    precision = resolve_precision(precision, device=device)
    with start_processes(device=device, precision=precision) as accelerator:
        backbone = load_backbone(BACKBONE)
        recipe = make_recipe("open", stage=1, overrides={"seed": seed, "precision": precision})
        start = start_stage1(recipe, backbone=backbone)
        context = RunContext(accelerator, _run(out / "features"))
        spec = FeatureSpec.of(start, precision=precision)
        views = [replace(spec, view=recipe.train_view, number=number) for number in range(recipe.feature_views)]
        tables, images = load_features(start.detector, split.training, views, recipe=recipe, context=context)
        (held_out,), held_out_images = load_features(
            start.detector, split.heldout, [replace(spec, view=EVAL)], recipe=recipe, context=context
        )
        delivered_ND = [table[torch.arange(len(table))] for table in tables]
        yield Lab(
            accelerator, backbone, seed, precision, images, held_out_images, delivered_ND,
            held_out[torch.arange(len(held_out))],
        )  # fmt: skip


def _run(folder: Path) -> Run:
    run = Run(folder)
    run.clear()
    return run
