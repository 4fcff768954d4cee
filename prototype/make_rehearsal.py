"""Make the rehearsal memory of a detector, with which it learns new generators and does not forget the others.

    python prototype/make_rehearsal.py --model_path runs/stage2/detector.safetensors --corpus DIR

DIR is the open corpus, as `python -m data.collect --out DIR` leaves it. The memory is written beside the detector
file, as NAME.rehearsal, where prototype/add_generator.py finds it. It holds no picture: for some images of each
training source, and for more of those that training held out, some hundred numbers each, and names.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from models.weights.hub import find_model
from prototype.explainer import check_out, load_and_choose, open_images
from prototype.looking import Looker

log = logging.getLogger(__name__)


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    out = args.out or file.with_suffix(".rehearsal")
    import torch

    from prototype.rehearsal import Rehearsal, Seen, find_directions, head_of, parts_of, see, short_hash

    check_out(out, Rehearsal.load, what="rehearsal memory", overwrite=args.overwrite)
    images, kinds = open_images(args.corpus)
    looker = Looker.of(args)
    checkpoint, held_out, chosen = load_and_choose(file, images, per_source=args.per_source)
    features_ND, read = looker.features(file, checkpoint, chosen)
    is_held_out_N = torch.tensor([record.source in held_out for record in read])
    parts = parts_of(checkpoint.detector, features_ND[~is_held_out_N])
    directions_KD = tuple(find_directions(part_ND, seed=args.seed, num=args.directions) for part_ND in parts)
    seen = Seen(
        see(checkpoint.detector, features_ND, directions_KD),
        torch.tensor([int(record.label) for record in read]),
        is_held_out_N,
        torch.tensor([short_hash(record.read_bytes()) for record in read]),
        tuple(record.generator for record in read),
        tuple(kinds[record.uri] or "" for record in read),
    )
    memory = Rehearsal(directions_KD, seen, head_of(checkpoint.detector.project.weight))
    if too_few := memory.too_few_held_out():
        log.warning("add_generator.py will not take it: %s", too_few)
    memory.save(out)
    size = out.stat().st_size / 1e6
    print(f"saved {out}: {size:.2f} MB; {len(read)} images, {int(is_held_out_N.sum())} of them held out")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help="detector file of stage 2")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of python -m data.collect")
    parser.add_argument(
        "--per-source",
        type=int,
        default=3,
        help="images of each source at most, and twice as many of held-out ones (default: %(default)s)",
    )
    parser.add_argument(
        "--directions",
        type=int,
        default=128,
        help="of each part of a feature, along which the projection may change (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search for directions")
    Looker.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="default: NAME.rehearsal beside the detector file")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    args = parser.parse_args()
    if min(args.per_source, args.directions) < 1:
        raise ValueError("--per-source and --directions must be at least 1")
    return args


if __name__ == "__main__":
    cli.run(main)
