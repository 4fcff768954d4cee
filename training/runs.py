"""The folder of a run.

config.json     the recipe, the data, and everything else that the run started from
metrics.jsonl   a line for each step and each validation
validation.csv  the last validation: accuracy of each generator and real source
scores_*.csv    the last validation: the score of each image, for each validation set
curves.png      learning curves
unreadable.csv  the images that could not be read, if there were any
checkpoints     the newest checkpoints, while the run is not finished
detector.safetensors   the detector, when the run is finished
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapl.files.atomic import replacing
from gapl.names import DETECTOR_NAME
from training.state import TrainingState, read_state, write_state

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2
CHECKPOINT_NAME = re.compile(r"step_(\d{8})\.safetensors")


class Run:
    """One training run on disk. Before it trains, `resume` continues what the folder holds or `clear` removes it.

    settings   what must be the same for a stopped run to continue
    writes     whether this process writes; of several processes one does, and the others read the same folder
    state      the checkpoint that training continues from, after `resume`
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, Any] | None = None, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.settings = json.loads(json.dumps(settings or {}))  # as they come back from a file
        self.state: TrainingState | None = None
        self.detector = folder / DETECTOR_NAME
        self.curves = folder / "curves.png"
        self.validation = folder / "validation.csv"
        self.metrics = folder / "metrics.jsonl"
        self._unreadable = folder / "unreadable.csv"
        self._checkpoints = folder / CHECKPOINTS
        self._named: set[str] = set()

    def resume(self) -> None:
        """Continue a run that was stopped, or start one in a new folder.

        Whatever a stopped run wrote after its last checkpoint is removed; without a checkpoint, all of it.
        Raises ValueError when the folder holds a finished run, or one of other settings.
        """
        if self.writes and self.detector.exists():
            raise ValueError(
                f"{self.folder} holds a finished run; name another --out, or pass --overwrite to replace it"
            )
        self.state = self._last_state()
        if self.state is None:
            self.clear()
            return
        self._require_same_settings(self.state)
        self._rewind(self.state)

    def clear(self) -> None:
        """Remove whatever an earlier run left in the folder, and make the folder."""
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        scores = self.folder.glob("scores_*.csv")
        for path in (self.detector, self.metrics, self._unreadable, self.validation, self.curves, *scores):
            path.unlink(missing_ok=True)
        self._remove_checkpoints()

    def _remove_checkpoints(self) -> None:
        for path in (*self._checkpoint_files(), *self._checkpoints.glob(".*.tmp")):
            path.unlink()
        with suppress(OSError):  # it is not there, or has other files
            self._checkpoints.rmdir()

    def _rewind(self, state: TrainingState) -> None:
        """Cut the text files to their sizes at a checkpoint, and remove what a process was saving when it died."""
        if self.writes:
            for half_written in self._checkpoints.glob(".*.tmp"):
                half_written.unlink()
            for path in (self.metrics, self._unreadable):
                if path.exists() and path.stat().st_size > state.sizes[path.name]:
                    os.truncate(path, state.sizes[path.name])
        if self._unreadable.exists():
            with self._unreadable.open(encoding="utf-8", newline="") as file:
                self._named = {row[0] for row in csv.reader(file)}

    def _last_state(self) -> TrainingState | None:
        """Read the newest checkpoint that is sound."""
        reason = None
        for path in reversed(self._checkpoint_files()):
            try:
                state = read_state(path)
            except (ValueError, OSError) as error:
                reason = error
                log.warning("a checkpoint is skipped: %s", error)
            else:
                return state
        if reason is not None:
            raise ValueError(
                f"{self.folder}: none of its checkpoints can be read ({reason}); pass --overwrite to start again"
            )
        return None

    def _require_same_settings(self, state: TrainingState) -> None:
        before, now = state.settings, self.settings
        different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if different:
            name = different[0]
            raise ValueError(
                f"{self.folder} holds a run that was stopped at step {state.position.step} and had {name} "
                f"{before.get(name)!r}, not {now.get(name)!r}; give the same command to continue, name another "
                "--out, or pass --overwrite to start again"
            )

    def save(self, state: TrainingState) -> Path:
        """Write a checkpoint, then remove all but the newest ones."""
        texts = (self.metrics, self._unreadable)
        state.sizes = {path.name: path.stat().st_size if path.exists() else 0 for path in texts}
        state.settings = self.settings
        path = self._checkpoints / f"step_{state.position.step:08d}.safetensors"
        write_state(path, state)
        for old in self._checkpoint_files()[:-KEPT_CHECKPOINTS]:
            old.unlink()
        return path

    def _checkpoint_files(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(path for path in self._checkpoints.glob("*") if CHECKPOINT_NAME.fullmatch(path.name))

    def finish(self) -> None:
        """Remove the checkpoints, which nobody needs once the detector is saved."""
        self._remove_checkpoints()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json."""
        with replacing(self.folder / "config.json") as scratch:
            scratch.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl, so that a run that is stopped keeps it."""
        if self.writes:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def write_validation(self, metrics: Mapping[str, Any]) -> None:
        """Write the last validation as a table: a row for each generator and real source of each set."""
        if not self.writes:
            return
        with replacing(self.validation) as scratch, scratch.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["part", "class", "source", "images", "accuracy"])
            for part, of_part in metrics.items():
                for kind, sources in of_part.get("sources", {}).items():
                    for source, row in sources.items():
                        writer.writerow([part, kind, source, row["images"], f"{row['accuracy']:.4f}"])

    def write_scores(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Write the last validation's scores of a validation set, a row for each image: benchmarks.py reads it."""
        if not self.writes or not rows:
            return
        path = self.folder / f"scores_{part}.csv"
        with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def log_unreadable(self, uri: str, reason: str) -> bool:
        """Name an image in unreadable.csv, once; return False when it was named before."""
        if uri in self._named or not self.writes:
            return False
        self._named.add(uri)
        with self._unreadable.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([uri, reason])
        return True


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written: every so many minutes, or every so many steps if `steps` is not 0."""

    minutes: float = 5.0
    steps: int = 0


@dataclass(frozen=True)
class RunContext:
    """Where and how a run trains. Only the number of parts of a stream changes what is learnt.

    stream_parts   of a stream of shards; the order of its images depends on it
    feature_cache  folder of cached features; None: `features` in the cache folder
    profile        measure where the time of a step goes
    """

    accelerator: Accelerator
    run: Run
    saving: Saving = Saving()
    stream_parts: int = 1
    feature_cache: Path | None = None
    profile: bool = False
