"""Log on standard output, as JSON or in a terminal as text.

Logs have no patient data: no file names, no pixels, no query strings.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from core.terminal import printable

LOGGER = logging.getLogger("defunet.serve")


class JsonLines(logging.Formatter):
    """Format a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, event, the record's fields, and the traceback, if any."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Text(logging.Formatter):
    """Format a record as text for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: local time, event, the record's fields that have a value, and the traceback, if any."""
        fields = [f"{name} {value}" for name, value in getattr(record, "fields", {}).items() if value not in (None, [])]
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = printable(f"{when}  {level}{record.getMessage()}  {', '.join(fields)}".rstrip())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str) -> None:
    """Send the records of the service and of uvicorn to standard output: text to a terminal, else JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Text() if sys.stdout.isatty() else JsonLines())
    for name in ("defunet.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())


def say(event: str, level: int = logging.INFO, exc_info: Any = None, **fields: Any) -> None:
    """Log an event with fields."""
    LOGGER.log(level, event, exc_info=exc_info, extra={"fields": fields})
