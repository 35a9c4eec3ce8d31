"""Log lines for machines and people: logfmt or JSON on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
FORMATS = ("logfmt", "json")


def configure(level: str, log_format: str) -> None:
    """Send the program's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Logfmt())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    # Their own notices ("run of job missed", "connection pool is full") are told by our own readings, once.
    for noisy in ("apscheduler", "urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, str]:
    fields = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": {"WARNING": "warn", "CRITICAL": "error"}.get(record.levelname, record.levelname.lower()),
        "msg": record.getMessage(),
    }
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    return fields


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in _fields(record, self).items())


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record, self), ensure_ascii=False)


def _quoted(value: str) -> str:
    """Quote what would break a line or a field: no input can forge a second line."""
    return value if value and all(32 < ord(each) < 127 and each not in '="\\' for each in value) else json.dumps(value)
