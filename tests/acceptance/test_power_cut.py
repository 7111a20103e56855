"""The power goes at any moment: what the spool has accepted is there afterwards. At length: scripts/power_cut."""

from __future__ import annotations

import pytest

from tests.disk.faulty_disk import NoCompiler
from tests.disk.spool_cuts import cut_rounds


def rounds(*arguments: int, **options: object):
    try:
        return cut_rounds(*arguments, **options)
    except NoCompiler as missing:
        pytest.skip(str(missing))


def test_nothing_that_was_accepted_is_lost_and_no_number_is_given_twice():
    tally = rounds(6, 400, 12)
    assert tally.wrong == []
    assert not tally.lost
    assert tally.rows > 2000
    assert tally.cuts == 72


def test_a_spool_that_did_not_sync_its_commits_would_be_found_out():
    assert len(rounds(1, 400, 12, synchronous="NORMAL").lost) > 10
