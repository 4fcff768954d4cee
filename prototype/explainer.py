"""Make the explainer file of a detector: what is known of its training images, for explanations of verdicts.

    python prototype/explainer.py --model_path runs/stage2/detector.safetensors --corpus DIR

DIR is the open corpus, as `python -m data.collect --out DIR` leaves it. The file is written beside the detector
file, as NAME.explainer, where `--explain` finds it. It says what each prototype is like; it names families of
generators and measures the distance from training, where that was found to help on sources that the detector has
not seen.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.open_corpus.collection import Collection
from data.open_corpus.kinds import family_of, style_of
from data.records import Manifest, Record
from gapl import cli
from gapl.explain.background import FORMAT, SUFFIX, BackgroundSpec, read_background
from gapl.labels import Label, Source
from models.weights.hub import find_model
from prototype.looking import Looker

if TYPE_CHECKING:  # torch takes seconds to import
    import numpy as np
    from torch import Tensor

    from models.weights.checkpoint import Checkpoint
    from prototype.training_images import Learnt, TrainingImages


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    out = args.out or file.with_suffix(SUFFIX)
    check_out(out, read_background, what="explainer file", overwrite=args.overwrite)
    images, kinds = open_images(args.corpus)
    looker = Looker.of(args)

    from prototype.training_images import learn

    checkpoint, held_out, chosen = load_and_choose(file, images, per_source=args.per_source)
    head = checkpoint.detector.head_tensors()
    features_ND, read = looker.features(file, checkpoint, chosen)
    found = learn(training_images(checkpoint, features_ND, read, kinds=kinds, held_out=held_out), seed=args.seed)
    about = {
        "detector": file.name,
        "images": len(read),
        "file_list_sha256": read.file_list_sha256(args.corpus),
        "per_source": args.per_source,
        "seed": args.seed,
        "precision": args.precision,
    }
    write(out, found, head=head, about=about)
    print(f"saved {out}: {out.stat().st_size / 1e6:.2f} MB; {found.summary}")


def write(out: Path, found: Learnt, *, head: Mapping[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write an explainer file for the detector with these tensors of its head. Raises OSError when it cannot."""
    import torch

    from gapl.explain.head import TENSORS
    from gapl.fingerprint import fingerprint
    from models import tensorfile

    spec = BackgroundSpec(
        head=fingerprint({name: head[name] for name in TENSORS}),
        described=found.described,
        families=found.families,
        memory=found.memory,
        provenance=about,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(array) for name, array in found.tensors.items()}
    tensorfile.write(out, tensors, format=FORMAT, header=asdict(spec))


def load_and_choose(file: Path, images: Manifest, *, per_source: int) -> tuple[Checkpoint, list[Source], Manifest]:
    """Return a detector of stage 2, the sources that it held out, and the training images to look at."""
    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, allow_tiny=True)
    if checkpoint.config.stage == 1:
        raise ValueError(f"{file}: a detector of stage 1, which has no prototypes")
    held_out = [Source.parse(text) for text in checkpoint.provenance.get("held_out", ())]
    chosen = choose(images, held_out=held_out, per_source=per_source)
    print(f"{len(chosen)} of {len(images)} training images", flush=True)
    return checkpoint, held_out, chosen


def check_out(out: Path, read: Callable[[Path], object], *, what: str, overwrite: bool) -> None:
    """Raise ValueError where a file would replace anything; one that `read` takes is, with `overwrite`."""
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists; name another --out, or pass --overwrite to replace it")
    try:
        read(out)
    except ValueError as error:
        raise ValueError(f"{out} is no {what}, and is not replaced; name another --out") from error


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help="detector file of stage 2")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of python -m data.collect")
    parser.add_argument(
        "--per-source", type=int, default=3, help="images of each source at most (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    Looker.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="default: NAME.explainer beside the detector file")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    args = parser.parse_args()
    if args.per_source < 1:
        raise ValueError("--per-source must be at least 1")
    return args


def open_images(corpus: Path, *, part: str = "train") -> tuple[Manifest, dict[str, str | None]]:
    """Return the images of a part of a collection, and by uri what each is called: a family, or a style.

    It is None for a fake of which nobody knows the generator. Raises ValueError when there are none.
    """
    rows = Collection(corpus).rows(part)
    if not rows:
        raise ValueError(f"{corpus}: no images of {part}; python -m data.collect --out {corpus} collects them")
    kinds: dict[str, str | None] = {}
    records = []
    for row in rows:
        label, uri = Label(int(row["label"])), str(corpus / row["filename"])
        records.append(Record(uri, label, Path(uri).parent.parent.name))
        kinds[uri] = family_of(row["generator"]) if label == Label.FAKE else style_of(row["source"])
    return Manifest("open_corpus", tuple(records)), kinds


def choose(images: Manifest, *, held_out: Sequence[Source], per_source: int) -> Manifest:
    """Return at most `per_source` images of each source, twice as many of those that training held out.

    The names of a collection's images are hashes, so that the first of them are a random draw.
    """
    own: dict[Source, list[Record]] = defaultdict(list)
    for record in sorted(images, key=lambda record: Path(record.uri).name):
        own[record.source].append(record)
    kept = [records[: per_source * (2 if source in held_out else 1)] for source, records in sorted(own.items())]
    return Manifest(images.name, tuple(chain.from_iterable(kept)))


def training_images(
    checkpoint: Checkpoint,
    features_ND: Tensor,
    images: Manifest,
    *,
    kinds: Mapping[str, str | None],
    held_out: Sequence[Source],
) -> TrainingImages:
    """Return what the detector makes of the images, and what each is called; `kinds` by uri."""
    import numpy as np
    import torch

    from gapl.explain.head import PROTOTYPES
    from models.run import run_detector
    from prototype.training_images import TrainingImages

    detector = checkpoint.detector.float().cpu()
    output = run_detector(detector.head, features_ND, device="cpu")
    prototypes_PE = torch.from_numpy(detector.head_tensors()[PROTOTYPES])
    has_whole = bool(detector.whole_layers) and checkpoint.config.pixel.num_views > 1
    with torch.inference_mode():
        whole_ND = detector.without_crops(features_ND).numpy() if has_whole else None
    return TrainingImages(
        features_ND.numpy(),
        whole_ND,
        output.embedding_BE.numpy(),
        (output.embedding_BE @ prototypes_PE.T).numpy(),
        labels_N=np.array([int(record.label) for record in images]),
        sources_N=np.array([str(record.source) for record in images]),
        kinds_N=np.array([kinds[record.uri] for record in images], dtype=object),
        held_out_N=np.array([record.source in held_out for record in images]),
    )


if __name__ == "__main__":
    cli.run(main)
