"""Logs to systemd's journal, with priorities and fields; elsewhere to stderr, with the priority in front."""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

JOURNAL = Path("/run/systemd/journal/socket")

# What a datagram carries without further ado; of a longer message the end is cut off.
_MESSAGE_BYTES_MAX = 48 << 10
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_PIPELINE_THREAD = "pipeline "


class JournalHandler(logging.Handler):
    """Each record as an entry of its own with PRIORITY, LOGGER, THREAD, CODE_FILE, CODE_LINE, CODE_FUNC, and
    EDGEINFER_PIPELINE where it comes from one; a traceback is part of the message, not an entry per line."""

    def __init__(self, path: Path = JOURNAL) -> None:
        """Raises OSError where there is no journal."""
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.send(b"".join(_encoded(name, value) for name, value in fields_of(record)))
        except OSError:
            with suppress(OSError):  # The journal is being restarted, and stderr leads to it as well.
                sys.stderr.write(prefixed(record))

    def close(self) -> None:
        self._socket.close()
        super().close()


class PrefixHandler(logging.Handler):
    """Lines on stderr that begin with their priority, as in `<4>`: see sd-daemon(3)."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            sys.stderr.write(prefixed(record))
            sys.stderr.flush()


def configure_logging(*, debug: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Logs of this package to where stderr leads: the journal, or a reader of prefixes."""
    handler: logging.Handler = PrefixHandler()
    if _leads_to_journal(environment.get("JOURNAL_STREAM", "")):
        with suppress(OSError):
            handler = JournalHandler()
    logger = logging.getLogger("edgeinfer")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def priority_of(level: int) -> int:
    """syslog's number for a level of logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", _message(record)
    yield "PRIORITY", str(priority_of(record.levelno))
    yield "SYSLOG_IDENTIFIER", "edgeinfer"
    yield "SYSLOG_PID", str(os.getpid())
    yield "LOGGER", record.name
    yield "THREAD", record.threadName or ""
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName
    pipeline = (record.threadName or "").partition(_PIPELINE_THREAD)[2]
    if pipeline:
        yield "EDGEINFER_PIPELINE", pipeline


def prefixed(record: logging.LogRecord) -> str:
    """The message with its priority before each line."""
    return "".join(f"<{priority_of(record.levelno)}>{line}\n" for line in _message(record).splitlines() or [""])


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return message


def _encoded(name: str, value: str) -> bytes:
    """As in systemd's native protocol: by its length, since a value may hold line feeds."""
    content = value.encode(errors="backslashreplace")[:_MESSAGE_BYTES_MAX]
    return name.encode() + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"


def _leads_to_journal(stream: str) -> bool:
    """Whether stderr is the stream that systemd connected to the journal: `device:inode`."""
    try:
        there = os.fstat(2)
    except OSError:
        return False
    return stream == f"{there.st_dev}:{there.st_ino}"
