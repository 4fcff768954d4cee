"""Choose the images that feed a stage: named mixes of data sets below a data root.

    python prototype_dataset.py --data-root DIR                     what `auto` finds there, counted
    python prototype_dataset.py --data-root DIR --mix release --out stage1.csv
    python prototype_dataset.py --data DIR list.csv                 the images of any folders and manifests

Expected output: a line with the counts of both classes, then a line for each source with its images.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.folders import title
from data.records import Images, Manifest, join
from data.shards.urls import require_place
from gapl import cli
from gapl.columns import add_columns
from gapl.labels import Label

if TYPE_CHECKING:
    from data.shards.index import ShardIndex

FOLDERS_SHOWN = 5  # of many, in a message
STREAM_FROM_BYTES = 8 << 30  # smaller sets of shards are copied to a cache, from where any image is read at once


@dataclass(frozen=True)
class Portion:
    """Some images of one data set.

    folders   where it is found below the data root; the first that exists counts
    label     only this class
    cap       at most so many images, drawn with the seed
    cap_each  at most so many of each generator or class folder
    cap_share   of each, this share of its images where that is more than cap_each
    """

    folders: tuple[str, ...]
    label: Label | None = None
    cap: int | None = None
    cap_each: int | None = None
    cap_share: float = 0.0


@dataclass(frozen=True)
class Mix:
    """The data sets that a stage trains on.

    may_miss  portions that are not there are left out; else the mix needs all of them
    """

    stages: tuple[int, ...]
    portions: tuple[Portion, ...]
    may_miss: bool = False


PROGAN = ("CNNDetection/train", "ForenSynths/train", "progan_train")
SD14 = (
    "GenImage/stable_diffusion_v_1_4/imagenet_ai_0419_sdv4",
    "GenImage/imagenet_ai_0419_sdv4",
    "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4",
    "imagenet_ai_0419_sdv4",
)
MIDJOURNEY = (
    "GenImage/Midjourney/imagenet_midjourney",
    "GenImage/imagenet_midjourney",
    "Midjourney/imagenet_midjourney",
    "imagenet_midjourney",
)

MIXES: dict[str, Mix] = {
    # One folder that its owner made for stage 1, in any layout.
    "stage1": Mix((1,), (Portion(("stage1",)),)),
    # Community Forensics in parquet shards: the small set, or portions of it under names that begin alike.
    "commfor": Mix(
        (2,),
        tuple(
            Portion((name,))
            for name in (
                "CommunityForensics-Small",
                "OwensLab/CommunityForensics-Small",
                "commfor-mini",
                "commfor-wide",
                "commfor-modern",
            )
        ),
        may_miss=True,
    ),
    # Released code: 20 LSUN classes x (150 real + 100 ProGAN), 3,000 ImageNet reals, 2,000 each of two others.
    "release": Mix(
        (1,),
        (
            Portion(PROGAN, Label.REAL, cap_each=150),
            Portion(PROGAN, Label.FAKE, cap_each=100),
            Portion(SD14, Label.REAL, cap=3000),
            Portion(SD14, Label.FAKE, cap=2000),
            Portion(MIDJOURNEY, Label.FAKE, cap=2000),
        ),
    ),
    # Paper: 2,000 fakes of each of three generators and 6,000 reals, here 2,000 from each one's own reals.
    "paper": Mix(
        (1,),
        tuple(Portion(folders, label, cap=2000) for folders in (PROGAN, SD14, MIDJOURNEY) for label in Label),
    ),
    # Any root with a `train` folder, such as the demonstration corpus, for both stages.
    "train": Mix((1, 2), (Portion(("train",)),)),
    # The open corpus: many sources and few images of each, so that its passes through the tower are affordable.
    "open": Mix((1, 2), (Portion(("train",), cap_each=10, cap_share=0.3),)),
}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that open_data takes."""
    root = os.environ.get("GAPL_DATA_ROOT") or None
    parser.add_argument("--data-root", type=Path, default=root, help="folder of the data sets (GAPL_DATA_ROOT)")
    parser.add_argument(
        "--mix",
        default="auto",
        help=f"which mix of the data root: auto (the first that is there), {', '.join(MIXES)}",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        help="images to use instead of --data-root: folders, CSV or parquet manifests, parquet shards (also on a "
        "server, such as "
        "hf://datasets/OwensLab/CommunityForensics-Small), a plan of `python -m data.shards.plan`",
    )
    add_columns(parser, help="names of the columns of --data's manifests, such as filename=picture label=kind")


