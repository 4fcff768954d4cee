"""Teach a detector a new generator from a few of its images, and say what that changes before it is deployed.

    python prototype/add_generator.py --model_path pretrained/gapl-vit-b16-open.safetensors \\
        --images flux2/ --name flux2 --out detectors/with-flux2.safetensors

It takes six images; 30 or more are better. `--photos` does the same for real images that are called fake, such as
those of a new camera. Some of the new images are kept for judging, and the head is refitted to the others. The
rehearsal memory beside the detector file, NAME.rehearsal, keeps it from forgetting, and says whether it did: a
detector that loses more than --max-loss on the images that training held out is not written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.records import Manifest, Record
from gapl import cli
from gapl.explain.background import SUFFIX as EXPLAINER
from gapl.folders import walk
from gapl.labels import Label
from gapl.schema import is_name
from models.weights.hub import find_model
from prototype.looking import Looker

if TYPE_CHECKING:  # torch takes seconds to import
    from prototype.addition import Addition

REHEARSAL = ".rehearsal"  # in place of the suffix of the detector file
LEAST = 6  # images


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    memory_file = args.memory or file.with_suffix(REHEARSAL)
    check_out(args.out, args.report, overwrite=args.overwrite, sources=(file, memory_file))
    images = find_images(args)
    looker = Looker.of(args)

    from prototype.addition import add
    from prototype.refit import Refitting

    how = Refitting(prototypes=args.prototypes, seed=args.seed)
    addition = add(file, memory_file, images, looker=looker, how=how, judged=args.judged)
    print(addition.text())
    if args.report:
        addition.write_report(args.report)
        print(f"saved {args.report}")
    check_loss(addition, args.max_loss)
    if args.out is None:
        print("no --out: no detector is written")
        return
    for path in addition.save(args.out):
        print(f"saved {path}")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help="detector file of stage 2")
    parser.add_argument(
        "--memory", type=Path, help="rehearsal memory (default: NAME.rehearsal beside the detector)"
    )
    parser.add_argument("--images", type=Path, help="folder of images of the new generator")
    parser.add_argument("--name", default="", help="what the generator is called, such as flux2")
    parser.add_argument("--photos", type=Path, help="folder of images that no generator made")
    parser.add_argument("--photos-name", default="", help="what these are called (default: the folder's name)")
    parser.add_argument(
        "--judged", type=float, default=1 / 3, help="share of the new images kept for judging (default: a third)"
    )
    parser.add_argument(
        "--prototypes", type=int, help="new prototypes of a class (default: one for ten images, at most eight)"
    )
    parser.add_argument(
        "--max-loss", type=float, default=0.02, help="write no detector that loses more on held-out images (0.02)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw for judging, and of k-means")
    Looker.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="new detector file; without it, nothing but the report is made")
    parser.add_argument("--report", type=Path, help="also write what changed: a page (.html), or JSON (.json)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out, and what belongs to it")
    args = parser.parse_args()
    check_arguments(args)
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for what options cannot be. Real images are called like their folder, if not otherwise."""
    if not (args.images or args.photos):
        raise ValueError("no new images: give --images with --name, or --photos")
    if args.images and not (args.name.strip() and is_name(args.name)):
        raise ValueError("--images needs --name, what the generator is called: one short line")
    args.photos_name = args.photos_name or (args.photos.resolve().name if args.photos else "")
    if not is_name(args.photos_name):
        raise ValueError("--photos-name, or the name of the folder, is one short line")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, not {args.seed}")
    if not 0 < args.judged < 1:
        raise ValueError(f"--judged {args.judged}: a share of the new images is above 0 and below 1")
    if args.prototypes is not None and not 0 <= args.prototypes <= 1000:
        raise ValueError(f"--prototypes {args.prototypes}: expected a number from 0 to 1000")
    if not 0 <= args.max_loss <= 1:
        raise ValueError(f"--max-loss {args.max_loss}: a share is between 0 and 1")


def check_out(out: Path | None, report: Path | None, *, overwrite: bool, sources: Sequence[Path]) -> None:
    """Raise ValueError where an output would replace what the command reads, or anything without --overwrite."""
    if report is not None and report.suffix not in (".html", ".json"):
        raise ValueError(f"--report {report}: expected a name that ends in .html or .json")
    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: expected a name that ends in .safetensors")
    beside = [out, out.with_suffix(REHEARSAL), out.with_suffix(EXPLAINER)] if out else []
    for path in [*beside, *([report] if report else [])]:
        if any(path.resolve() == source.resolve() for source in sources):
            raise ValueError(f"{path} is read by this command; name another --out, so that you can go back")
        if any(parent.exists() and not parent.is_dir() for parent in path.absolute().parents):
            raise ValueError(f"{path}: its folder is a file; name another")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; name another, or pass --overwrite to replace it")


def find_images(args: argparse.Namespace) -> Manifest:
    """Return the new images of both kinds. Raises ValueError when a folder has too few."""
    records = []
    for folder, name, label in (
        (args.photos, args.photos_name, Label.REAL),
        (args.images, args.name.strip(), Label.FAKE),
    ):
        if folder is None:
            continue
        paths = list(chain.from_iterable(images for _, _, images in walk(folder)))
        if len(paths) < LEAST:
            raise ValueError(f"{folder}: {len(paths)} images; at least {LEAST} are needed, better 30 or more")
        records += [Record(path, label, name) for path in sorted(paths)]
    return Manifest("new", tuple(records))


def check_loss(addition: Addition, most: float) -> None:
    """Raise ValueError for a detector that lost more than was allowed."""
    if addition.changes.loss > most:
        raise ValueError(
            f"the new detector loses {addition.changes.loss:.3f} on held-out images, more than --max-loss {most}; "
            "it is not written. More images, or better ones, may help; docs/keep-up.md says when it does not"
        )


if __name__ == "__main__":
    cli.run(main)
