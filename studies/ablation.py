"""The preset mini with one thing changed at a time, judged on sources that were held out whole.

    python studies/ablation.py --corpus DIR --out runs/ablation                 heads on the frozen tower, 5 seeds
    python studies/ablation.py --corpus DIR --out runs/ablation --lora --seeds 2     then LoRA, 100 steps of 16

A seed draws a fifth of the generators and of the photo sources, which no stage sees, and of whose images 500 judge
(part "heldout"); a tenth of the other images, 500 at most, that judge too (part "random"); the start of the head;
and the order of images. All rows of a seed share these. DIR/bench is not read.
Results are kept: the same command goes on where it stopped. The scores of all rows that are finished are then
gathered in OUT/scores.parquet, of which studies/report.py makes tables and plots. Those of other rows that are
there already stay: a copy of docs/study/scores.parquet can be put there first, to add to it. Rounding moves a
row, too: those that are to be compared want the same --precision.

Shape suffixes: N images, D feature, E embedding.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from data.choices import EVAL
from data.holdout import Split, split_images
from data.records import Manifest
from features.store import FeatureSpec, add_cache_argument
from gapl.labels import Label
from models.adapt import add_lora
from models.detector import PrototypeDetector, Stage1Detector, TowerHead
from models.precision import PRECISIONS, resolve_precision
from models.weights.backbone import fingerprint, load_backbone
from models.weights.names import BACKBONE_HELP, INT8
from prototype.reduce import reduce_embeddings
from prototype_dataset import open_data
from training.loop import Saving
from training.processes import keep_freed_memory, start_processes
from training.recipe import MINI_1, MINI_2, MINI_HEAD, PRESETS, Recipe
from training.runs import Run
from training.stages import Bench, compute, fit_features, fit_images
from training.start import lora_spec, pixels_of

PARTS = ("stage1", "commfor-mini", "commfor-wide", "commfor-modern")
ENDLESS = 10**6  # epochs: the number of steps is what ends a fit, however few images a row has
SPLIT: dict[str, Any] = {"fraction": 0.1, "holdout": 0.2, "names": (), "max_images": 500}
FIT: dict[str, Any] = {"epochs": ENDLESS}
STAGE1 = replace(MINI_1, max_steps=1200, **FIT)
HEAD = replace(MINI_HEAD, max_steps=800, **FIT)
LORA = replace(MINI_2, max_steps=100, **FIT)
# What a row of another preset has in common with mini.
SHARED = ("max_steps", "epochs", "batch_size", "feature_views", "val_resize_px", "select")
MIN_IMAGES = 30  # of a generator, where a row trains on a few
NO_PROTOTYPES = "none"
HELDOUT = "heldout"
TOWERS = ("frozen", "lora")


@dataclass(frozen=True)
class Row:
    """What a row does differently from the preset.

    prototypes   a method of prototype/reduce.py; or none: the classifier reads the embedding itself
    num          prototypes
    sources      generators that stage 1 and the prototypes see, all photographs beside them; 0: all
    generators   the same of all that trains
    layers       of the tower that are read, such as 6,9,12; empty: the last alone; None: those of --feature-layers
    fit, lora    fields of the recipe of both fits on the frozen tower, and of LoRA
    preset       whose numbers all three fits take, for as many steps of as many images as mini's, and the frozen
                 tower of the view of evaluation
    """

    prototypes: str = "kmeans"
    num: int = 64
    sources: int = 0
    generators: int = 0
    layers: str | None = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "mini"


@dataclass(frozen=True)
class Recipes:
    """Of stage 1, of the head on the frozen tower, and of LoRA."""

    stage1: Recipe
    head: Recipe
    lora: Recipe


def recipes_of(row: Row, *, seed: int, precision: str) -> Recipes:
    stage1, head, lora = STAGE1, HEAD, LORA
    if row.preset != "mini":
        stage1, head = (
            as_long_as(start, PRESETS[stage, row.preset], train_view=EVAL)
            for stage, start in ((1, STAGE1), (2, HEAD))
        )
        lora = as_long_as(LORA, PRESETS[2, row.preset])
    common: dict[str, Any] = {"seed": seed, "precision": precision}
    return Recipes(
        replace(stage1, **row.fit, **common),
        replace(head, **row.fit, **common),
        replace(lora, **row.lora, **common),
    )


def as_long_as(start: Recipe, preset: Recipe, **changes: Any) -> Recipe:
    return replace(preset, **{name: getattr(start, name) for name in SHARED}, **changes)


ROWS = {
    "mini": Row(),
    "no prototypes": Row(prototypes=NO_PROTOTYPES),
    "random prototypes": Row(prototypes="random"),
    "class means": Row(prototypes="mean"),
    "PCA": Row(prototypes="pca"),
    **{f"{num} prototypes": Row(num=num) for num in (8, 16, 32, 128)},
    **{f"prototypes of {num} generators": Row(sources=num) for num in (1, 2, 3, 8)},
    **{f"{num} generators": Row(generators=num) for num in (1, 2, 4, 16)},
    "layers 7 to 10 and 12": Row(layers="7,8,9,10,12"),
    "last layer alone": Row(layers=""),
    "head not fitted to its end": Row(fit={"max_steps": 200}),
    "never saved anew": Row(lora={"train_view": "crop_flip"}),
    "balanced by class": Row(fit={"sampling": "class"}, lora={"sampling": "class"}),
    "all patches": Row(lora={"patch_dropout": 0.0}),
    "no average of weights": Row(lora={"ema_decay": 0.0}),
    "preset paper": Row(layers="", preset="paper"),
    "preset release": Row(layers="", preset="release"),
}


def main() -> None:
    parser = cli.Parser(__doc__)
    add_arguments(parser, out=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it (default: 0)")
    parser.add_argument("--lora", action="store_true", help="go on with LoRA from each head")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), metavar="NAME", help=", ".join(ROWS))
    args = parser.parse_args()
    with open_lab(args) as lab:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for name in args.rows or ROWS:
                lab.run(name, seed=seed, with_lora=args.lora)
            lab.firsts.clear()
    gather(args.out)


def add_arguments(parser: argparse.ArgumentParser, *, out: Path) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help=f"folder of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=out, help=f"default: {out}")
    parser.add_argument("--backbone", default=INT8, help=BACKBONE_HELP)
    parser.add_argument("--feature-layers", default=MINI_1.feature_layers, help="of the tower, that are read")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the tower (default: auto)")
    add_cache_argument(parser)


@contextmanager
def open_lab(args: argparse.Namespace) -> Iterator[Lab]:
    for name in PARTS:
        if not (args.corpus / name).is_dir():
            raise ValueError(f"--corpus {args.corpus}: no folder {name} in it; expected {', '.join(PARTS)}")
    images = open_data([str(args.corpus / name) for name in PARTS], None, stage=1, mix="auto", seed=0)
    device = cli.pick_device("auto")
    if device == "cpu":
        keep_freed_memory()
    precision = resolve_precision(args.precision, device=device)
    with start_processes(device=device, precision=precision) as accelerator:
        yield Lab(args, accelerator, images, precision)


@dataclass(frozen=True)
class First:
    """Stage 1, and what it makes of the images that it was trained on."""

    detector: TowerHead
    embeddings_NE: torch.Tensor
    labels_N: torch.Tensor


class Lab:
    """Fits rows: stage 1, prototypes, head, LoRA. What is finished in a row's folder is not done again.

    firsts   stage 1 of the seed under way and its embeddings, which many rows share
    """

    def __init__(self, args: argparse.Namespace, accelerator: Any, images: Manifest, precision: str) -> None:
        self.args, self.accelerator, self.images, self.precision = args, accelerator, images, precision
        self.firsts: dict[str, First] = {}
        self.source = load_backbone(args.backbone)
        self.source.tower.to(accelerator.device)
        self.print_of_tower = fingerprint(self.source.tower.state_dict())

    def layers(self, row: Row) -> tuple[int, ...]:
        names = self.args.feature_layers if row.layers is None else row.layers
        return replace(MINI_1, feature_layers=names).layers()

    def recipes(self, row: Row, seed: int) -> Recipes:
        return recipes_of(row, seed=seed, precision=self.precision)

    def run(self, name: str, *, seed: int, with_lora: bool) -> None:
        row = ROWS[name]
        split = split_images(self.images, **SPLIT, seed=seed)
        chosen = few_generators(split.training, row.generators, seed=seed)
        split = replace(split, training=only(split.training, chosen), random=only(split.random, chosen))
        folder = self.args.out / name.replace(" ", "-") / str(seed)
        self.fit(row, split, folder, seed=seed, with_lora=with_lora)

    def fit(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int, with_lora: bool) -> Path:
        """What is not finished yet below `folder`. Returns the folder of the last fit.

        Raises ValueError when something else was fitted there: other images, layers, numbers, or another tower.
        """
        fitted = (row, self.layers(row), self.recipes(row, seed), self.print_of_tower)
        settings = f"{fitted}\n{split.training.file_list_sha256()}\n{split.heldout.file_list_sha256()}\n"
        kept, last = folder / "settings.txt", folder / ("lora" if with_lora else "frozen")
        if kept.is_file() and kept.read_text() != settings:
            raise ValueError(f"{folder} holds a fit of other images or numbers; name another --out, or remove it")
        if last.exists():
            return last
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(settings)
        print(f"{folder}: {len(split.training)} images", flush=True)
        detector = self.fit_head(row, split, folder / "frozen.part", seed=seed)
        shutil.rmtree(folder / "frozen", ignore_errors=True)  # of before, when only LoRA was missing: the same
        (folder / "frozen.part").rename(folder / "frozen")
        if with_lora:
            self.fit_lora(detector, row, split, folder / "lora.part", seed=seed)
            (folder / "lora.part").rename(last)
        return last

    def fit_head(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> TowerHead:
        """Stage 1, its prototypes, and the head on the frozen tower that is fitted on."""
        tower, layers = self.source.tower, self.layers(row)
        first = self.first(row, split, folder.with_name("stage1"), seed=seed)
        torch.manual_seed(seed)
        detector: TowerHead = Stage1Detector(tower, feature_layers=layers)
        if row.prototypes != NO_PROTOTYPES:
            prototypes_PE, _ = reduce_embeddings(
                first.embeddings_NE, first.labels_N, method=row.prototypes, num_prototypes=row.num, seed=seed
            )
            detector = PrototypeDetector(tower, prototypes_PE, feature_layers=layers)
        detector.project.load_state_dict(first.detector.project.state_dict())
        recipe = self.recipes(row, seed).head
        pixel = pixels_of(self.source.pixel, recipe)
        fit_features(detector.to(self.accelerator.device), pixel, split, recipe, self.bench(folder, row))
        return detector

    def first(self, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> First:
        key = repr((row.sources, row.generators, row.layers, row.fit, row.preset))
        if key not in self.firsts:
            chosen = few_generators(split.training, row.sources, seed=seed)
            split = replace(split, training=only(split.training, chosen))
            recipe, bench = self.recipes(row, seed).stage1, self.bench(folder, row)
            torch.manual_seed(seed)
            detector = Stage1Detector(self.source.tower, feature_layers=self.layers(row))
            detector.to(self.accelerator.device)
            fit_features(detector, pixels_of(self.source.pixel, recipe), split, recipe, bench)
            self.firsts[key] = self.embed(detector, split.training, recipe, bench)
        return self.firsts[key]

    def embed(self, detector: TowerHead, images: Manifest, recipe: Recipe, bench: Bench) -> First:
        """All images as evaluation sees them."""
        layers, width = detector.feature_layers, detector.feature_width
        pixel = pixels_of(self.source.pixel, recipe)
        spec = FeatureSpec(self.print_of_tower, width, pixel, recipe.precision, layers=layers)
        (table,), read = compute(detector, images, [spec], recipe, bench, desc="embed")
        with torch.inference_mode():
            feature_ND = table[torch.arange(len(table))].to(self.accelerator.device)
            embeddings_NE = detector.embed(feature_ND).cpu().clone()
        return First(detector, embeddings_NE, torch.tensor([int(record.label) for record in read]))

    def fit_lora(self, detector: TowerHead, row: Row, split: Split[Manifest], folder: Path, *, seed: int) -> None:
        """On a tower of its own, and from the head as it was fitted."""
        detector.tower = load_backbone(self.args.backbone).tower
        torch.manual_seed(seed)
        recipe = self.recipes(row, seed).lora
        spec = lora_spec(recipe, detector.feature_layers)
        assert spec is not None
        add_lora(detector.tower, spec)
        detector.to(self.accelerator.device)
        if not row.generators and row != ROWS["mini"]:  # the others are not judged on their own generators
            split = replace(split, random=Manifest("none", ()))
        fit_images(detector, pixels_of(self.source.pixel, recipe), split, recipe, self.bench(folder, row))

    def bench(self, folder: Path, row: Row) -> Bench:
        run = Run(folder, settings={"row": repr(row)}, overwrite=True)
        return Bench(self.accelerator, run, self.print_of_tower, self.args.feature_cache, 1, Saving())


def few_generators(images: Manifest, count: int, *, seed: int) -> set[str]:
    """Names of `count` generators that have enough images; those of fewer are among those of more. 0: all."""
    sizes = {name: n for (label, name), n in images.sources().items() if label is Label.FAKE}
    if not count:
        return set(sizes)
    many = sorted(name for name, n in sizes.items() if n >= MIN_IMAGES)
    return set(random.Random(seed).sample(many, len(many))[:count])


def only(images: Manifest, generators: set[str]) -> Manifest:
    """All photographs, and the fakes of these generators."""
    return images.where(lambda record: record.label is Label.REAL or record.generator in generators)


def read_scores(folder: Path, part: str) -> pd.DataFrame:
    """label, source, logit of each image of a part that validated last."""
    scores = pd.read_csv(folder / f"scores_{part}.csv", dtype={"error": str}, keep_default_na=False)
    kept = scores[["label", "generator", "logit"]].astype({"logit": "float32", "label": "int8"})
    return kept.rename(columns={"generator": "source"})


def validated(folder: Path) -> list[str]:
    return [part for part in (HELDOUT, "random") if (folder / f"scores_{part}.csv").is_file()]


def gather(out: Path) -> None:
    """All results below `out` into one table: row, tower, seed, part, label, source, logit."""
    path, tables = out / "scores.parquet", []
    for folder in sorted(path for tower in TOWERS for path in out.glob(f"*/*/{tower}")):
        row, seed = folder.parents[1].name.replace("-", " "), int(folder.parent.name)
        for part in validated(folder):
            scores = read_scores(folder, part)
            tables.append(scores.assign(row=row, tower=folder.name, seed=seed, part=part))
    if not tables:
        raise ValueError(f"{out}: no row is finished")
    table = pd.concat(tables, ignore_index=True)
    if path.is_file():
        table = pd.concat([of_others(pd.read_parquet(path), table), table], ignore_index=True)
    table.to_parquet(path)
    print(f"{path}: {len(table)} scores of {table['row'].nunique()} rows")


def of_others(before: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The scores of rows, towers and seeds that are not in `table`."""
    keys = ["row", "tower", "seed"]
    known = pd.MultiIndex.from_frame(table[keys])
    return before[~pd.MultiIndex.from_frame(before[keys]).isin(known)]


if __name__ == "__main__":
    cli.run(main)
