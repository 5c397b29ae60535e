"""How a serving gate tells what went wrong."""

import json
import logging
from datetime import UTC, datetime

from rich.logging import RichHandler

from toolgate.cli.output import err


def log_to_stderr(*, as_json: bool) -> None:
    """Tell warnings and errors: to a person, or as JSON lines to a program."""
    handler: logging.Handler = RichHandler(console=err(), show_path=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if as_json:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def log_each_request(*, as_json: bool) -> None:
    """Tell what a server of few requests does, too: one line each, which nothing breaks in two."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("toolgate").setLevel(logging.INFO)


class _JsonLines(logging.Formatter):
    """One JSON object a line, whatever is in the message."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)
