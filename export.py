"""Write a detector as a file that needs no torch, or none of the code of this project.

    python export.py --model_path runs/stage2/detector.safetensors --out runs/onnx
    gapl photo.jpg --model_path runs/onnx/detector.onnx

The file holds the weights, and in its metadata how images become pixels, the calibrations and the threshold. A
JSON file beside it says the same, and how near its scores are to those of torch. Both are kept only when they are
near enough; docs/export.md says what that means for each precision, and what was measured.

--wheel writes a Python package with the detector and its tower instead: `pip install` of it needs no download of
weights, and `gapl photo.jpg` no network. It takes what `gapl --model_path` takes.

--format web writes the folder of a web page that judges images in the browser; any static web server can host it.
--format graph writes the forward pass alone, without weights: gapl/graph.onnx is that of the detector that ships.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gapl import cli
from gapl.decode import UnreadableImage, decode_image
from gapl.inputs.scan import scan_images
from gapl.names import EXPORT_PRECISIONS, MODEL_HELP, OPENVINO_PRECISIONS, PROGRAM_PRECISIONS
from models.weights.hub import find_model

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from models.parity import Exam, Parity, Reference
    from models.weights.checkpoint import Checkpoint

ASSETS = Path(__file__).parent / "assets"
PAGE = Path(__file__).parent / "web"
NUM_IMAGES = 128
LEAST_JUDGED, LEAST_OWN = 16, 40  # images that judge a file in fewer bits; one with calibrations of its own


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    if args.wheel:
        from models.package import build_wheel

        built = build_wheel(file, out=args.out)
        print(f"{built}: gapl and {file.name}, {built.stat().st_size / 1e6:.0f} MB")
        return
    FORMATS[args.format](file, args)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the file or files")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    text = "of the weights, and of what is computed where docs/export.md says so (default: %(default)s)"
    parser.add_argument("--precision", choices=EXPORT_PRECISIONS, default="fp32", help=text)
    text = "images in class folders, real and fake: half of them judge the file; int8 and int8-dynamic need them"
    parser.add_argument("--calibration", type=Path, metavar="DIR", help=text)
    text = f"how many of them are used, half of each class (default: {NUM_IMAGES})"
    parser.add_argument("--num-images", type=int, help=text)
    text = "move the calibrations to the scores of the file, by the half that does not judge it"
    parser.add_argument("--own-calibration", action="store_true", help=text)
    parser.add_argument("--wheel", action="store_true", help="write a package that pip installs, with the weights")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.num_images is not None and args.calibration is None:
        raise ValueError("--num-images is of --calibration DIR, which is missing")
    args.num_images = NUM_IMAGES if args.num_images is None else args.num_images
    if args.num_images < 4:
        raise ValueError(f"--num-images must be at least 4, not {args.num_images}")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; expected a folder")
    _check_precision(args)
    return args


def _check_precision(args: argparse.Namespace) -> None:
    """Raise ValueError when a format has not this precision, or there are no images where it needs some."""
    given = args.precision != "fp32" or args.calibration is not None or args.own_calibration
    if given and (args.wheel or args.format in ("graph", "web")):
        what = "--wheel" if args.wheel else f"--format {args.format}"
        raise ValueError(f"{what} has a precision of its own; leave out --precision and --calibration")
    offered = OFFERED.get(args.format, EXPORT_PRECISIONS)
    if args.precision not in offered:
        raise ValueError(f"--format {args.format} takes --precision {' or '.join(offered)}")
    images = "needs --calibration DIR, with images in class folders real and fake"
    if args.precision.startswith("int8") and args.calibration is None:
        raise ValueError(f"--precision {args.precision} {images}")
    if args.own_calibration and args.precision == "fp32":
        raise ValueError("--own-calibration is for scores that differ from those of torch; fp32 has the same")
    if args.own_calibration and args.calibration is None:
        raise ValueError(f"--own-calibration {images}")


# ---------------------------------------------------------------------------------------------------------
# Formats


def _graph(file: Path, args: argparse.Namespace) -> None:
    from models.export import save_graph
    from models.weights.checkpoint import read_info

    out = args.out / "graph.onnx"
    save_graph(out, read_info(file).config)
    print(f"{out}: the forward pass of {file}")


def _onnx(file: Path, args: argparse.Namespace) -> None:
    from models.onnx_file import save_onnx
    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, allow_tiny=args.allow_tiny)
    out = args.out / f"{_stem(file, args.precision)}.onnx"
    found = save_onnx(out, checkpoint, precision=args.precision, exam=_exam(checkpoint, args))
    _tell(out, found)


def _openvino(file: Path, args: argparse.Namespace) -> None:
    from models.openvino_engine import import_optional

    for package in ("openvino", *(["nncf"] if args.precision == "int8" else [])):
        import_optional(package)  # before anything takes time
    from models.openvino_file import save_openvino
    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, allow_tiny=args.allow_tiny)
    fitted = split_images(args.calibration, num_images=args.num_images)[0] if args.precision == "int8" else []
    out = args.out / f"{_stem(file, args.precision)}.xml"
    found = save_openvino(
        out,
        checkpoint,
        precision=args.precision,
        calibration=pixels_of(checkpoint, [path for path, _ in fitted]),
        exam=_exam(checkpoint, args),
    )
    _tell(out, found)


def _program(file: Path, args: argparse.Namespace) -> None:
    from models.program_file import save_program
    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, allow_tiny=args.allow_tiny)
    out = args.out / f"{_stem(file, args.precision)}.pt2"
    found = save_program(out, checkpoint, precision=args.precision, exam=_exam(checkpoint, args))
    _tell(out, found)


def _web(file: Path, args: argparse.Namespace) -> None:
    from models.site import write_site
    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, merge=False, allow_tiny=args.allow_tiny)
    images = [decode_image(image.read()) for image in scan_images([ASSETS]).images]
    difference = write_site(args.out, checkpoint, page=PAGE, images=images)
    print(f"{args.out}: P(fake) differs from that of torch by at most {difference:.1e}")


FORMATS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch-export": _program,
    "web": _web,
    "graph": _graph,
}
OFFERED = {"openvino": OPENVINO_PRECISIONS, "torch-export": PROGRAM_PRECISIONS}  # of onnx: all


def _stem(file: Path, precision: str) -> str:
    return file.stem if precision == "fp32" else f"{file.stem}-{precision}"


def _tell(out: Path, found: dict[str, Parity]) -> None:
    """Print how near the file is to torch, by the look that differs most."""
    worst = max(found.values(), key=lambda parity: parity.difference)
    print(f"{out}: P(fake) differs from that of torch by at most {worst.difference:.1e}")
    if flips := max(parity.flips for parity in found.values()):
        print(f"{flips:.1%} of the images that judge it get another verdict")


# ---------------------------------------------------------------------------------------------------------
# Images to judge a file by


def _exam(checkpoint: Checkpoint, args: argparse.Namespace) -> Exam:
    """Return what the file has to pass. Torch judges the images for it, which takes time."""
    from models.parity import AS_GOOD, EXACT, NEAR, RANKS_AS_WELL, Exam, Reference, noisy_pixels

    exact = args.precision == "fp32"
    if args.calibration is None:
        images = [decode_image(image.read()) for image in scan_images([ASSETS]).images]
        return Exam(Reference(checkpoint, list(noisy_pixels(checkpoint, images))), EXACT if exact else NEAR)
    fitted, judged = split_images(args.calibration, num_images=args.num_images)
    needed = 0 if exact else LEAST_OWN if args.own_calibration else LEAST_JUDGED
    if len(judged) < needed:
        what = "--own-calibration" if args.own_calibration else f"--precision {args.precision}"
        raise ValueError(f"{len(judged)} images judge the file; {what} needs {needed}: see --num-images")
    if args.own_calibration and checkpoint.calibration is None:
        raise ValueError("--own-calibration: this detector has no calibration that could be moved")
    reference = _judged_by_torch(checkpoint, judged)
    if args.own_calibration:
        return Exam(reference, RANKS_AS_WELL, _judged_by_torch(checkpoint, fitted))
    return Exam(reference, EXACT if exact else AS_GOOD)


def _judged_by_torch(checkpoint: Checkpoint, images: list[tuple[Path, int]]) -> Reference:
    from models.parity import Reference

    pixels = pixels_of(checkpoint, [path for path, _ in images])
    return Reference(checkpoint, pixels, labels=[label for _, label in images])


def split_images(folder: Path, *, num_images: int) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Return images of class folders with their labels: those to calibrate on, and as many to judge by.

    They are evenly spaced in the order of their paths, so that they are of many sources.

    Raises ValueError when there are not enough of a class.
    """
    from data.folders import scan_folder
    from gapl.labels import Label

    records = list(scan_folder(folder))
    halves: tuple[list[tuple[Path, int]], list[tuple[Path, int]]] = ([], [])
    for label in Label:
        paths = [Path(record.uri) for record in records if record.label is label]
        wanted = min(num_images // 2, len(paths))
        if wanted < 2:
            raise ValueError(f"{folder}: {len(paths)} images of the class {label.word}; at least 2 are needed")
        for number in range(wanted):
            halves[number % 2].append((paths[number * len(paths) // wanted], int(label)))
    return halves


def pixels_of(checkpoint: Checkpoint, paths: list[Path]) -> list[np.ndarray]:
    """Return what the detector sees of the images. Raises ValueError that names one that cannot be read."""
    from gapl.views import eval_view

    view = eval_view(checkpoint.config.pixel)
    return [view(_decode(path)) for path in paths]


def _decode(path: Path) -> Image.Image:
    try:
        return decode_image(path.read_bytes())
    except UnreadableImage as error:
        raise ValueError(f"{path}: {error}") from error


if __name__ == "__main__":
    cli.run(main)
