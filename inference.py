"""Tell whether images are AI-generated: the public Python API, and its command line.

    python inference.py --model_path runs/stage2/detector.safetensors --image_path assets/test_image.jpg

    [INFO] Loading model from runs/stage2/detector.safetensors...
    [RESULT] Image: assets/test_image.jpg
      -> Prediction: Real
      -> Confidence: 99.1%

Real means that no generator made the image: a photograph, or a screenshot, drawing, chart, document or render that
people made.

    from inference import Detector
    verdict = Detector.load("runs/stage2/detector.safetensors")("photo.jpg")
    verdict.score, verdict.label

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

from gapl import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # until cli.run

import argparse
import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gapl.detector
from gapl import cli
from gapl.cluster import chosen_cluster
from gapl.detector import ImageInput, shipped_file
from gapl.inputs.scan import scan_arguments
from gapl.judging import write_results
from gapl.names import FULL, MODEL_HELP
from gapl.options import TEXT, add_options, chosen_format
from gapl.verdict import Verdict
from models.device import DEVICES, pick_device
from models.weights.hub import find_model

if TYPE_CHECKING:
    from models.exported import Exported
    from models.weights.checkpoint import Checkpoint

__all__ = ["Detector", "ImageInput", "Verdict"]


class Detector(gapl.detector.Detector):
    """A loaded detector that torch runs, or the engine of an exported file. Call it with one image or with a list.

    torch is imported when a detector is loaded, not before: a wrong option or path is reported at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | Exported,
        *,
        device: str = "cpu",
        operating_point: str | None = None,
        file: Path | None = None,
    ) -> None:
        import torch

        from models.run import run_detector

        model = checkpoint.detector.to(device)

        def engine(pixels: np.ndarray) -> np.ndarray:
            logit_B: np.ndarray = run_detector(model, torch.from_numpy(pixels), device=device).logit_B.numpy()
            return logit_B

        super().__init__(engine, checkpoint, operating_point=operating_point, file=file)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "auto",
        operating_point: str | None = None,
        views: str = FULL,
        allow_tiny: bool = False,
    ) -> Detector:
        """Load a detector file, ours or the authors', one of export.py, or `owner/name[@revision]` on the hub.

        path             default: the detector that ships
        device           auto, cpu or cuda
        operating_point  such as "fpr1": this threshold of the detector's calibration decides alone, and nothing is
                         "unsure"
        views            "full"; "fast": the whole image alone, one pass through the tower instead of several; or
                         "auto": that first, and all where it is not clear, see docs/verdicts.md
        allow_tiny       accept the random test tower

        Raises ValueError, one line, when there is no such detector, device or operating point.
        """
        file = shipped_file() if path is None else find_model(str(path))
        load_detector = _import_loader()
        checked = pick_device(device)  # before the weights are read: there may be no such device
        checkpoint = load_detector(file, views=views, allow_tiny=allow_tiny)
        return cls(checkpoint, device=checked, operating_point=operating_point, file=file)


def _import_loader() -> Callable[..., Checkpoint | Exported]:
    """Import load_detector, and torch with it, without garbage collection: no import makes any to collect."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        from models.exported import load_detector
    finally:
        if collecting:
            gc.enable()
    return load_detector


# ---------------------------------------------------------------------------------------------------------
# Command line


def main() -> int:
    args = parse_arguments()
    format = chosen_format(args)
    scan = scan_arguments(args)
    if format == TEXT:
        print(f"[INFO] Loading model from {args.model_path}...", flush=True)
    load = partial(
        Detector.load,
        args.model_path,
        device=args.device,
        operating_point=args.operating_point,
        views=args.views,
        allow_tiny=args.allow_tiny,
    )
    cluster = chosen_cluster(args, load)
    find_model(args.model_path)  # what is not there is refused before torch is imported
    interrupts.end_at_once()
    _import_loader()
    interrupts.raise_again()
    if cluster and pick_device(args.device) == "cuda":
        cluster = replace(cluster, num_gpus=1)
    return write_results(load(), scan, args, model=args.model_path, batch_size=args.batch_size, cluster=cluster)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    add_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--batch-size", type=int, default=16, help="images per forward pass, for a folder")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


if __name__ == "__main__":
    cli.run(main)
