"""Measure what each part of an explanation takes for an image, in seconds of this machine.

    python timing/explaining.py FOLDER --count 5

Of each part the median over the images is printed. A machine without other work is needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.detector import Detector, open_image
from gapl.explain.patches import map_patches
from gapl.explain.stability import check_stability
from gapl.explain.tiles import map_tiles
from gapl.origin import read_origin
from models.engines import AUTO, ENGINES, ONNXRUNTIME
from models.precision import PRECISIONS
from timing.photographs import jpeg_files


def main() -> None:
    args = parse_arguments()
    files = jpeg_files(args.folder)[: args.count]
    detector = load(args)
    seconds: dict[str, list[float]] = defaultdict(list)
    for file in files:
        for part, took in measure(detector, file).items():
            seconds[part].append(took)
    for part, each in seconds.items():
        print(f"{part:34} {median(each):7.3f} s")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="JPEGs")
    parser.add_argument("--model_path", "--model-path", help="detector (default: what ships)")
    parser.add_argument("--count", type=int, default=5, help="number of images (default: %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, default=AUTO)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    return parser.parse_args()


def load(args: argparse.Namespace) -> Detector:
    """Load the detector as gapl does, or as inference.py does where its options ask for that."""
    if args.engine in (AUTO, ONNXRUNTIME) and args.precision == "fp32":
        return Detector.load(args.model_path)
    import inference

    return inference.Detector.load(args.model_path, engine=args.engine, precision=args.precision)


def measure(detector: Detector, file: Path) -> dict[str, float]:
    """Return the seconds that each part takes for an image."""
    encoded = file.read_bytes()
    image = open_image(encoded).convert("RGB")
    seen = [detector.see(image)]
    outcome = detector.compute(seen)
    verdicts = detector.verdicts(outcome, seen)
    parts: dict[str, Callable[[], Any]] = {
        "verdict": lambda: detector.judge(seen),
        "prototypes, family, distance": lambda: detector.explainer.explain(outcome, verdicts),
        "origin": lambda: read_origin(encoded),
        "tiles": lambda: map_tiles(detector, image),
        "patches": lambda: map_patches(detector, image),
        "re-saves": lambda: check_stability(detector, image, verdicts[0]),
    }
    detector.explainer.explain(outcome, verdicts)  # which reads a file the first time
    return {part: _seconds(run) for part, run in parts.items()}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
