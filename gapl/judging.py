"""Judge the images that a user names, and write what was found of each."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from gapl.cli import printable
from gapl.decode import UnreadableImage, allow_pixels
from gapl.detector import Detector, Seen, read_image
from gapl.files.checksum import sha256_of
from gapl.folders import Scan, counted
from gapl.options import CSV, JSON, JSONL, TEXT, chosen_format
from gapl.origin import read_origin
from gapl.results import COLUMNS, Result, Table, csv_line, csv_row
from gapl.verdict import Verdict

log = logging.getLogger(__name__)

ALL_JUDGED, SOME_JUDGED, FOUND = 0, 1, 3  # exit codes; 2 is that of every error
LABELS = ("fake", "real", "unsure")
UNREADABLE = "unreadable"  # what is counted beside them

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
    allow_pixels(args.max_megapixels)
    table, tally = _open_table(args, detector, model), _Tally()
    known = table.verdicts() if table else {}
    results = tally.count(
        watch(judge_files(detector, scan.images, batch_size=batch_size, known=known, explain=args.explain))
    )
    if table:
        for result in results:
            table.add(result.row(model=model))
        table.finish()
    else:
        _STREAMS[chosen_format(args)](results, model, write)
    tally.tell(scan)
    return tally.exit_code(scan, fail_on=args.fail_on)


def _open_table(args: argparse.Namespace, detector: Detector, model: str) -> Table | None:
    """Return the table that was asked for; it goes on only with the detector and options that it began with."""
    if not args.out:
        return None
    sha256 = sha256_of(detector.file) if detector.file else ""
    options = {"operating_point": args.operating_point, "views": args.views}
    asked = {"model": model, "sha256": sha256, **options}
    return Table(args.out, format=chosen_format(args), asked=asked, overwrite=args.overwrite)


class _Tally:
    """How many images were called what."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failure = ""  # the last image that could not be read, and why

    def count(self, results: Iterable[Result]) -> Iterator[Result]:
        """Count results on their way."""
        for result in results:
            self.counts[result.verdict.label if result.verdict else UNREADABLE] += 1
            self.failure = self.failure if result.verdict else f"{printable(result.path)}: {result.error}"
            yield result

    def tell(self, scan: Scan) -> None:
        """Log in one line how many images were called what, and what was left out or could not be looked at."""
        for line in scan.unreachable:
            log.warning("not looked at: %s", printable(line))
        if len(scan.images) == 1 and not scan.left_out:
            return
        judged = sum(self.counts.values()) - self.counts[UNREADABLE]
        parts = [f"{judged} images judged: {', '.join(f'{self.counts[each]} {each}' for each in LABELS)}"]
        if self.counts[UNREADABLE]:
            parts.append(f"{self.counts[UNREADABLE]} could not be read")
        if scan.left_out:
            parts.append(f"left out: {counted(scan.left_out)}")
        log.info("%s", "; ".join(parts))

    def exit_code(self, scan: Scan, *, fail_on: str | None) -> int:
        """Return the exit code. Raises ValueError when no image could be read."""
        failed = self.counts[UNREADABLE]
        if failed == len(scan.images):
            none = f"none of the {failed} images could be read"
            raise ValueError(self.failure if failed == 1 else none)
        if fail_on and (self.counts["fake"] or (fail_on == "unsure" and self.counts["unsure"])):
            return FOUND
        return SOME_JUDGED if failed or scan.unreachable else ALL_JUDGED


# ---------------------------------------------------------------------------------------------------------
# Judging


def judge_files(
    detector: Detector, paths: list[Path], *, batch_size: int, known: dict[str, Verdict], explain: bool = False
) -> Iterator[Result]:
    """Yield what is found of each file, in their order. The same content is judged once.

    While a batch is judged, the next one is read. Of images only what the detector looks at is kept in memory.

    known    verdicts by the SHA-256 of files, which those that are found are added to
    explain  also read what each file says about its origin
    """
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    claimed = set(known)
    see = partial(_see_batch, detector, claimed=claimed, explain=explain)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(see, batches[0])
        for following in [*batches[1:], []]:
            results, seen = reading.result()
            reading = reader.submit(see, following)
            known |= zip(seen, detector.judge(list(seen.values())), strict=True)
            yield from (each if each.error else replace(each, verdict=known[each.sha256]) for each in results)


def _see_batch(
    detector: Detector, paths: list[Path], *, claimed: set[str], explain: bool
) -> tuple[list[Result], dict[str, Seen]]:
    """Return results without verdicts, and what the detector looks at of the contents that none has claimed."""
    results, seen = [], {}
    for path in paths:
        sha256, error, origin = "", "", None
        try:
            encoded = read_image(path)
            sha256 = hashlib.sha256(encoded).hexdigest()
            origin = tuple(read_origin(encoded)) if explain else None
            if sha256 not in claimed:
                seen[sha256] = detector.see(encoded)
                claimed.add(sha256)
        except UnreadableImage as refused:
            error = str(refused)
        except OSError as refused:
            error = refused.strerror or str(refused)
        except MemoryError:
            error = "not enough memory to judge it"
        results.append(Result(str(path), sha256, None, error, origin))
    return results, seen


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
    write(csv_line(COLUMNS))
    for result in results:
        write(csv_line(csv_row(result.row(model=model))))


_STREAMS = {TEXT: _write_text, JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv}
