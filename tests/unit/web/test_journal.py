"""The last events and log lines, in bounded memory."""

from __future__ import annotations

import logging

from edgeinfer.event import Happening
from edgeinfer.web.journal import EventJournal, LogTail


def event(label: str) -> Happening:
    at = "2026-11-22T04:00:00.000000Z"
    return Happening(node="n", pipeline="p", occurred_at=at, kind="appeared", label=label, count=1, result="r", seq=0)


def test_events_are_numbered_and_asked_for_by_what_is_new():
    journal = EventJournal()
    journal.add(event("cat"), None)
    journal.add(event("dog"), b"jpeg")
    assert [(each.number, each.event.label, each.has_picture) for each in journal.after(1)] == [(2, "dog", True)]
    assert (journal.picture(2), journal.picture(1), journal.last) == (b"jpeg", None, 2)


def test_the_oldest_events_go_and_their_pictures_before_them():
    journal = EventJournal()
    for number in range(1000):
        journal.add(event(str(number)), b"jpeg")
    kept = journal.after(0)
    assert (len(kept), kept[-1].number) == (100, 1000)
    assert sum(each.has_picture for each in kept) == 24
    assert journal.picture(976) is None
    assert journal.picture(977) is not None


def test_log_lines_are_one_line_each_cut_and_the_last_200(now):
    tail, logger = LogTail(now.clock.unix_ns), logging.getLogger("edgeinfer.test-of-log-tail")
    logger.addHandler(tail)
    try:
        for number in range(250):
            logger.warning("line %d\nmore of it %s", number, "x" * 1000)
    finally:
        logger.removeHandler(tail)
    lines = tail.after(0)
    assert (len(lines), lines[0].number, tail.last) == (200, 51, 250)
    assert lines[-1].message.startswith("line 249 more of it xxx")
    assert len(lines[-1].message) == 500
    assert tail.after(249) == lines[-1:]
