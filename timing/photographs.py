"""Measure how fast a folder of photographs of 12 megapixels is judged, beside decoding and the network alone.

    python timing/photographs.py --count 200 --views full
    python timing/photographs.py --count 24 --views fast --draft

The script makes the photographs, unless --images names some. The network alone judges what was seen of a few of
them, again and again. A machine without other work is needed: what counts is whether one waits for the other.

--draft decodes each with libjpeg's smaller scales, too, and tells what that changes in P(fake). It is for --views
fast: the crops of the other views need all pixels.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.detector import Detector, Seen
from gapl.names import FAST, VIEWS

SIZE = (4000, 3000)
QUALITY = 92
SCALES = (2, 4, 8)
MAX_SECONDS = 60.0  # for decoding a photograph
NUM_SEEN = 4  # photographs that the network alone is measured with


def main() -> None:
    args = parse_arguments()
    detector = Detector.load(args.model_path, views=args.views)
    with TemporaryDirectory() as scratch:
        files = make_photographs(Path(scratch), args.count) if args.images is None else jpeg_files(args.images)
        files = files[: args.count]
        if args.draft:
            report_draft(detector, files)
        else:
            report_folder(detector, files, num_workers=args.workers)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", help="what gapl takes (default: what ships)")
    parser.add_argument("--count", type=int, default=200, help="number of photographs (default: %(default)s)")
    parser.add_argument("--views", choices=VIEWS, default=FAST)
    text = "processes that decode; 0: a thread (default: %(default)s)"
    parser.add_argument("--workers", type=int, default=1, help=text)
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEGs to use instead")
    parser.add_argument("--draft", action="store_true", help="compare smaller scales of decoding")
    args = parser.parse_args()
    if args.draft and args.views != FAST:
        raise ValueError("--draft is for --views fast; the crops of the other views need all pixels")
    return args


def make_photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEGs that are as large, and as hard to decode, as those of a camera. No two are the same."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 6, smooth.shape[:2]).astype(np.int16)[..., None]
    scene = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(scene, 7 * number, axis=1)).save(path, quality=QUALITY)
    return paths


def jpeg_files(folder: Path) -> list[Path]:
    """Return the JPEGs below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


# ---------------------------------------------------------------------------------------------------------
# A folder, from files to verdicts


def report_folder(detector: Detector, files: Sequence[Path], *, num_workers: int) -> None:
    from gapl.batches import judge_files
    from gapl.inputs.input import file_input
    from gapl.options import MAX_MEGAPIXELS
    from gapl.workers import Limits, Workers

    seen = [detector.see(path) for path in files[:NUM_SEEN]]
    detector.judge(seen[:1])
    alone = rate(detector.judge, [[seen[number % len(seen)]] for number in range(len(files))])
    decoding = rate(detector.see, files)
    images = [file_input(path) for path in files]
    start = time.perf_counter()
    limits = Limits(megapixels=MAX_MEGAPIXELS, seconds=MAX_SECONDS)
    with Workers(num_workers, pixel=detector.pixel, limits=limits) as workers:
        found = sum(1 for _ in judge_files(detector, images, workers, batch_size=1, known={}))
    together = found / (time.perf_counter() - start)
    megabytes = sum(path.stat().st_size for path in files) / len(files) / 1e6
    print(f"{len(files)} photographs, {megabytes:.1f} MB each\n")
    print("| what | images/s |\n|---|---|")
    print(f"| reading, decoding and viewing alone | {decoding:.2f} |")
    print(f"| the network alone | {alone:.2f} |")
    print(f"| the folder | {together:.2f}, {together / alone:.0%} of the network alone |")


def rate(run: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return how many items a second a function takes."""
    start = time.perf_counter()
    for item in items:
        run(item)
    return len(items) / (time.perf_counter() - start)


# ---------------------------------------------------------------------------------------------------------
# Smaller scales of decoding


def report_draft(detector: Detector, files: Sequence[Path]) -> None:
    """Print for each scale the seconds of the processor and what it changes; a photograph's scales take turns."""
    seconds: dict[str, list[float]] = {}
    scores: dict[int, list[float]] = {scale: [] for scale in (1, *SCALES)}
    for path in files:
        encoded = path.read_bytes()
        for scale, of_scale in scores.items():
            start = time.process_time()
            seen = decoded(detector, encoded, scale)
            middle = time.process_time()
            of_scale.append(detector.judge([seen])[0].score)
            seconds.setdefault(f"1/{scale}", []).append(middle - start)
            seconds.setdefault("the network", []).append(time.process_time() - middle)
    print("| decoded at | s to see an image | largest difference of P(fake) | mean |\n|---|---|---|---|")
    for scale, of_scale in scores.items():
        difference = np.abs(np.array(of_scale) - np.array(scores[1]))
        took = np.median(seconds[f"1/{scale}"])
        print(f"| 1/{scale} | {took:.3f} | {difference.max():.1e} | {difference.mean():.1e} |")
    print(f"\nThe network takes {np.median(seconds['the network']):.3f} s of the processor.")


def decoded(detector: Detector, encoded: bytes, scale: int) -> Seen:
    """Return what a detector sees of a JPEG that is decoded at 1/scale, unless that is smaller than its view."""
    with Image.open(io.BytesIO(encoded)) as image:
        if scale > 1:
            least_px = 256  # the short side that the whole image is resized to
            image.draft("RGB", (max(least_px, image.width // scale), max(least_px, image.height // scale)))
        return detector.see(image)


if __name__ == "__main__":
    cli.run(main)
