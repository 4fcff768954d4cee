"""Judge the images that a user names, and write what was found of each."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from gapl.batches import Show, judge_files
from gapl.cli import printable
from gapl.cluster import Cluster
from gapl.decode import allow_pixels
from gapl.detector import Detector, Judged
from gapl.files.checksum import sha256_of
from gapl.gallery.page import Gallery
from gapl.inputs.input import Input
from gapl.inputs.scan import Scan
from gapl.options import CSV, JSON, JSONL, TEXT, chosen_format, chosen_workers, is_explained, trusted_certificates
from gapl.results import COLUMNS, Method, Result, csv_line, csv_row, mark_duplicates
from gapl.sheets.exploration import Exploration
from gapl.sheets.folder import Sheets
from gapl.sorted_folder import SortedFolder
from gapl.table import Table
from gapl.tally import Tally
from gapl.workers import Besides, Workers, limits_of

log = logging.getLogger(__name__)


class Taker(Protocol):
    """What is made of results, besides a table or lines on stdout."""

    def add(self, result: Result) -> None:
        """Take a result."""

    def finish(self) -> None:
        """Make what is made of all of them."""


def write_results(
    detector: Detector,
    scan: Scan,
    args: argparse.Namespace,
    *,
    model: str,
    batch_size: int = 1,
    cluster: Cluster | None = None,
) -> int:
    """Judge images, write what was found as the options of gapl/options.py ask, and return the exit code.

    model    what results call the detector
    cluster  judges the images instead of this process

    Raises ValueError when none of the images can be read, and as `Table`, `Gallery` and `Sheets` do.
    """
    allow_pixels(args.max_megapixels)
    method = _method(args, detector, model)
    folder = _open_folder(args, scan)
    table = _open_table(args, scan, method, explainer=detector.explainer.sha256 if is_explained(args) else None)
    gallery = Gallery(args.gallery, method=method, overwrite=args.overwrite) if args.gallery else None
    exploration = _open_sheets(detector, scan, args, method)
    takers: list[Taker] = [each for each in (folder, gallery) if each]
    known = table.judged() if table else {}
    tally = Tally(frozenset(known))
    show = gallery.show if gallery else None
    judged = _judge(detector, scan.images, args, batch_size=batch_size, known=known, show=show, cluster=cluster)
    with closing(judged):  # at once, should it be interrupted
        marked = mark_duplicates(judged)
        found = exploration.explored(marked, scan.images, known=known) if exploration else marked
        shown = _with_progress(found, total=len(scan.images))
        results = _passing_on(shown, [tally.add, *(each.add for each in takers)])
        if table:
            _fill(table, results, method)
        else:
            _print(results, args, method, is_alone=len(scan.images) == 1)
    for each in takers:
        each.finish()
    tally.tell(scan)
    return tally.exit_code(scan, fail_on=args.fail_on)


def _fill(table: Table, results: Iterable[Result], method: Method) -> None:
    try:
        for result in results:
            table.add(result.row(method))
    except KeyboardInterrupt:
        log.info("%s: what was judged is kept; the same command goes on", printable(table.path))
        raise
    table.finish()


def _print(results: Iterable[Result], args: argparse.Namespace, method: Method, *, is_alone: bool) -> None:
    format = chosen_format(args)
    says_error = format != TEXT or not is_alone  # of a single image, the error of the command says it
    _STREAMS[format]((each for each in results if each.verdict or says_error), method)


def _method(args: argparse.Namespace, detector: Detector, model: str) -> Method:
    sha256 = sha256_of(detector.file) if detector.file else ""
    return Method(model, sha256, args.views, args.operating_point or "")


def _open_table(args: argparse.Namespace, scan: Scan, method: Method, *, explainer: str | None) -> Table | None:
    if not args.out:
        return None
    images = [image.name for image in scan.images]
    return Table(
        args.out,
        format=chosen_format(args),
        method=method,
        images=images,
        overwrite=args.overwrite,
        explainer=explainer,
    )


def _open_folder(args: argparse.Namespace, scan: Scan) -> SortedFolder | None:
    """Return the folder to sort into. Images that an earlier run sorted are left out.

    Raises ValueError when there are no others.
    """
    if not args.sort_into:
        return None
    folder = SortedFolder(args.sort_into, link=args.link)
    others = [image for image in scan.images if not folder.holds(image.name)]
    if not others:
        raise ValueError(f"{folder.path}: all images are inside; name another folder to sort them into")
    if num_sorted := len(scan.images) - len(others):
        scan.left_out[f"already in {folder.path}"] = num_sorted
    scan.images = [folder.keeping(image) for image in others]
    return folder


def _open_sheets(detector: Detector, scan: Scan, args: argparse.Namespace, method: Method) -> Exploration | None:
    """Return what explores the images, which can then be read again, and writes their sheets."""
    if not args.sheets:
        return None
    sheets = Sheets(args.sheets, method=method, overwrite=args.overwrite)
    exploration = Exploration(detector, sheets)
    scan.images = [exploration.keeping(image) for image in scan.images]
    return exploration


def _with_progress(results: Iterator[Result], *, total: int) -> Iterable[Result]:
    """Show on a terminal how many results there are, and the time left; not for a single image."""
    from tqdm import tqdm

    bar: Iterable[Result] = tqdm(results, total=total, unit="image", disable=None if total > 1 else True)
    return bar


def _passing_on(results: Iterable[Result], adders: Sequence[Callable[[Result], None]]) -> Iterator[Result]:
    """Yield the results, after others have taken each of them."""
    for result in results:
        for add in adders:
            add(result)
        yield result


# ---------------------------------------------------------------------------------------------------------
# Judging


def _judge(
    detector: Detector,
    images: list[Input],
    args: argparse.Namespace,
    *,
    batch_size: int,
    known: dict[str, Judged],
    show: Show | None,
    cluster: Cluster | None,
) -> Generator[Result]:
    """Yield the results as they come. Closing it ends the processes that decode, or leaves the cluster."""
    if cluster:
        yield from cluster.judge(images, batch_size=batch_size, limits=limits_of(args), known=known)
        return
    with Workers(
        chosen_workers(args, len(images)),
        pixel=detector.pixel,
        limits=limits_of(args),
        known=known,
        explain=is_explained(args),
        besides=Besides(thumbnails=show is not None, trusted=trusted_certificates(args)),
    ) as workers:
        yield from judge_files(
            detector, images, workers, batch_size=batch_size, known=known, explain=is_explained(args), show=show
        )


# ---------------------------------------------------------------------------------------------------------
# What goes to stdout


def _write_text(results: Iterable[Result], _method: Method) -> None:
    for result in results:
        _write(result.text())


def _write_jsonl(results: Iterable[Result], method: Method) -> None:
    for result in results:
        _write(json.dumps(result.row(method)))


def _write_json(results: Iterable[Result], method: Method) -> None:
    _write("[")
    comma = ""
    for result in results:
        _write(f"{comma}{json.dumps(result.row(method))}")
        comma = ","
    _write("]")


def _write_csv(results: Iterable[Result], method: Method) -> None:
    _write(csv_line(COLUMNS))
    for result in results:
        _write(csv_line(csv_row(result.row(method))))


def _write(line: str) -> None:
    """Print a line at once, above the progress bar."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


_STREAMS = {TEXT: _write_text, JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv}
