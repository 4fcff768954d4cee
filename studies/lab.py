"""Fit the rows of a study: stage 1, prototypes, head, LoRA. What is finished is not done again.

Shape suffixes: N images, E embedding.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.holdout import Split, split_images
from data.records import Manifest
from features.spec import FeatureSpec
from gapl.labels import Label
from models.detector import Stage1Detector
from models.device import pick_device
from models.precision import resolve_precision
from models.weights.backbone import Backbone, fingerprint, load_backbone
from models.weights.checkpoint import Checkpoint
from prototype.bank import PrototypeBank
from prototype.reduce import reduce_embeddings
from prototype_dataset import open_data
from studies.rows import NO_PROTOTYPES, PARTS, ROWS, SPLIT, Recipes, Row, recipes_of
from training.processes import keep_freed_memory, start_processes
from training.recipe import MINI_1, Recipe
from training.runs import Run, RunContext
from training.stages import fit_stage, load_features
from training.start import add_recipe_lora, start_stage1, start_stage2

if TYPE_CHECKING:
    from accelerate import Accelerator

MIN_IMAGES = 30  # of a generator, where a row trains on a few


@contextmanager
def open_lab(
    corpus: Path, *, backbone: str, feature_layers: str, precision: str, feature_cache: Path | None
) -> Iterator[Lab]:
    """Open the images of a corpus and start the processes that train."""
    for name in PARTS:
        if not (corpus / name).is_dir():
            raise ValueError(f"--corpus {corpus}: no folder {name} in it; expected {', '.join(PARTS)}")
    images = open_data([str(corpus / name) for name in PARTS], None, stage=1, mix="auto", seed=0)
    device = pick_device("auto")
    if device == "cpu":
        keep_freed_memory()
    precision = resolve_precision(precision, device=device)
    with start_processes(device=device, precision=precision) as accelerator:
        yield Lab(images, accelerator, load_backbone(backbone), feature_layers, precision, feature_cache)


@dataclass(frozen=True)
class First:
    """Stage 1, and what it makes of the images that it was trained on."""

    start: Checkpoint
    embeddings_NE: Tensor
    labels_N: Tensor


@dataclass
class Lab:
    """The images, the tower and the processes with which rows are fitted.

    feature_layers  that are read unless a row says otherwise
    precision       of the tower: "fp32", "bf16" or "fp16"
    feature_cache   folder of cached features; None: the usual one
    firsts          stage 1 of the seed under way, which many rows share
    """

    images: Manifest
    accelerator: Accelerator
    backbone: Backbone
    feature_layers: str
    precision: str
    feature_cache: Path | None
    firsts: dict[str, First] = field(default_factory=dict)

    def run(self, name: str, out: Path, *, seed: int, with_lora: bool) -> None:
        """Fit the row of that name in a folder of its own below `out`."""
        row = ROWS[name]
        split = split_images(self.images, **SPLIT, seed=seed)
        chosen = few_generators(split.training, row.generators, seed=seed)
        split = replace(split, training=only(split.training, chosen), random=only(split.random, chosen))
        self.fit(row, split, out / name.replace(" ", "-") / str(seed), seed=seed, with_lora=with_lora)

    def fit(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int, with_lora: bool) -> Path:
        """Fit what is not finished yet below `folder`, and return the folder of the last fit.

        Raises ValueError when something else was fitted there: other images, layers, numbers, or another tower.
        """
        layers = replace(MINI_1, feature_layers=self._layers(row)).layers("feature_layers")
        fitted = (row, layers, self._recipes(row, seed), fingerprint(self.backbone.tower.state_dict()))
        settings = f"{fitted}\n{split.training.file_list_sha256()}\n{split.heldout.file_list_sha256()}\n"
        kept, last = folder / "settings.txt", folder / ("lora" if with_lora else "frozen")
        if kept.is_file() and kept.read_text() != settings:
            raise ValueError(f"{folder} holds a fit of other images or numbers; name another --out, or remove it")
        if last.exists():
            return last
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(settings)
        print(f"{folder}: {len(split.training)} images", flush=True)
        head = self._fit_head(row, split, folder / "frozen.part", seed=seed)
        shutil.rmtree(folder / "frozen", ignore_errors=True)  # where only LoRA was missing: it is the same again
        (folder / "frozen.part").rename(folder / "frozen")
        if with_lora:
            self._fit_lora(head, row, split, folder / "lora.part", seed=seed)
            (folder / "lora.part").rename(last)
        return last

    def _fit_head(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> Checkpoint:
        """Fit stage 1, make its prototypes, and fit the head on the frozen tower."""
        first = self._first(row, split, folder.with_name("stage1"), seed=seed)
        recipe = self._recipes(row, seed).head
        torch.manual_seed(seed)
        head = _with_new_classifier(first.start)
        if row.prototypes != NO_PROTOTYPES:
            vectors_PE, labels_P = reduce_embeddings(
                first.embeddings_NE, first.labels_N, method=row.prototypes, num_prototypes=row.num, seed=seed
            )
            bank = PrototypeBank(vectors_PE, labels_P)
            head = start_stage2(replace(recipe, lora_rank=0), init=head, bank=bank)
        fit_stage(head, split, recipe=recipe, context=self._context(folder, row))
        return head

    def _first(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> First:
        """Fit stage 1 for a row, unless that of another row is the same."""
        key = repr((row.sources, row.generators, row.layers, row.fit, row.preset))
        if key not in self.firsts:
            chosen = few_generators(split.training, row.sources, seed=seed)
            split = replace(split, training=only(split.training, chosen))
            recipe = replace(self._recipes(row, seed).stage1, feature_layers=self._layers(row))
            torch.manual_seed(seed)
            start, context = start_stage1(recipe, backbone=self.backbone), self._context(folder, row)
            fit_stage(start, split, recipe=recipe, context=context)
            self.firsts[key] = self._embed(start, split.training, recipe, context)
        return self.firsts[key]

    def _embed(self, start: Checkpoint, images: Manifest, recipe: Recipe, context: RunContext) -> First:
        """Embed all images in the evaluation view."""
        specs = [FeatureSpec.of(start, precision=recipe.precision)]
        (table,), read = load_features(start.detector, images, specs, recipe=recipe, context=context)
        with torch.inference_mode():
            feature_ND = table[torch.arange(len(table))].to(self.accelerator.device)
            embeddings_NE = start.detector.embed(feature_ND).cpu().clone()
        return First(start, embeddings_NE, torch.tensor([int(record.label) for record in read]))

    def _fit_lora(self, head: Checkpoint, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> None:
        """Fit LoRA on a tower of its own, starting from the head as it was fitted."""
        head.detector.tower = load_backbone(self.backbone.name).tower
        recipe = self._recipes(row, seed).lora
        torch.manual_seed(seed)
        start = add_recipe_lora(recipe, head)
        if not row.generators and row != ROWS["mini"]:  # the others are not judged on their own generators
            split = replace(split, random=Manifest("none", ()))
        fit_stage(start, split, recipe=recipe, context=self._context(folder, row))

    def _layers(self, row: Row) -> str:
        return self.feature_layers if row.layers is None else row.layers

    def _recipes(self, row: Row, seed: int) -> Recipes:
        return recipes_of(row, seed=seed, precision=self.precision)

    def _context(self, folder: Path, row: Row) -> RunContext:
        """Start a run in `folder`; what an earlier one left there is removed."""
        run = Run(folder, settings={"row": repr(row)})
        run.clear()
        return RunContext(self.accelerator, run, feature_cache=self.feature_cache)


def _with_new_classifier(first: Checkpoint) -> Checkpoint:
    """Return a stage-1 detector that keeps the projection: the head of a row without prototypes."""
    layers = first.config.feature_layers
    detector = Stage1Detector(first.detector.tower, feature_layers=layers)
    detector.project.load_state_dict(first.detector.project.state_dict())
    return replace(first, detector=detector)


def few_generators(images: Manifest, count: int, *, seed: int) -> set[str]:
    """Draw the names of `count` generators that have enough images (0: all); more include those of fewer."""
    sizes = {name: n for (label, name), n in images.sources().items() if label is Label.FAKE}
    if not count:
        return set(sizes)
    many = sorted(name for name, n in sizes.items() if n >= MIN_IMAGES)
    return set(random.Random(seed).sample(many, len(many))[:count])


def only(images: Manifest, generators: set[str]) -> Manifest:
    """Return all real images, and the fakes of these generators."""
    return images.where(lambda record: record.label is Label.REAL or record.generator in generators)
