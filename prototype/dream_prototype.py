"""Make a prototype bank from a stage-1 detector and a set of images.

    python prototype/dream_prototype.py --stage1 runs/stage1/detector.safetensors --data-root DIR \\
        --method kmeans --num 64 --out runs/prototypes.safetensors

Expected last line: saved runs/prototypes.safetensors: kmeans prototypes, 32 real and 32 fake, of ...
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.choices import EVAL
from data.records import Manifest, require_both_classes
from gapl import cli
from gapl.labels import Label, Source
from gapl.names import BACKBONE_HELP
from models.device import DEVICES, pick_device
from models.precision import PRECISIONS, resolve_precision
from models.weights.hub import find_model
from prototype.reduce import METHODS, check_counts, reduce_embeddings
from prototype_dataset import add_data_arguments, check_data, describe, open_data

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from features.extractor import FeatureExtractor
    from features.store import FeatureStore
    from models.detector import TowerHead
    from models.weights.checkpoint import Checkpoint
    from prototype.bank import PrototypeBank

log = logging.getLogger(__name__)

EMBED_BATCH = 4096
MAX_SEED = 2**32 - 2  # scikit-learn takes one more, which is then the seed of the fakes


def main() -> None:
    args = parse_arguments()
    if args.out.exists() and args.reuse:
        print(f"{args.out} is there: reused")
        return
    check_files(args)
    device = pick_device(args.device)
    stage1 = load_stage1(args.stage1, backbone=args.backbone)
    view = trained_view(stage1, name=args.stage1) if args.as_trained else EVAL
    if args.same_data:
        images = open_same_data(stage1, name=args.stage1)
    else:
        images = open_data(args.data, args.data_root, stage=1, mix=args.mix, seed=args.seed, columns=args.columns)
    require_both_classes(images)
    # Before the work, though images that cannot be read may still make them too few.
    check_counts(args.method, args.num, n_real=images.count(Label.REAL), n_fake=images.count(Label.FAKE))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"prototypes from {describe(images)}", flush=True)
    from features.extractor import FeatureExtractor
    from features.spec import FeatureSpec
    from features.store import FeatureStore

    spec = FeatureSpec.of(stage1, precision=resolve_precision(args.precision, device=device), view=view)
    extractor = FeatureExtractor(stage1.detector.to(device).feature, args.batch_size, args.num_workers, device)
    store = FeatureStore.open(spec, args.feature_cache)
    embeddings_NE, read = embed(stage1.detector, images, extractor=extractor, store=store)
    about = {
        "stage1": Path(args.stage1).name,
        "data": images.name,
        "file_list_sha256": images.file_list_sha256(),
        "images": len(read),
        "unreadable": len(images) - len(read),
    }
    bank = make_bank(embeddings_NE, read, method=args.method, num=args.num, seed=args.seed, about=about)
    bank.save(args.out)
    counts = f"{bank.facts()['num_real']} real and {bank.facts()['num_fake']} fake"
    print(f"saved {args.out}: {args.method} prototypes, {counts}, of {images.name}")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--stage1", required=True, help="detector file of stage 1, or the authors' stage1.pt")
    parser.add_argument("--backbone", help=f"tower for the authors' stage1.pt, which has none: {BACKBONE_HELP}")
    add_data_arguments(parser)
    parser.add_argument("--same-data", action="store_true", help="use the images that stage 1 was trained on")
    parser.add_argument(
        "--as-trained",
        action="store_true",
        help="embed the images in the random view that stage 1 saw of them, whose features are cached, "
        "instead of the evaluation view",
    )
    parser.add_argument("--method", choices=tuple(METHODS), default="kmeans")
    parser.add_argument("--num", type=int, default=64, help="prototypes in all, half of them of each class")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of k-means, and of the draw where a mix caps a source"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images per forward pass")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="precision of the tower (default: fp32)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--feature-cache",
        type=Path,
        help="folder of the frozen tower's cached features (default: features in GAPL_CACHE)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/prototypes.safetensors"))
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace --out")
    existing.add_argument("--reuse", action="store_true", help="keep --out if it is there and do nothing")
    args = parser.parse_args()
    check_arguments(args)
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for what options cannot be, and for those that --same-data leaves without effect."""
    without_effect = {"--data": args.data, "--mix": args.mix != "auto", "--columns": args.columns}
    if args.same_data and any(without_effect.values()):
        named = ", ".join(name for name, is_given in without_effect.items() if is_given)
        raise ValueError(f"--same-data takes the images that stage 1 was trained on; leave out {named}")
    if not 0 <= args.seed <= MAX_SEED:
        raise ValueError(f"--seed must be from 0 to {MAX_SEED}, not {args.seed}")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")