def check_data(paths: list[str] | None, root: Path | None, *, stage: int, mix: str) -> None:
    """Raise ValueError, which names the folders looked for, when the images of open_data are not there.

    Nothing is opened.
    """
    for path in paths or ():
        require_place(path)
    if not paths and root is None:
        raise ValueError("no images to train on: give --data-root (or GAPL_DATA_ROOT), or --data")
    if not paths and root is not None:
        _pick_mix(root, stage=stage, mix=mix)


def open_data(
    paths: list[str] | None,
    root: Path | None,
    *,
    stage: int,
    mix: str,
    seed: int,
    columns: Mapping[str, str] | None = None,
) -> Manifest:
    """Open the images of all the paths if there are any, else of the mix below the root.

    The mix "auto" means the first mix of MIXES that is there. `columns` says what the manifests among the paths
    call ours. Raises ValueError as check_data does, for what cannot be read, and for `columns` without a manifest.
    """
    check_data(paths, root, stage=stage, mix=mix)
    if columns and not any(map(_is_manifest, paths or ())):
        raise ValueError("--columns is for CSV and parquet manifests that --data names")
    if not paths:
        assert root is not None
        mix = _pick_mix(root, stage=stage, mix=mix)
        portions = [portion for portion in MIXES[mix].portions if _locate(root, portion)]
        return join(f"{mix} of {root.name}", [_open_portion(root, portion, seed=seed) for portion in portions])
    from data.sources import open_source

    name = " + ".join(title(Path(path)) for path in paths)
    return join(name, [open_source(path, split="train", columns=columns) for path in paths])


def _is_manifest(path: str) -> bool:
    from data.sources import is_manifest, open_index

    return is_manifest(Path(path)) and open_index(path) is None


def open_images(
    paths: list[str] | None,
    root: Path | None,
    *,
    stage: int,
    mix: str,
    stream: str,
    seed: int,
    columns: Mapping[str, str] | None = None,
) -> Images:
    """Open the images that a stage trains on: shards that are streamed, or a manifest.

    stream   "yes" or "no"; "auto" streams shards that are on a server, or larger than STREAM_FROM_BYTES
    """
    index = None if stream == "no" else open_shards(paths, root, stage=stage, mix=mix)
    if index is None and stream == "yes":
        raise ValueError("--stream yes: the images are not in parquet shards")
    if index is not None and (stream == "yes" or index.is_remote() or index.image_bytes() > STREAM_FROM_BYTES):
        if columns:
            raise ValueError("--columns is for CSV and parquet manifests that --data names")
        return index
    return open_data(paths, root, stage=stage, mix=mix, seed=seed, columns=columns)


def open_shards(paths: list[str] | None, root: Path | None, *, stage: int, mix: str) -> ShardIndex | None:
    """Index all the shards that open_data would take the images from; None when it takes others too.

    Raises ValueError as check_data does, and for shards that cannot be read.
    """
    check_data(paths, root, stage=stage, mix=mix)
    if not paths:
        assert root is not None
        portions = MIXES[_pick_mix(root, stage=stage, mix=mix)].portions
        if any(each != Portion(each.folders) for each in portions):
            return None  # one of them is capped or of one class
        paths = [str(folder) for each in portions if (folder := _locate(root, each))]
    from data.shards.index import join_indexes
    from data.sources import open_index

    indexes = [open_index(path) for path in paths]
    found = [index for index in indexes if index is not None]
    return join_indexes(" + ".join(index.name for index in found), found) if len(found) == len(indexes) else None


