"""Records on their way to the journal, read as journald would."""

from __future__ import annotations

import logging
import os
import socket
import threading

import pytest

from edgeinfer.service.journal import JournalHandler, PrefixHandler, configure_logging, priority_of


def parse(datagram: bytes) -> dict[str, str]:
    """systemd's native protocol."""
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8 : 8 + size].decode()
        assert rest[8 + size : 9 + size] == b"\n"
        datagram = rest[9 + size :]
    return fields


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        handler = JournalHandler(path)
        logger = logging.getLogger("edgeinfer.test")
        logger.addHandler(handler)
        yield logger, lambda: parse(heard.recv(1 << 20))
        logger.removeHandler(handler)
        handler.close()


def test_a_record_becomes_an_entry_with_its_priority_and_fields(journal):
    logger, read = journal
    thread = threading.Thread(target=logger.warning, args=("camera %s\nis away", "0"), name="pipeline door")
    thread.start()
    thread.join()
    entry = read()
    assert entry["MESSAGE"] == "camera 0\nis away"
    assert entry["PRIORITY"] == "4"
    assert entry["SYSLOG_IDENTIFIER"] == "edgeinfer"
    assert entry["LOGGER"] == "edgeinfer.test"
    assert entry["EDGEINFER_PIPELINE"] == "door"
    assert entry["SYSLOG_PID"] == str(os.getpid())


def test_a_traceback_is_part_of_its_entry(journal):
    logger, read = journal
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        logger.exception("a bug")
    entry = read()
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].startswith("a bug\nTraceback")
    assert entry["MESSAGE"].endswith("ZeroDivisionError: oops")


def test_a_message_longer_than_a_datagram_is_cut_off(journal):
    logger, read = journal
    logger.error("x" * 1_000_000)
    assert 40_000 < len(read()["MESSAGE"]) < 60_000


def test_without_a_journal_lines_begin_with_their_priority(capsys, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        JournalHandler(tmp_path / "none")
    configure_logging(debug=False, environment={"JOURNAL_STREAM": "1:2"})
    logger = logging.getLogger("edgeinfer")
    assert [type(handler) for handler in logger.handlers] == [PrefixHandler]
    logger.warning("two\nlines")
    logger.debug("not said")
    assert capsys.readouterr().err == "<4>two\n<4>lines\n"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priorities_are_those_of_syslog(level, priority):
    assert priority_of(level) == priority
