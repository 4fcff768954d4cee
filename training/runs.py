"""A run's folder: config.json, metrics.jsonl, validation.csv, scores_*.csv of the images that validated,
curves.png, checkpoints, and the detector file.

unreadable.csv is there when images could not be read.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from files.atomic import replacing
from models.weights.names import DETECTOR_NAME
from training.state import TrainingState, read_state, write_state

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2
CHECKPOINT_NAME = re.compile(r"step_(\d{8})\.safetensors")


class Run:
    """One training run on disk. Metrics are appended as they come, so that a stopped run keeps them.

    Of several processes one writes (`writes`); the others read the same folder.
    """

    def __init__(
        self, folder: Path, *, settings: dict[str, Any] | None = None, overwrite: bool = False, writes: bool = True
    ) -> None:
        """Makes the folder, or opens that of a run that was stopped, which must have had the same `settings`.

        Raises ValueError when it holds a finished run, or one of other settings, and `overwrite` is not set.
        """
        self.folder, self.writes = folder, writes
        self.settings = json.loads(json.dumps(settings or {}))  # as they come back from a file
        self.detector = folder / DETECTOR_NAME
        self.curves = folder / "curves.png"
        self.validation = folder / "validation.csv"
        self.metrics = folder / "metrics.jsonl"
        self._unreadable = folder / "unreadable.csv"
        self._checkpoints = folder / CHECKPOINTS
        self._named: set[str] = set()
        if self.detector.exists() and not overwrite and writes:
            raise ValueError(
                f"{folder} holds a finished run; name another --out, or pass --overwrite to replace it"
            )
        self.state = None if overwrite else self._last_state()
        if self.state is not None:
            self._require_same_settings(self.state)
        if writes:
            self._clean_up()

    def _last_state(self) -> TrainingState | None:
        """The newest checkpoint that can be read."""
        reason = None
        for path in reversed(self._checkpoint_files()):
            try:
                state = read_state(path)
            except (ValueError, OSError) as error:
                reason = error
                log.warning("a checkpoint is passed over: %s", error)
            else:
                return state
        if reason is not None:
            raise ValueError(
                f"{self.folder}: none of its checkpoints can be read ({reason}); pass --overwrite to start anew"
            )
        return None

    def _require_same_settings(self, state: TrainingState) -> None:
        before, now = state.settings, self.settings
        different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if different:
            name = different[0]
            raise ValueError(
                f"{self.folder} holds a run that was stopped at step {state.position.step} and had {name} "
                f"{before.get(name)!r}, not {now.get(name)!r}; give the same command to go on, name another "
                "--out, or pass --overwrite to start anew"
            )

    def _clean_up(self) -> None:
        """What a run without a checkpoint left is removed; what one wrote after its last checkpoint is cut off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for half_written in self._checkpoints.glob(".*.tmp"):  # a process was killed while it saved
            half_written.unlink()
        if self.state is None:
            scores = self.folder.glob("scores_*.csv")
            for path in (self.detector, self.metrics, self._unreadable, self.validation, self.curves, *scores):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._checkpoints, ignore_errors=True)
            return
        for path in (self.metrics, self._unreadable):
            size = self.state.sizes[path.name]
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        if self._unreadable.exists():
            with self._unreadable.open(encoding="utf-8", newline="") as file:
                self._named = {row[0] for row in csv.reader(file)}

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint, then removes all but the newest ones."""
        texts = (self.metrics, self._unreadable)
        state.sizes = {path.name: path.stat().st_size if path.exists() else 0 for path in texts}
        state.settings = self.settings
        path = self._checkpoints / f"step_{state.position.step:08d}.safetensors"
        write_state(path, state)
        for old in self._checkpoint_files()[:-KEPT_CHECKPOINTS]:
            old.unlink()
        return path

    def _checkpoint_files(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self._checkpoints.glob("*") if CHECKPOINT_NAME.fullmatch(path.name))

    def finish(self) -> None:
        """The detector is saved: checkpoints have served."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def write_config(self, config: dict[str, Any]) -> None:
        (self.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def log(self, **values: Any) -> None:
        if self.writes:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def write_validation(self, parts: dict[str, Any]) -> None:
        """The last validation as a table: a row for each generator and photo source of each part."""
        if not self.writes:
            return
        with replacing(self.validation) as scratch, scratch.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["part", "class", "source", "images", "accuracy"])
            for part, metrics in parts.items():
                for kind, sources in metrics.get("sources", {}).items():
                    for source, row in sources.items():
                        writer.writerow([part, kind, source, row["images"], f"{row['accuracy']:.4f}"])

    def write_scores(self, part: str, rows: list[dict[str, Any]]) -> None:
        """The last validation's scores of a part, an image a row: a table that benchmarks.py reads."""
        if not self.writes or not rows:
            return
        path = self.folder / f"scores_{part}.csv"
        with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def log_unreadable(self, uri: str, reason: str) -> bool:
        """Names an image once, however many epochs meet it; False when it was named before."""
        if uri in self._named or not self.writes:
            return False
        self._named.add(uri)
        with self._unreadable.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([uri, reason])
        return True
