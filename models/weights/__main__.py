"""Say what files of weights are, and convert them from one form to another.

    python -m models.weights inspect checkpoint.pt
    python -m models.weights convert checkpoint.pt detector.safetensors --form merged --dtype bfloat16
    python -m models.weights convert checkpoint.pt adapter.safetensors --form adapter --save-backbone tower
    python -m models.weights convert adapter.safetensors checkpoint.pt --form released

An adapter leaves out the backbone, so that it is needed again to use it: --backbone names it (default: what the
file names) and is compared to the bit; --save-backbone writes the file's own as a transformers folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gapl import cli
from gapl.files.refusal import check_is_file
from gapl.names import DETECTOR_FILE, DTYPES, FORMS


def main() -> None:
    args = parse_arguments()
    check_is_file(args.file, what=DETECTOR_FILE)
    if args.command == "inspect":
        inspect(args.file, as_json=args.json)
        return
    from models.weights.convert import convert

    form = "released" if args.form == "official" else args.form
    convert(
        args.file,
        args.out,
        form=form,
        dtype=args.dtype,
        backbone=args.backbone,
        save_backbone=args.save_backbone,
        overwrite=args.overwrite,
    )
    sizes = [f"{path} {path.stat().st_size / 1e6:,.1f} MB" for path in (args.file, args.out)]
    print(f"{sizes[0]} -> {sizes[1]} ({form})")


def inspect(file: Path, *, as_json: bool) -> None:
    """Print what the file is."""
    from models.weights.inspect import facts, lines_of

    found = facts(file)
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines_of(found)))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__, prog="python -m models.weights")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file is")
    inspect.add_argument("file", type=Path, help="detector file, ours or released, or released prototypes")
    inspect.add_argument("--json", action="store_true", help="one JSON object")
    command = commands.add_parser("convert", help="from one form to another; only --dtype changes scores")
    command.add_argument("file", type=Path, help="detector file, ours or released")
    command.add_argument("out", type=Path)
    command.add_argument(
        "--form", choices=(*FORMS, "released", "official"), required=True, help="official means released"
    )
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="type of a merged file's tower")
    command.add_argument("--backbone", help="the tower of an adapter: where it is, or the name it gets")
    command.add_argument(
        "--save-backbone", type=Path, help="for --form adapter: write the file's tower to a folder"
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
