"""A run's folder: config.json, metrics.jsonl, unreadable.csv if need be, and the detector file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

DETECTOR = "detector.safetensors"


class Run:
    """One training run on disk. Metrics are appended as they come, so that a stopped run keeps them."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        """Makes the folder. Raises ValueError when it holds a finished run and `overwrite` is not set."""
        if (folder / DETECTOR).exists() and not overwrite:
            raise ValueError(
                f"{folder} holds a finished run; name another --out, or pass --overwrite to replace it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.detector = folder / DETECTOR
        self._metrics = folder / "metrics.jsonl"
        self._unreadable = folder / "unreadable.csv"
        self._named: set[str] = set()
        for left_over in (self.detector, self._metrics, self._unreadable):
            left_over.unlink(missing_ok=True)

    def write_config(self, config: dict[str, Any]) -> None:
        (self.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def log(self, **values: Any) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def log_unreadable(self, uri: str, reason: str) -> bool:
        """Names an image once, however many epochs meet it; False when it was named before."""
        if uri in self._named:
            return False
        self._named.add(uri)
        with self._unreadable.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([uri, reason])
        return True
