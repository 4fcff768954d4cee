"""The files and folders that a command line writes: they replace nothing but what an earlier run wrote there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from gapl.folders import START_BYTES
from gapl.inputs.scan import Scan
from gapl.model_path import in_run
from gapl.options import SHEETS_INDEX


def check_outputs(args: argparse.Namespace, scan: Scan) -> None:
    """Raise ValueError, one line, where an output would replace an image, or what is read."""
    named = {"--out": args.out, "--gallery": args.gallery, "--sheets": args.sheets and args.sheets / SHEETS_INDEX}
    targets = {option: path for option, path in named.items() if path}
    for (option, path), (other, same) in combinations(targets.items(), 2):
        if path.resolve() == same.resolve():
            raise ValueError(f"{option} and {other} are both {path}; name two files")
    if args.gallery and args.sheets and args.gallery.resolve().is_relative_to(args.sheets.resolve()):
        raise ValueError(f"--gallery {args.gallery} is inside of --sheets {args.sheets}; name a file elsewhere")
    for option, path in targets.items():
        if not path.exists():
            continue
        if path.is_dir():
            raise ValueError(f"{option} {path} is a folder; expected the name of a file")
        if _identity(path) in set(_named(args, scan)):
            raise ValueError(f"{option} {path} is read by this command; name another file")
        if path.is_file() and _is_image(path):
            raise ValueError(f"{option} {path} is an image, which is not replaced; name another file")
    for option, path in (("--sort-into", args.sort_into), ("--sheets", args.sheets)):
        if path and path.exists() and not path.is_dir():
            raise ValueError(f"{option} {path} is a file; expected a folder")


def _named(args: argparse.Namespace, scan: Scan) -> Iterator[tuple[int, int]]:
    """Yield what is the same of all names of each file that the command reads, such as images and the detector."""
    from gapl.detector import shipped_file

    model = in_run(Path(args.model_path)) if args.model_path else shipped_file()
    others = [model, model.with_suffix(".bin"), args.trusted]  # the detector of OpenVINO is two files
    names = {*scan.opened, *(str(image.file) for image in scan.images if image.file)}
    for path in (*names, *filter(None, others)):
        if os.path.exists(path):  # noqa: PTH110 - which also answers for a name that is too long
            yield _identity(path)


def _identity(path: Path | str) -> tuple[int, int]:
    """Return what is the same of all names of a file."""
    status = os.stat(path)  # noqa: PTH116 - as fast as it can be: there may be many
    return status.st_dev, status.st_ino


def _is_image(path: Path) -> bool:
    from gapl.decode import image_format

    with path.open("rb") as file:
        return bool(image_format(file.read(START_BYTES)))
