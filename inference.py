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
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import gapl.detector
from gapl import cli
from gapl.cluster import chosen_cluster
from gapl.detector import ImageInput, shipped_file
from gapl.inputs.scan import scan_arguments
from gapl.judging import write_results
from gapl.names import FULL, MODEL_HELP
from gapl.options import TEXT, add_options, chosen_format
from gapl.outputs import check_outputs
from gapl.verdict import Verdict
from models.device import DEVICES, pick_device
from models.engines import AUTO, ENGINE_OF, ENGINES, ONNXRUNTIME, Way, check_engine, choose_way
from models.precision import PRECISIONS
from models.weights.hub import find_model

__all__ = ["Detector", "ImageInput", "Verdict"]

log = logging.getLogger(__name__)


class Detector(gapl.detector.Detector):
    """A loaded detector. Call it with one image or with a list.

    way   how it is run: the engine, its precision and the device

    torch is imported when a detector is loaded, not before: a wrong option or path is reported at once.
    """

    way: Way

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "auto",
        engine: str = AUTO,
        precision: str = "fp32",
        operating_point: str | None = None,
        views: str = FULL,
        allow_tiny: bool = False,
    ) -> Self:
        """Load a detector file, ours or the authors', one of export.py, or `owner/name[@revision]` on the hub.

        path             default: the detector that ships
        device           auto, cpu or cuda
        engine           torch, onnxruntime, openvino, or auto: that of a file of export.py, else torch
        precision        fp32, bf16, fp16, or auto: bf16 where the device is fast in it, else fp32
        operating_point  such as "fpr1": this threshold of the detector's calibration decides alone, and nothing is
                         "unsure"
        views            "full"; "fast": the whole image alone, one pass through the tower instead of several; or
                         "auto": that first, and all where it is not clear, see docs/verdicts.md
        allow_tiny       accept the random test tower

        Raises ValueError, one line, when there is no such detector, device or operating point, or the engine does
        not run that.
        """
        file = shipped_file() if path is None else find_model(str(path))
        check_engine(file, engine=engine, precision=precision, device=device)
        _import_torch()
        way = choose_way(file, engine=engine, precision=precision, device=device)
        if way.engine == ONNXRUNTIME and file.suffix not in ENGINE_OF:
            detector = super().load(file, operating_point=operating_point, views=views)
            detector.way = way
        else:
            detector = cls._load(file, way, operating_point=operating_point, views=views, allow_tiny=allow_tiny)
        log.info("Judging by %s", detector.way)
        return detector

    @classmethod
    def _load(cls, file: Path, way: Way, *, operating_point: str | None, views: str, allow_tiny: bool) -> Self:
        """Load what torch reads: any detector file, and files of export.py, which say their precision."""
        from models.exported import Exported, load_detector
        from models.run import engine_of

        found = load_detector(file, views=views, allow_tiny=allow_tiny)
        run = engine_of(found.detector, device=way.device, precision=way.precision)
        head = found.detector.head_tensors()
        detector = cls(run, found, operating_point=operating_point, file=file, head=head)
        detector.way = replace(way, precision=found.precision) if isinstance(found, Exported) else way
        return detector


def _import_torch() -> None:
    """Import what loads detectors, and torch, without garbage collection: no import makes any to collect."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import models.exported  # noqa: F401
    finally:
        if collecting:
            gc.enable()


# ---------------------------------------------------------------------------------------------------------
# Command line


def main() -> int:
    args = parse_arguments()
    format = chosen_format(args)
    scan = scan_arguments(args)
    check_outputs(args, scan)
    if format == TEXT:
        print(f"[INFO] Loading model from {args.model_path}...", flush=True)
    load = partial(
        Detector.load,
        args.model_path,
        device=args.device,
        engine=args.engine,
        precision=args.precision,
        operating_point=args.operating_point,
        views=args.views,
        allow_tiny=args.allow_tiny,
    )
    cluster = chosen_cluster(args, load)
    file = find_model(args.model_path)  # what is not there is refused before torch is imported
    check_engine(file, engine=args.engine, precision=args.precision, device=args.device)
    interrupts.end_at_once()
    _import_torch()
    interrupts.raise_again()
    if cluster and pick_device(args.device) == "cuda":
        cluster = replace(cluster, num_gpus=1)
    return write_results(load(), scan, args, model=args.model_path, batch_size=args.batch_size, cluster=cluster)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    add_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    text = "what runs the detector (default: auto, that of a file of export.py, and torch for others)"
    parser.add_argument("--engine", choices=ENGINES, default=AUTO, help=text)
    text = "that the tower computes in (default: fp32; auto: bf16 where it is fast, which changes scores a little)"
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)
    parser.add_argument("--batch-size", type=int, default=16, help="images per forward pass, for a folder")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


if __name__ == "__main__":
    cli.run(main)
