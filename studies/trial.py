"""What studies of single images share: options, images in turn from each source, and tables with intervals.

Shape suffixes: N images, R resamples.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from data.folders import scan_folder
from data.records import Record, relative_uri
from gapl.decode import decode_image, to_rgb
from gapl.labels import Label
from gapl.names import FULL, MODEL_HELP, SHIPPED
from models.precision import PRECISIONS

if TYPE_CHECKING:
    from inference import Detector

T = TypeVar("T")

SHIPPED_PATH = Path(__file__).resolve().parent.parent / "pretrained" / SHIPPED
NUM_RESAMPLES = 1000
LEVEL = 0.95


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="labelled images, in class folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the rows")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and all else that is drawn")
    parser.add_argument("--model_path", "--model-path", default=str(SHIPPED_PATH), help=MODEL_HELP)
    text = "that the tower computes in (default: auto, bf16 where it is fast)"
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help=text)
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")


def load_detector(args: argparse.Namespace, *, views: str = FULL) -> Detector:
    """Return the detector of the options, run by torch."""
    from inference import Detector

    return Detector.load(args.model_path, precision=args.precision, views=views, allow_tiny=args.allow_tiny)


def in_turn(args: argparse.Namespace, *labels: Label) -> list[Record]:
    """Return all images of these classes: a real one, a fake one, and so on, each from the next source.

    Raises ValueError, one line, when --images is no number of images, or a class has none.
    """
    if args.images < 1:
        raise ValueError(f"--images is at least 1, not {args.images}")
    by_source: dict[Label, dict[str, list[Record]]] = {label: defaultdict(list) for label in labels}
    for record in scan_folder(args.folder):
        if record.label in by_source:
            by_source[record.label][record.generator].append(record)
    if missing := [label.word for label in labels if not by_source[label]]:
        raise ValueError(f"{args.folder}: no {missing[0]} images")
    generator = random.Random(args.seed)
    of_classes = []
    for sources in by_source.values():
        shuffled = [generator.sample(records, len(records)) for records in sources.values()]
        of_classes.append(list(_alternately(generator.sample(shuffled, len(shuffled)))))
    return list(_alternately(of_classes))


def _alternately(lists: Iterable[Sequence[T]]) -> Iterator[T]:
    """Yield the first of each list, then the second of each, and so on."""
    for row in zip_longest(*lists):
        yield from (each for each in row if each is not None)


def read(record: Record) -> Image.Image:
    """Return an image in RGB as viewers show it. Raises ValueError that names it when it cannot be read."""
    try:
        return to_rgb(decode_image(record.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{record.uri}: {error}") from error


# ---------------------------------------------------------------------------------------------------------
# Results


def about(record: Record, args: argparse.Namespace) -> dict[str, str]:
    """Return the columns that say which image a row is of: where below the folder it is, and its source."""
    return {"image": relative_uri(record.uri, args.folder), "source": str(record.source)}


def resampled(num: int, *, seed: int) -> np.ndarray:
    """Return rows_RN, which images are in each resample of so many."""
    return np.random.default_rng(seed).integers(num, size=(NUM_RESAMPLES, num))


def interval(values_R: np.ndarray) -> tuple[float, float]:
    """Return the ends of the percentile interval of 95 %."""
    low, high = np.quantile(values_R, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def mean_cell(value_N: np.ndarray, *, seed: int, signed: bool = False) -> str:
    """Return a mean over images and its interval, as a cell of a table."""
    return cell(float(value_N.mean()), value_N[resampled(len(value_N), seed=seed)].mean(axis=1), signed=signed)


def cell(value: float, value_R: np.ndarray, *, signed: bool = False) -> str:
    """Return a figure and the interval of its resamples, as a cell of a table."""
    form = "+.3f" if signed else ".3f"
    low, high = interval(value_R)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def write(name: str, rows: Sequence[Mapping[str, Any]], text: str, *, out: Path) -> None:
    """Write NAME.csv with the rows and NAME.md with the text, which is printed, too."""
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out / f"{name}.csv", index=False, float_format="%.5f")
    (out / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)
