"""Stage-1 detector + prototype set -> prototype bank.

    python prototype/dream_prototype.py --stage1 runs/stage1/detector.safetensors --data-root DIR \\
        --method kmeans --num 64 --out runs/prototypes.safetensors

Expected output, one line: saved runs/prototypes.safetensors: 64 kmeans prototypes (32 real, 32 fake) of ...
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from data.records import Manifest, require_both_classes
from features.store import FeatureExtractor, FeatureSpec, FeatureStore, add_cache_argument
from gapl.labels import Label, Source
from models.precision import PRECISIONS, autocast, resolve_precision
from models.weights.checkpoint import Checkpoint, load_checkpoint
from models.weights.hub import find_model
from models.weights.names import BACKBONE_HELP
from prototype.bank import PrototypeBank
from prototype.reduce import METHODS, check_counts, reduce_embeddings
from prototype_dataset import add_data_arguments, describe, open_data

log = logging.getLogger(__name__)

EMBED_BATCH = 4096


def main() -> None:
    args = parse_arguments()
    if args.out.exists() and args.reuse:
        return print(f"{args.out} is there: reused")
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists; name another --out, or pass --overwrite to replace it")
    device = cli.pick_device(args.device)
    stage1 = load_checkpoint(
        find_model(args.stage1), backbone=args.backbone, allow_tiny=True, allow_projection=True
    )
    if stage1.config.stage != 1:
        raise ValueError(f"--stage1 {args.stage1}: a stage-{stage1.config.stage} detector, not stage 1's")
    manifest = open_prototype_set(args, stage1)
    require_both_classes(manifest)
    # Before the work, though images that cannot be read may still make them too few.
    check_counts(args.method, args.num, n_real=manifest.count(Label.REAL), n_fake=manifest.count(Label.FAKE))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"prototypes from {describe(manifest)}", flush=True)
    bank = extract(stage1, manifest, args, device)
    bank.save(args.out)
    counts = f"{bank.facts()['num_real']} real and {bank.facts()['num_fake']} fake"
    print(f"saved {args.out}: {args.method} prototypes, {counts}, of {manifest.name}")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--stage1", required=True, help="detector file of stage 1, or the authors' stage1.pt")
    parser.add_argument("--backbone", help=f"of the authors' stage1.pt, which has none: {BACKBONE_HELP}")
    add_data_arguments(parser)
    parser.add_argument("--same-data", action="store_true", help="instead: the images that stage 1 was trained on")
    parser.add_argument("--method", choices=tuple(METHODS), default="kmeans")
    parser.add_argument("--num", type=int, default=64, help="prototypes in all, half of them of each class")
    parser.add_argument(
        "--seed", type=int, default=0, help="of k-means, and of the draw where a mix caps a source"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images a forward pass")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the tower (default: fp32)")
    parser.add_argument("--device", choices=cli.DEVICES, default="auto")
    add_cache_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/prototypes.safetensors"))
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace --out")
    existing.add_argument("--reuse", action="store_true", help="keep --out if it is there and do nothing")
    return parser.parse_args()


def open_prototype_set(args: argparse.Namespace, stage1: Checkpoint) -> Manifest:
    """What the options name; or all that stage 1 was given, but for the sources that it held out whole."""
    paths, root, mix, seed = args.data, args.data_root, args.mix, args.seed
    held: set[Source] = set()
    if args.same_data:
        used = stage1.provenance.get("data")
        if used is None:
            raise ValueError(
                f"--same-data: {args.stage1} does not say what it was trained on; name --data or --data-root"
            )
        paths = used["paths"]
        root, mix, seed = used["root"] and Path(used["root"]), used["mix"], stage1.provenance["recipe"]["seed"]
        held = set(map(Source.parse, stage1.provenance.get("held_out", ())))
    images = open_data(paths, root, stage=1, mix=mix, seed=seed)
    return images.where(lambda record: record.source not in held)


def extract(stage1: Checkpoint, manifest: Manifest, args: argparse.Namespace, device: str) -> PrototypeBank:
    """Embeds every image in the evaluation view and reduces each class."""
    detector, config = stage1.detector.to(device), stage1.config
    precision = resolve_precision(args.precision, device=device)
    spec = FeatureSpec(
        stage1.backbone_fingerprint, config.feature_width, config.pixel, precision, layers=config.feature_layers
    )
    extractor = FeatureExtractor(
        detector.feature, args.batch_size, args.num_workers, device, context=lambda: autocast(device, precision)
    )
    (table,), read, failures = extractor.tables(manifest, [FeatureStore(spec, args.feature_cache)], desc="embed")
    for failure in failures:
        log.warning("left out %s: %s", failure.record.uri, failure.reason)
    with torch.inference_mode():
        every_B = torch.arange(len(table)).split(EMBED_BATCH)
        embeddings_NE = torch.cat([detector.embed(table[index_B].to(device)).cpu() for index_B in every_B])
    labels_N = torch.tensor([int(record.label) for record in read])
    vectors_PE, labels_P = reduce_embeddings(
        embeddings_NE, labels_N, method=args.method, num_prototypes=args.num, seed=args.seed
    )
    provenance = {
        "method": args.method,
        "seed": args.seed,
        "stage1": Path(args.stage1).name,
        "data": manifest.name,
        "file_list_sha256": manifest.file_list_sha256(),
        "images": len(read),
        "unreadable": len(failures),
    }
    return PrototypeBank(vectors_PE, labels_P, provenance)


if __name__ == "__main__":
    cli.run(main)
