"""Is an image AI-generated? The public Python API, and its command line.

    python inference.py --model_path runs/stage2/detector.safetensors --image_path assets/test_image.jpg

    [INFO] Loading model from runs/stage2/detector.safetensors...
    [RESULT] Image: assets/test_image.jpg
      -> Prediction: Real
      -> Confidence: 99.1%

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
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image
from tqdm import tqdm

import cli
from data.folders import scan_images
from files import open_weights
from gapl.decode import UnreadableImage, decode_image
from gapl.verdict import Judge, Verdict, decision_rule
from gapl.views import eval_view
from models.weights.hub import find_model
from models.weights.names import DETECTOR_FILE, MODEL_HELP, TINY

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

ImageInput = Image.Image | str | Path


class Detector:
    """A loaded detector. Call it with an image, a path, or a list of either.

    torch is imported when the first is loaded: a wrong option or path is told at once, and the checksums of the
    file are computed meanwhile.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "cpu", operating_point: str | None = None) -> None:

        pixel = checkpoint.config.pixel
        notices = [checkpoint.notice] if checkpoint.notice else []
        if checkpoint.config.backbone == TINY:
            notices.append("a random tower, for tests only: this verdict means nothing")
        rule = decision_rule(
            checkpoint.calibration, threshold=checkpoint.threshold, operating_point=operating_point
        )
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
        allow_tiny: bool = False,
    ) -> Detector:
        """From a detector file, ours or the authors', or `owner/name[@revision]` on the model hub.

        device           auto, cpu or cuda
        operating_point  of a calibrated detector, such as "fpr1": its threshold alone decides, nothing is "unsure"

        Raises ValueError, one line, when it cannot.
        """
        file = open_weights(find_model(str(path)), what=DETECTOR_FILE)
        load_checkpoint = _import_loader()
        checked = cli.pick_device(device)  # before the weights are read: there may be no such device
        checkpoint = load_checkpoint(file, allow_tiny=allow_tiny)
        return cls(checkpoint, device=checked, operating_point=operating_point)

    @overload
    def __call__(self, image: ImageInput) -> Verdict: ...
    @overload
    def __call__(self, image: list[ImageInput]) -> list[Verdict]: ...

    def __call__(self, image: ImageInput | list[ImageInput]) -> Verdict | list[Verdict]:
        """One verdict for one image; a list for a list, computed as one batch.

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
    """load_checkpoint, and torch with it. Nothing imported is garbage, and looking for it takes time."""
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
        allow_tiny=args.allow_tiny,
    )
    if args.image_path.is_file():
        try:
            show(paths[0], detector(paths[0]), args)
        except UnreadableImage as error:
            raise ValueError(f"{paths[0]}: {error}") from error
        return
    results = tqdm(judge_all(detector, paths, args.batch_size), total=len(paths), unit="image", disable=None)
    num_failed = 0
    for path, verdict in results:
        num_failed += isinstance(verdict, str)
        show(path, verdict, args)
    if num_failed == len(paths):
        raise ValueError(f"{args.image_path}: none of its {len(paths)} images could be read")


def judge_all(detector: Detector, paths: list[Path], batch_size: int) -> Iterator[tuple[Path, Verdict | str]]:
    """Every path with its verdict, or why it could not be read."""
    for start in range(0, len(paths), batch_size):
        results: dict[Path, Verdict | str] = {}
        images: dict[Path, Image.Image] = {}
        for path in paths[start : start + batch_size]:
            try:
                images[path] = _open(path)
            except (UnreadableImage, OSError) as error:
                results[path] = str(error)
        results |= zip(images, detector(list(images.values())), strict=True)
        for path in paths[start : start + batch_size]:
            yield path, results[path]


def show(path: Path, verdict: Verdict | str, args: argparse.Namespace) -> None:
    if args.json:
        shown = {"error": verdict} if isinstance(verdict, str) else asdict(verdict)
        line = json.dumps({"path": str(path), **shown, "model": str(args.model_path)})
    elif isinstance(verdict, str):
        line = f"[ERROR] Image: {path}\n  -> {verdict}"
    else:
        prediction = {"fake": "Fake (AI-Generated)", "real": "Real", "unsure": "Unsure"}[verdict.label]
        lines = [f"[RESULT] Image: {path}", f"  -> Prediction: {prediction}"]
        lines += [f"  -> Confidence: {verdict.confidence:.1%}"]
        line = "\n".join(lines + [f"  -> Warning: {warning}" for warning in verdict.warnings])
    tqdm.write(line)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--image_path", "--image-path", type=Path, required=True, help="an image, or a folder of them"
    )
    parser.add_argument("--device", choices=cli.DEVICES, default="auto")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line and image, nothing else on stdout"
    )
    parser.add_argument(
        "--operating-point", metavar="NAME", help="threshold of a calibrated detector: balanced, fpr1, fpr5"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images a forward pass, for a folder")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


if __name__ == "__main__":
    cli.run(main)
