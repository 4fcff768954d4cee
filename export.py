"""Write a detector as an ONNX file, which needs no torch.

    python export.py --model_path runs/stage2/detector.safetensors --out runs/onnx
    gapl photo.jpg --model_path runs/onnx/detector.onnx

The file holds the weights, and in its metadata how images become pixels, the calibrations and the threshold. It is
kept only when its scores of noise and of the images in assets/ are those of torch.

--wheel writes a Python package with the detector and its tower instead: `pip install` of it needs no download of
weights, and `gapl photo.jpg` no network. It takes what `gapl --model_path` takes.

--format web writes the folder of a web page that judges images in the browser; any static web server can host it.
--format graph writes the forward pass alone, without weights: gapl/graph.onnx is that of the detector that ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gapl import cli
from gapl.decode import decode_image
from gapl.folders import scan_images
from gapl.names import MODEL_HELP
from models.weights.hub import find_model

FORMATS = ("onnx", "web", "graph")
ASSETS = Path(__file__).parent / "assets"
PAGE = Path(__file__).parent / "web"


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    if args.wheel:
        from models.package import build_wheel

        built = build_wheel(file, out=args.out)
        print(f"{built}: gapl and {file.name}, {built.stat().st_size / 1e6:.0f} MB")
        return
    out = args.out / ("graph.onnx" if args.format == "graph" else f"{file.stem}.onnx")
    from models.export import save_graph, save_onnx
    from models.weights.checkpoint import load_checkpoint, read_info

    if args.format == "graph":
        save_graph(out, read_info(file).config)
        print(f"{out}: the forward pass of {file}")
        return
    images = [decode_image(path.read_bytes()) for path in scan_images([ASSETS]).images]
    checkpoint = load_checkpoint(file, merge=args.format != "web", allow_tiny=args.allow_tiny)
    if args.format == "web":
        from models.site import write_site

        out = args.out
        difference = write_site(out, checkpoint, page=PAGE, images=images)
    else:
        difference = save_onnx(out, checkpoint, images=images)
    print(f"{out}: P(fake) differs from that of torch by at most {difference:.1e}")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the file or files")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--wheel", action="store_true", help="write a package that pip installs, with the weights")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
