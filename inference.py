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

import argparse
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image
from tqdm import tqdm

from gapl import cli
from gapl.decode import UnreadableImage, decode_image
from gapl.folders import scan_images
from gapl.names import FULL, MODEL_HELP, TINY, VIEWS, VIEWS_HELP
from gapl.verdict import Judge, Verdict, decision_rule
from gapl.views import eval_view
from models.device import DEVICES, pick_device
from models.weights.hub import find_model

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

ImageInput = Image.Image | str | Path


class Detector:
    """A loaded detector. Call it with an image, a path, or a list of either.

    torch is imported when a detector is loaded, not before: a wrong option or path is reported at once.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "cpu", operating_point: str | None = None) -> None:
        pixel = checkpoint.config.pixel
        rule = decision_rule(
            checkpoint.calibration, threshold=checkpoint.threshold, operating_point=operating_point
        )
        notices = [checkpoint.notice] if checkpoint.notice else []
        if checkpoint.config.backbone == TINY:
            notices.append("a random tower, for tests only: this verdict means nothing")
        self._judge = Judge(checkpoint.calibration, rule, pixel, tuple(notices))
        self._view = eval_view(pixel)
        self._device = device
        self._model = checkpoint.detector.to(device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        operating_point: str | None = None,
        views: str = FULL,
        allow_tiny: bool = False,
    ) -> Detector:
        """Load a detector file, ours or the authors', or `owner/name[@revision]` on the model hub.

        device           auto, cpu or cuda
        operating_point  such as "fpr1": this threshold of the detector's calibration decides alone, and nothing is
                         "unsure"
        views            "full"; "fast": the whole image alone, one pass through the tower instead of several; or
                         "auto": that first, and all where it is not clear, see docs/verdicts.md
        allow_tiny       accept the random test tower

        Raises ValueError, one line, when there is no such detector, device or operating point.
        """
        file = find_model(str(path))
        load_checkpoint = _import_loader()
        checked = pick_device(device)  # before the weights are read: there may be no such device
        checkpoint = load_checkpoint(file, views=views, allow_tiny=allow_tiny)
        return cls(checkpoint, device=checked, operating_point=operating_point)

    @overload
    def __call__(self, image: ImageInput) -> Verdict: ...
    @overload
    def __call__(self, image: list[ImageInput]) -> list[Verdict]: ...

    def __call__(self, image: ImageInput | list[ImageInput]) -> Verdict | list[Verdict]:
        """Return the verdict on an image, or a list of verdicts on a list of images, computed as one batch.

        Raises OSError when a file cannot be read, UnreadableImage (a ValueError) when it is not a whole image.
        """
        if isinstance(image, Image.Image | str | Path):
            return self._verdicts([_open(image)])[0]
        return self._verdicts([_open(each) for each in image])

    def _verdicts(self, images: list[Image.Image]) -> list[Verdict]:
        import torch

        from models.run import run_detector

        if not images:
            return []
        pixels_BCHW = torch.from_numpy(np.stack([self._view(image) for image in images]))
        logit_B = run_detector(self._model, pixels_BCHW, device=self._device).logit_B
        return self._judge.verdicts(logit_B.numpy(), [image.size for image in images])


def _import_loader() -> Callable[..., Checkpoint]:
    """Import load_checkpoint, and torch with it, without garbage collection: no import makes any to collect."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        from models.weights.checkpoint import load_checkpoint
    finally:
        if collecting:
            gc.enable()
    return load_checkpoint


def _open(image: ImageInput) -> Image.Image:
    return image if isinstance(image, Image.Image) else decode_image(Path(image).read_bytes())


# ---------------------------------------------------------------------------------------------------------
# Command line


def main() -> None:
    args = parse_arguments()
    paths = scan_images(args.image_path)
    if not args.json:
        print(f"[INFO] Loading model from {args.model_path}...", flush=True)
    detector = Detector.load(
        args.model_path,
        device=args.device,
        operating_point=args.operating_point,
        views=args.views,
        allow_tiny=args.allow_tiny,
    )
    show = partial(to_json, model=args.model_path) if args.json else to_text
    if args.image_path.is_file():
        print(show(paths[0], judge_file(detector, paths[0])))
        return
    results = judge_files(detector, paths, batch_size=args.batch_size)
    num_failed = 0
    for path, result in tqdm(results, total=len(paths), unit="image", disable=None):
        num_failed += isinstance(result, str)
        tqdm.write(show(path, result))
    if num_failed == len(paths):
        raise ValueError(f"{args.image_path}: none of its {len(paths)} images could be read")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--image_path", "--image-path", type=Path, required=True, help="an image, or a folder of them"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line and image, nothing else on stdout"
    )
    parser.add_argument(
        "--operating-point", metavar="NAME", help="threshold of a calibrated detector: balanced, fpr1, fpr5"
    )
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument("--batch-size", type=int, default=16, help="images per forward pass, for a folder")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


def judge_file(detector: Detector, path: Path) -> Verdict:
    """Return the verdict on one file. A ValueError about an unreadable image names the file."""
    try:
        return detector(path)
    except UnreadableImage as error:
        raise ValueError(f"{path}: {error}") from error


def judge_files(detector: Detector, paths: list[Path], *, batch_size: int) -> Iterator[tuple[Path, Verdict | str]]:
    """Yield every path with its verdict, or with the reason why it could not be read."""
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        results: dict[Path, Verdict | str] = {}
        images: dict[Path, Image.Image] = {}
        for path in batch:
            try:
                images[path] = _open(path)
            except (UnreadableImage, OSError) as error:
                results[path] = str(error)
        results |= zip(images, detector(list(images.values())), strict=True)
        yield from ((path, results[path]) for path in batch)


def to_json(path: Path, result: Verdict | str, *, model: str) -> str:
    """Return one line of JSON for a verdict, or for the reason why there is none."""
    shown = {"error": result} if isinstance(result, str) else asdict(result)
    return json.dumps({"path": str(path), **shown, "model": model})


def to_text(path: Path, result: Verdict | str) -> str:
    """Return the lines for a reader about a verdict, or about the reason why there is none."""
    if isinstance(result, str):
        return f"[ERROR] Image: {path}\n  -> {result}"
    unsure = f"Unsure (leans to {result.likelier.capitalize()})"
    prediction = {"fake": "Fake (AI-Generated)", "real": "Real", "unsure": unsure}[result.label]
    lines = [
        f"[RESULT] Image: {path}",
        f"  -> Prediction: {prediction}",
        f"  -> Confidence: {result.confidence:.1%}",
        *(f"  -> Warning: {warning}" for warning in result.warnings),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
