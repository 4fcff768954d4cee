"""Lines of JSON on stderr. Nothing of an image is in them, nor a message of an error, which may quote one."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FIELDS = "fields"  # the attribute of a record with what its line has besides


class JsonLines(logging.Formatter):
    """Makes a line of JSON of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Of an error it says the class, and where it was raised."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, FIELDS, {})
        if record.exc_info and (error := record.exc_info[1]):
            frames = traceback.extract_tb(error.__traceback__)
            places = [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames]
            line |= {"error": type(error).__name__, "raised_in": places}
        return json.dumps(line)


def log_as_json() -> None:
    """Have all that is logged be lines of JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())


def log_event(log: logging.Logger, event: str, **fields: Any) -> None:
    """Log an event at the level of information, with fields of its own."""
    log.info(event, extra={FIELDS: fields})
