"""Judge the images that a user names, and write a line or lines for each: for readers, or as JSON."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from gapl.decode import UnreadableImage
from gapl.detector import Detector, Seen
from gapl.folders import Scan, counted
from gapl.verdict import Verdict

log = logging.getLogger(__name__)

Result = tuple[Path, Verdict | str]  # an image, and the verdict on it or the reason why it could not be read
ALL_JUDGED, SOME_JUDGED = 0, 1  # exit codes
UNREADABLE = "unreadable"  # what is counted beside the labels


def write_verdicts(
    detector: Detector,
    scan: Scan,
    *,
    show: Callable[..., str],
    batch_size: int = 1,
    write: Callable[[str], object] = print,
    watch: Callable[[Iterable[Result]], Iterable[Result]] = iter,
) -> int:
    """Judge images, write what `show` makes of each result, and log what was done. Return the exit code.

    show   to_text, or to_json with a model
    watch  gets the results on their way, such as to show how many there are

    Raises ValueError when none of the images can be read.
    """
    counts: Counter[str] = Counter()
    failure = ""
    for path, result in watch(_judge_files(detector, scan.images, batch_size)):
        counts[UNREADABLE if isinstance(result, str) else result.label] += 1
        failure = f"{printable(path)}: {result}" if isinstance(result, str) else failure
        write(show(path, result))
    for line in scan.unreachable:
        log.warning("not looked at: %s", printable(line))
    if len(scan.images) > 1 or scan.left_out:
        log.info("%s", _summary(counts, scan.left_out))
    if counts[UNREADABLE] == len(scan.images):
        none = f"none of the {len(scan.images)} images could be read"
        raise ValueError(failure if len(scan.images) == 1 else none)
    return SOME_JUDGED if counts[UNREADABLE] or scan.unreachable else ALL_JUDGED


def _summary(counts: Counter[str], left_out: dict[str, int]) -> str:
    """Return in one line how many images were called what, and how many files were left out."""
    labels = ", ".join(f"{counts[label]} {label}" for label in ("fake", "real", "unsure"))
    parts = [f"{sum(counts.values()) - counts[UNREADABLE]} images judged: {labels}"]
    if counts[UNREADABLE]:
        parts.append(f"{counts[UNREADABLE]} could not be read")
    if left_out:
        parts.append(f"left out: {counted(left_out)}")
    return "; ".join(parts)


def _judge_files(detector: Detector, paths: list[Path], batch_size: int) -> Iterator[Result]:
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        seen = [_see(detector, path) for path in batch]
        verdicts = iter(detector.judge([each for each in seen if isinstance(each, Seen)]))
        for path, each in zip(batch, seen, strict=True):
            yield path, each if isinstance(each, str) else next(verdicts)


def _see(detector: Detector, path: Path) -> Seen | str:
    """Return what the detector sees of an image, or the reason why it cannot be read."""
    try:
        return detector.see(path)
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def to_json(path: Path, result: Verdict | str, *, model: str) -> str:
    """Return one line of JSON, in ASCII, for a verdict, or for the reason why there is none."""
    shown = {"error": result} if isinstance(result, str) else asdict(result)
    return json.dumps({"path": str(path), **shown, "model": model})


def to_text(path: Path, result: Verdict | str) -> str:
    """Return the lines for a reader about a verdict, or about the reason why there is none."""
    if isinstance(result, str):
        return f"[ERROR] Image: {printable(path)}\n  -> {result}"
    unsure = f"Unsure (leans to {result.likelier.capitalize()})"
    prediction = {"fake": "Fake (AI-Generated)", "real": "Real", "unsure": unsure}[result.label]
    lines = [
        f"[RESULT] Image: {printable(path)}",
        f"  -> Prediction: {prediction}",
        f"  -> Confidence: {result.confidence:.1%}",
        *(f"  -> Warning: {warning}" for warning in result.warnings),
    ]
    return "\n".join(lines)


def printable(path: Path | str) -> str:
    """Return a path with escapes for what cannot be shown, such as line ends: a name must not forge a line."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(path))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{os.fsencode(character)[0]:02x}"
    return character.encode("unicode_escape").decode()
