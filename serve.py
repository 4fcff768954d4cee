"""Judge images over HTTP: the service of a team, on the CPU without torch, or on a GPU with it.

    python serve.py --host 127.0.0.1 --port 8000
    python serve.py --model_path runs/stage2/detector.safetensors --engine torch --device cuda --precision bf16
    curl -F image=@photo.jpg http://127.0.0.1:8000/v1/detect

    [{"path": "photo.jpg", "score": 0.009, "label": "real", ...}]

`gapl serve` is the same without torch. The log is lines of JSON on stderr. docs/serving.md tells what is answered,
the limits and the configuration.
"""

from __future__ import annotations

from gapl import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # until cli.run

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gapl import cli
from gapl.detector import shipped_file
from gapl.names import MODEL_HELP
from gapl.serving.command import add_options, run_command
from models.device import DEVICES
from models.engines import AUTO, ONNXRUNTIME, TORCH, check_engine
from models.precision import PRECISIONS

if TYPE_CHECKING:
    import gapl.detector

TORCH_BATCH = 16  # images that torch judges at once


def main() -> int:
    args = parse_arguments()
    model = args.model_path or shipped_file().name
    if args.engine == TORCH:
        return run_command(args, partial(load_torch, args), model=model, batch_size=TORCH_BATCH)
    check_engine(Path(model), engine=args.engine, precision=args.precision, device=args.device)
    return run_command(args, partial(load_onnxruntime, args), model=model)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add_options(parser)
    parser.add_argument("--model_path", "--model-path", help=f"{MODEL_HELP} (default: the one that ships)")
    text = "what runs the detector: onnxruntime on the CPU, or torch (default: %(default)s)"
    parser.add_argument("--engine", choices=(ONNXRUNTIME, TORCH), default=ONNXRUNTIME, help=text)
    parser.add_argument("--device", choices=DEVICES, default=AUTO, help="of torch")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of torch (default: %(default)s)")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    return parser.parse_args()


def load_onnxruntime(args: argparse.Namespace) -> gapl.detector.Detector:
    """Load the detector as `gapl` does."""
    from gapl.detector import Detector

    return Detector.load(args.model_path, views=args.views)


def load_torch(args: argparse.Namespace) -> gapl.detector.Detector:
    """Load the detector as inference.py does."""
    from inference import Detector

    return Detector.load(
        args.model_path,
        device=args.device,
        engine=TORCH,
        precision=args.precision,
        views=args.views,
        allow_tiny=args.allow_tiny,
    )


if __name__ == "__main__":
    cli.run(main)
