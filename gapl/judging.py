"""Judge the images that a user names, and write what was found of each."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gapl.decode import UnreadableImage, allow_pixels
from gapl.detector import Detector, Seen, read_image
from gapl.files.checksum import sha256_of
from gapl.folders import Scan
from gapl.gallery.page import Gallery
from gapl.options import CSV, JSON, JSONL, TEXT, chosen_format
from gapl.results import COLUMNS, Method, Result, csv_line, csv_row, mark_duplicates
from gapl.sorted_folder import SortedFolder
from gapl.table import Table
from gapl.tally import Tally
from gapl.verdict import Verdict

Keep = Callable[[str, str, bytes], None]  # (path, SHA-256, encoded bytes) of an image that was read


class Taker(Protocol):
    """What is made of results, besides a table or lines on stdout."""

    def keep(self, path: str, sha256: str, encoded: bytes) -> None:
        """Take an image, in another thread and before its result, if it could be read."""

    def add(self, result: Result) -> None:
        """Take a result."""

    def finish(self) -> None:
        """Make what is made of all of them."""


def write_results(
    detector: Detector, scan: Scan, args: argparse.Namespace, *, model: str, batch_size: int = 1
) -> int:
    """Judge images, write what was found as the options of gapl/options.py ask, and return the exit code.

    model  what results call the detector

    A progress bar is on stderr, if that is a terminal.

    Raises ValueError when none of the images can be read, and as `Table` and `Gallery` do.
    """
    allow_pixels(args.max_megapixels)
    method = _method(args, detector, model)
    folder = SortedFolder(args.sort_into, link=args.link) if args.sort_into else None
    if folder:
        _leave_out_sorted(scan, folder)
    table = _open_table(args, scan, method)
    gallery = Gallery(args.gallery, method=method, overwrite=args.overwrite) if args.gallery else None
    takers: list[Taker] = [each for each in (folder, gallery) if each]
    known = table.verdicts() if table else {}
    tally = Tally(frozenset(known))
    keep = [each.keep for each in takers]
    found = judge_files(detector, scan.images, batch_size=batch_size, known=known, keep=keep)
    marked = _with_progress(mark_duplicates(found), total=len(scan.images))
    results = _passing_on(marked, [tally.add, *(each.add for each in takers)])
    if table:
        for result in results:
            table.add(result.row(method))
        table.finish()
    else:
        format = chosen_format(args)
        says_error = format != TEXT or len(scan.images) > 1  # of a single image, the error of the command says it
        _STREAMS[format]((each for each in results if each.verdict or says_error), method)
    for each in takers:
        each.finish()
    tally.tell(scan)
    return tally.exit_code(scan, fail_on=args.fail_on)


def _method(args: argparse.Namespace, detector: Detector, model: str) -> Method:
    sha256 = sha256_of(detector.file) if detector.file else ""
    return Method(model, sha256, args.views, args.operating_point or "")


def _open_table(args: argparse.Namespace, scan: Scan, method: Method) -> Table | None:
    if not args.out:
        return None
    images = [str(path) for path in scan.images]
    format = chosen_format(args)
    return Table(args.out, format=format, method=method, images=images, overwrite=args.overwrite)


def _leave_out_sorted(scan: Scan, folder: SortedFolder) -> None:
    """Leave out images that an earlier run sorted. Raises ValueError when there are no others."""
    others = [path for path in scan.images if not folder.holds(str(path))]
    if not others:
        raise ValueError(f"{folder.path}: all images are inside; name another folder to sort them into")
    if num_sorted := len(scan.images) - len(others):
        scan.left_out[f"already in {folder.path}"] = num_sorted
        scan.images = others


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


def judge_files(
    detector: Detector, paths: list[Path], *, batch_size: int, known: dict[str, Verdict], keep: Sequence[Keep] = ()
) -> Iterator[Result]:
    """Yield what is found of each file, in their order. The same content is judged once.

    While a batch is judged, the next one is read. Of images only what the detector looks at is kept in memory.

    known   verdicts by the SHA-256 of files, which those that are found are added to
    keep    gets each file that was read, in another thread
    """
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    claimed = set(known)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(_see_batch, detector, batches[0], claimed, keep)
        for following in [*batches[1:], []]:
            results, seen = reading.result()
            reading = reader.submit(_see_batch, detector, following, claimed, keep)
            known |= zip(seen, detector.judge(list(seen.values())), strict=True)
            yield from (each if each.error else replace(each, verdict=known[each.sha256]) for each in results)


def _see_batch(
    detector: Detector, paths: list[Path], claimed: set[str], keep: Sequence[Keep]
) -> tuple[list[Result], dict[str, Seen]]:
    """Return results without verdicts, and what the detector looks at of the contents that none has claimed."""
    results, seen = [], {}
    for path in paths:
        sha256, error = "", ""
        try:
            encoded = read_image(path)
            sha256 = hashlib.sha256(encoded).hexdigest()
            if sha256 not in claimed:
                seen[sha256] = detector.see(encoded)
                claimed.add(sha256)
        except UnreadableImage as refused:
            error = str(refused)
        except OSError as refused:
            error = refused.strerror or str(refused)
        except MemoryError:
            error = "not enough memory to judge it"
        if sha256:
            for each in keep:
                each(str(path), sha256, encoded)
        results.append(Result(str(path), sha256, None, error))
    return results, seen


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