def _pick_mix(root: Path, *, stage: int, mix: str) -> str:
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder; give --data-root or set GAPL_DATA_ROOT")
    if mix != "auto" and mix not in MIXES:
        raise ValueError(f"unknown mix {mix!r}; choose from auto, {', '.join(MIXES)}")
    of_stage = {name: each for name, each in MIXES.items() if stage in each.stages}
    if mix == "auto":
        found = [name for name, each in of_stage.items() if _is_there(root, each)]
        if not found:
            folders = sorted(path.name for path in root.iterdir() if path.is_dir()) or ["no folders"]
            more = f" and {len(folders) - FOLDERS_SHOWN} more" if len(folders) > FOLDERS_SHOWN else ""
            raise ValueError(
                f"{root}: no images for stage {stage} found; looked for those of the mixes "
                f"{', '.join(of_stage)} (docs/training.md); there are {', '.join(folders[:FOLDERS_SHOWN])}{more}; "
                f"to take all class folders in it, give --data {root}"
            )
        return found[0]
    if not _is_there(root, MIXES[mix]):
        raise ValueError(f"{root}: mix {mix} is not complete; it needs {_folders(MIXES[mix])}")
    return mix


def _open_portion(root: Path, portion: Portion, *, seed: int) -> Manifest:
    from data.sources import open_source  # pyarrow is slow to import

    folder = _locate(root, portion)
    assert folder is not None
    manifest = open_source(folder, split="train")
    if portion.label is not None:
        manifest = manifest.where(lambda record: record.label == portion.label)
    if portion.cap_each is not None:
        groups = [manifest.partition({source})[1] for source in manifest.sources()]
        counts = [max(portion.cap_each, int(portion.cap_share * len(group))) for group in groups]
        drawn = [group.draw(count, seed=seed) for group, count in zip(groups, counts, strict=True)]
        manifest = join(manifest.name, drawn)
    return manifest if portion.cap is None else manifest.draw(portion.cap, seed=seed)


def _locate(root: Path, portion: Portion) -> Path | None:
    return next((root / folder for folder in portion.folders if (root / folder).is_dir()), None)


def _is_there(root: Path, mix: Mix) -> bool:
    located = [_locate(root, portion) is not None for portion in mix.portions]
    return any(located) if mix.may_miss else all(located)


def _folders(mix: Mix) -> str:
    alternatives = dict.fromkeys(" or ".join(portion.folders) for portion in mix.portions)
    return (" or " if mix.may_miss else ", ").join(alternatives)


def describe(images: Images) -> str:
    """Tell in one line the counts by class, and how many sources each has."""
    sources = images.sources()
    n_real = sum(source.label is Label.REAL for source in sources)
    return (
        f"{images.name}: {images.count(Label.REAL)} real images of {n_real} sources, "
        f"{images.count(Label.FAKE)} fakes of {len(sources) - n_real} generators"
    )


def main() -> None:
    parser = cli.Parser(__doc__)
    add_data_arguments(parser)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="the stage the images are for")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw where a mix caps a source")
    parser.add_argument("--out", type=Path, help="also write the list as a CSV manifest")
    args = parser.parse_args()
    manifest = open_data(
        args.data, args.data_root, stage=args.stage, mix=args.mix, seed=args.seed, columns=args.columns
    )
    print(describe(manifest))
    for source, count in sorted(manifest.sources().items()):
        print(f"  {source.label.word}  {source.name:40s} {count:7d}")
    if args.out:
        _write_csv(args.out, manifest)


def _write_csv(path: Path, manifest: Manifest) -> None:
    num_rows = sum(not record.is_file for record in manifest)
    if num_rows:
        raise ValueError(f"--out lists image files; {num_rows} of these images are rows of parquet shards")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label", "generator"])
        for record in manifest:
            relative = os.path.relpath(record.uri, path.parent)
            writer.writerow([relative, int(record.label), record.generator])


if __name__ == "__main__":
    cli.run(main)
