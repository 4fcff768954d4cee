"""The tally of a run: how many images were called what, what was left out, how long it took, the exit code."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection

from gapl.cli import printable
from gapl.folders import counted
from gapl.inputs.scan import Scan
from gapl.results import Result
from gapl.verdict import LABELS

log = logging.getLogger(__name__)

ALL_JUDGED, SOME_JUDGED, FOUND = 0, 1, 3  # exit codes; 2 is that of every error


class Tally:
    """Counts the results of a run from its start on."""

    def __init__(self, known: Collection[str] = ()) -> None:
        """Start the clock.

        known   SHA-256 of the files that an earlier run has judged
        """
        self._known = known
        self._start = time.monotonic()
        self._labels: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()  # by reason
        self._num_known = self._num_duplicates = 0
        self._failure = ""  # the last image that could not be read, and why

    def add(self, result: Result) -> None:
        """Count a result."""
        if result.verdict is None:
            self._unreadable[result.error.partition(":")[0]] += 1  # without the details of each
            self._failure = f"{printable(result.path)}: {result.error}"
            return
        self._labels[result.verdict.label] += 1
        self._num_known += result.sha256 in self._known
        self._num_duplicates += bool(result.duplicate_of)

    def tell(self, scan: Scan) -> None:
        """Log how many images were called what, how fast, and what was left out or could not be looked at."""
        for line in scan.unreachable:
            log.warning("not looked at: %s", printable(line))
        if len(scan.images) > 1 or scan.left_out:
            for line in self._lines(scan):
                log.info("%s", printable(line))

    def _lines(self, scan: Scan) -> list[str]:
        seconds = time.monotonic() - self._start
        judged = self._labels.total()
        labels = ", ".join(f"{self._labels[each]} {each}" for each in LABELS)
        duplicates = f"; duplicates among them: {self._num_duplicates}" if self._num_duplicates else ""
        lines = [f"{judged} image{'s' * (judged != 1)} judged: {labels}{duplicates}"]
        if self._unreadable:
            lines.append(f"{self._unreadable.total()} could not be read: {counted(self._unreadable)}")
        if scan.left_out:
            lines.append(f"left out: {counted(scan.left_out)}")
        before = ", without those judged before" if self._num_known else ""
        rate = (judged - self._num_known) / seconds
        return [*lines, f"{seconds:.1f} s, {rate:.1f} images/s{before}"]

    def exit_code(self, scan: Scan, *, fail_on: str | None) -> int:
        """Return the exit code. Raises ValueError when no image could be read."""
        failed = self._unreadable.total()
        if failed == len(scan.images):
            raise ValueError(self._failure if failed == 1 else f"none of the {failed} images could be read")
        if fail_on and (self._labels["fake"] or (fail_on == "unsure" and self._labels["unsure"])):
            return FOUND
        return SOME_JUDGED if failed or scan.unreachable else ALL_JUDGED