def check_files(args: argparse.Namespace) -> None:
    """Raise ValueError for paths that do not exist, and for one that does, before anything slow is imported."""
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists; name another --out, or pass --overwrite to replace it")
    find_model(args.stage1)
    if not args.same_data:
        check_data(args.data, args.data_root, stage=1, mix=args.mix)


def load_stage1(name: str, *, backbone: str | None) -> Checkpoint:
    """Load the detector that --stage1 names. Raise ValueError if it is none of stage 1."""
    from models.weights.checkpoint import load_checkpoint

    stage1 = load_checkpoint(find_model(name), backbone=backbone, allow_tiny=True, allow_projection=True)
    if stage1.config.stage != 1:
        raise ValueError(f"--stage1 {name}: a stage-{stage1.config.stage} detector, not stage 1's")
    return stage1


def open_same_data(stage1: Checkpoint, *, name: str) -> Manifest:
    """Open all images that stage 1 was given, except the sources that it held out whole.

    Raises ValueError when its file, `name`, does not say which images these are.
    """
    data, recipe = (_part(stage1.provenance, part) for part in ("data", "recipe"))
    missing = [f"data.{key}" for key in ("paths", "root", "mix") if key not in data]
    missing += ["recipe.seed"] if "seed" not in recipe else []
    if not missing and not data["paths"] and not data["root"]:
        missing = ["data.root"]  # a calibrated file leaves it out
    if missing:
        raise ValueError(
            f"--same-data: {name} does not say all of what it was trained on ({', '.join(missing)}); instead pass "
            "--data or --data-root, with the --mix and --seed of stage 1"
        )
    root = data["root"] and Path(data["root"])
    columns = data.get("columns")  # detector files of earlier versions have none
    images = open_data(data["paths"], root, stage=1, mix=data["mix"], seed=recipe["seed"], columns=columns)
    training, _ = images.partition([Source.parse(text) for text in stage1.provenance.get("held_out", ())])
    return training


def _part(provenance: dict[str, Any], name: str) -> dict[str, Any]:
    part = provenance.get(name)
    return part if isinstance(part, dict) else {}


def trained_view(stage1: Checkpoint, *, name: str) -> str:
    """Return the view in which stage 1 saw its images.

    Raises ValueError when its file, `name`, does not say, or when it saw each image in a new view in every epoch.
    """
    match stage1.provenance.get("recipe"):
        case {"train_view": str(view), "feature_views": int(count)} if count:
            return view
        case {"train_view": str(view)}:
            raise ValueError(f"--as-trained: {name} has no cached views (--feature-views); leave the option out")
    raise ValueError(f"--as-trained: {name} does not say in which view it saw its images; leave the option out")


def embed(
    detector: TowerHead, images: Manifest, *, extractor: FeatureExtractor, store: FeatureStore
) -> tuple[Tensor, Manifest]:
    """Return embeddings_NE of the images, and the N images that could be read. What is not stored is extracted."""
    import torch

    (table,), read, failures = extractor.tables(images, [store], desc="embed")
    for failure in failures:
        log.warning("left out %s: %s", failure.record.uri, failure.reason)
    with torch.inference_mode():
        chunks = torch.arange(len(table)).split(EMBED_BATCH)
        return torch.cat([detector.embed(table[index_B].to(extractor.device)).cpu() for index_B in chunks]), read


def make_bank(
    embeddings_NE: Tensor, images: Manifest, *, method: str, num: int, seed: int, about: dict[str, Any]
) -> PrototypeBank:
    """Reduce the embeddings of each class to prototypes, `num` in all. `about` goes into the bank's provenance."""
    import torch

    from prototype.bank import PrototypeBank

    labels_N = torch.tensor([int(record.label) for record in images])
    vectors_PE, labels_P = reduce_embeddings(embeddings_NE, labels_N, method=method, num_prototypes=num, seed=seed)
    return PrototypeBank(vectors_PE, labels_P, {"method": method, "seed": seed, **about})


if __name__ == "__main__":
    cli.run(main)
