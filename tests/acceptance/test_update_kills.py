"""Updates are ended by kill -9 and by power cuts in every state: a valid model is active, and never one that was
refused. At length: scripts/update_kills."""

from __future__ import annotations

import pytest

from tests.disk.faulty_disk import NoCompiler
from tests.disk.update_cuts import cut_updates
from tests.disk.update_lives import STATES, kill_rounds


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kill_9_in_every_state_leaves_a_valid_model_active():
    tally = kill_rounds(2)
    assert tally.wrong == []
    assert tally.kills == dict.fromkeys(STATES, 2)


def cuts(*arguments: int, **options: str):
    try:
        return cut_updates(*arguments, **options)
    except NoCompiler as missing:
        pytest.skip(str(missing))


def test_a_power_cut_in_every_state_leaves_a_valid_model_active():
    tally = cuts(120)
    assert tally.wrong == []
    assert tally.cuts == 120
    assert tally.blobs > 500


def test_a_store_that_did_not_sync_its_steps_would_be_found_out():
    assert len(cuts(60, synchronous="OFF").wrong) > 5
