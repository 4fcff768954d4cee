"""Compare stage 1 on cached features with one bare pass of the same images through the tower.

    python timing/stage1.py --data DIR --backbone clip-vit-b16-int8 --images 2000
    python timing/stage1.py --data images.csv --epochs 20

The pass decodes, views and runs the tower in a plain loop, and is timed from its first image on. Stage 1 is
train.py as a user starts it, imports included: first with an empty feature cache, then with the cache that it
filled. Both use the batches, workers and precision of the recipe. All images are read once before, so that they
are in memory. Each measurement is a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from models.device import pick_device

PROJECT = Path(__file__).resolve().parent.parent

PRESET = "paper"
TARGET = 1.15  # of a pass, for 20 epochs from an empty cache


def main() -> None:
    args = parse_arguments()
    with TemporaryDirectory() as name:
        scratch = Path(name)
        data = list_images(args, scratch)
        options = ["--backbone", args.backbone, "--data", str(data), "--num-workers", str(args.num_workers)]
        passed = json.loads(run([__file__, *options, "--bare-pass"]).splitlines()[-1])
        images = f"{passed['images']} images, batches of {passed['batch_size']}, {passed['precision']}"
        print(f"{args.backbone}, {images}, {args.num_workers} workers", flush=True)
        report("one pass", passed["seconds"], passed["seconds"])
        for number, cache in enumerate(("empty", "full")):
            start = time.perf_counter()
            run([str(PROJECT / "train.py"), *options, *stage1_options(args, scratch, number)])
            report(f"{args.epochs} epochs, {cache} cache", time.perf_counter() - start, passed["seconds"])
    print(f"target: 20 epochs from an empty cache take at most {TARGET} passes")


def parse_arguments() -> argparse.Namespace:
    from gapl.names import INT8

    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="images as train.py takes them")
    parser.add_argument("--backbone", default=INT8, help=f"as of train.py (default: {INT8})")
    parser.add_argument("--images", type=int, help="only so many image files, drawn with seed 0")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--bare-pass", action="store_true", help="measure only the pass; print JSON")
    args = parser.parse_args()
    if args.bare_pass:
        print(json.dumps(bare_pass(args)))
        sys.exit()
    return args


def list_images(args: argparse.Namespace, scratch: Path) -> Path:
    """Return what train.py gets as --data: all images, or a list of some. Read each of them once."""
    from data.sources import open_source

    manifest = open_source(args.data, split="train")
    if args.images is not None:
        manifest = manifest.draw(args.images, seed=0)
    for record in manifest:
        record.read_bytes()
    if args.images is None:
        return Path(args.data)
    if not all(record.is_file for record in manifest):
        raise ValueError(f"--images: {args.data} has rows of shards; a list can be made of image files alone")
    listed = scratch / "images.csv"
    with listed.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "label", "generator"])
        rows.writerows([Path(each.uri).absolute(), int(each.label), each.generator] for each in manifest)
    return listed


def stage1_options(args: argparse.Namespace, scratch: Path, number: int) -> list[str]:
    of_recipe = ["--stage", "1", "--preset", PRESET, "--feature-views", "1", "--epochs", str(args.epochs)]
    return [*of_recipe, "--feature-cache", str(scratch / "features"), "--out", str(scratch / f"run{number}")]


def run(command: list[str]) -> str:
    """Run a Python program and return its standard output; it shows its progress on our stderr."""
    done = subprocess.run([sys.executable, *command], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"{Path(command[0]).name} failed, exit code {done.returncode}")
    return done.stdout


def report(what: str, seconds: float, of_pass: float) -> None:
    print(f"{what:24}{seconds:9.1f} s{seconds / of_pass:8.3f} passes", flush=True)


def bare_pass(args: argparse.Namespace) -> dict[str, Any]:
    """Measure how long all images take through decoding, view and tower."""
    import torch
    from tqdm import tqdm

    from data.images.augment import train_view
    from data.loading.batches import SampleDataset
    from data.loading.loader import batch_loader
    from data.loading.samples import Sample
    from data.sources import open_source
    from models.precision import autocast, resolve_precision
    from models.weights.backbone import load_backbone
    from training.recipe import make_recipe

    device = pick_device("auto")
    recipe = make_recipe(PRESET, stage=1, overrides={})
    precision = resolve_precision(recipe.precision, device=device)
    source = load_backbone(args.backbone)
    tower, pixel = source.tower.to(device), source.pixel
    manifest = open_source(args.data, split="train")
    view = train_view(recipe.train_view, size_px=pixel.size_px, mean=pixel.mean, std=pixel.std)
    samples = [Sample(record, index) for index, record in enumerate(manifest)]
    size = recipe.batch_size
    batches = [samples[start : start + size] for start in range(0, len(samples), size)]
    loader = batch_loader(SampleDataset(view, replace_unreadable=False), batches, num_workers=args.num_workers)
    start = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(loader, desc="one pass", dynamic_ncols=True):
            if batch.records:
                tower(batch.pixels_BCHW.to(device)).float().cpu()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "images": len(manifest), "batch_size": size, "precision": precision}


if __name__ == "__main__":
    cli.run(main)
