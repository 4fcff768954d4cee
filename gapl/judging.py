"""Judge the images that a user names, and write what was found of each."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from gapl.decode import UnreadableImage
from gapl.detector import Detector, read_image
from gapl.files.checksum import sha256_of
from gapl.folders import Scan
from gapl.options import CSV, JSON, JSONL, TEXT, chosen_format
from gapl.results import COLUMNS, Result, Table, csv_row, printable
from gapl.verdict import Verdict

log = logging.getLogger(__name__)

ALL_JUDGED, SOME_JUDGED, FOUND = 0, 1, 3  # exit codes; 2 is that of every error
UNREADABLE = "unreadable"  # what is counted beside the labels

Write = Callable[[str], object]
Watch = Callable[[Iterable[Result]], Iterable[Result]]


def write_results(
    detector: Detector,
    scan: Scan,
    args: argparse.Namespace,
    *,
    model: str,
    batch_size: int = 1,
    write: Write = print,
    watch: Watch = iter,
) -> int:
    """Judge images, write what was found as the options of gapl/options.py ask, and return the exit code.

    model  what results call the detector
    write  writes lines to stdout
    watch  gets the results on their way, such as to show how many there are

    Raises ValueError when none of the images can be read, and as `Table` does.
    """
    format = chosen_format(args)
    file = Path(model)
    asked = {
        "model": model,
        "sha256": sha256_of(file) if args.out and file.is_file() else "",
        "operating_point": args.operating_point,
        "views": args.views,
    }
    table = Table(args.out, format=format, asked=asked, overwrite=args.overwrite) if args.out else None
    known = table.verdicts() if table else {}
    counts: Counter[str] = Counter()
    failure = ""

    def counted() -> Iterator[Result]:
        nonlocal failure
        for result in watch(judge_files(detector, scan.images, batch_size=batch_size, known=known)):
            counts[result.verdict.label if result.verdict else UNREADABLE] += 1
            failure = failure if result.verdict else f"{printable(result.path)}: {result.error}"
            yield result

    if table:
        for result in counted():
            table.add(result.row(model=model))
        table.finish()
    else:
        _STREAMS[format](counted(), model, write)
    _tell(scan, counts)
    if counts[UNREADABLE] == len(scan.images):
        none = f"none of the {len(scan.images)} images could be read"
        raise ValueError(failure if len(scan.images) == 1 else none)
    if args.fail_on and (counts["fake"] or (args.fail_on == "unsure" and counts["unsure"])):
        return FOUND
    return SOME_JUDGED if counts[UNREADABLE] or scan.unreachable else ALL_JUDGED


def _tell(scan: Scan, counts: Counter[str]) -> None:
    """Log in one line how many images were called what, and what was left out or could not be looked at."""
    for line in scan.unreachable:
        log.warning("not looked at: %s", printable(line))
    if len(scan.images) == 1 and not scan.left_out:
        return
    labels = ", ".join(f"{counts[label]} {label}" for label in ("fake", "real", "unsure"))
    parts = [f"{sum(counts.values()) - counts[UNREADABLE]} images judged: {labels}"]
    if counts[UNREADABLE]:
        parts.append(f"{counts[UNREADABLE]} could not be read")
    if scan.left_out:
        parts.append("left out: " + ", ".join(f"{count} x {why}" for why, count in sorted(scan.left_out.items())))
    log.info("%s", "; ".join(parts))


# ---------------------------------------------------------------------------------------------------------
# Judging


def judge_files(
    detector: Detector, paths: list[Path], *, batch_size: int, known: dict[str, Verdict]
) -> Iterator[Result]:
    """Yield what is found of each file, in their order. The same content is judged once.

    Of a batch only what the detector looks at is kept in memory, and not the images.

    known   verdicts by the SHA-256 of files, which those that are found are added to
    """
    for start in range(0, len(paths), batch_size):
        results, seen = [], {}
        for path in paths[start : start + batch_size]:
            sha256, error = "", ""
            try:
                encoded = read_image(path)
                sha256 = hashlib.sha256(encoded).hexdigest()
                if sha256 not in known and sha256 not in seen:
                    seen[sha256] = detector.see(encoded)
            except UnreadableImage as refused:
                error = str(refused)
            except OSError as refused:
                error = refused.strerror or str(refused)
            results.append(Result(str(path), sha256, None, error))
        known |= zip(seen, detector.judge(list(seen.values())), strict=True)
        yield from (each if each.error else replace(each, verdict=known[each.sha256]) for each in results)


# ---------------------------------------------------------------------------------------------------------
# What goes to stdout


def _write_text(results: Iterable[Result], _model: str, write: Write) -> None:
    for result in results:
        write(result.text())


def _write_jsonl(results: Iterable[Result], model: str, write: Write) -> None:
    for result in results:
        write(json.dumps(result.row(model=model)))


def _write_json(results: Iterable[Result], model: str, write: Write) -> None:
    write("[")
    comma = ""
    for result in results:
        write(f"{comma}{json.dumps(result.row(model=model))}")
        comma = ","
    write("]")


def _write_csv(results: Iterable[Result], model: str, write: Write) -> None:
    for row in chain[list[object]]([[*COLUMNS]], (csv_row(result.row(model=model)) for result in results)):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(row)
        write(line.getvalue())


_STREAMS = {TEXT: _write_text, JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv}
