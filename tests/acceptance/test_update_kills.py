"""Updates are ended by kill -9 and by power cuts in every state: a valid model is active, and never one that was
refused. At length: scripts/update_kills."""

from __future__ import annotations

import pytest

from edgeinfer.updates.store import Store
from tests.disk import faulty_disk
from tests.disk.faulty_disk import NoCompiler
from tests.disk.update_cuts import cut_updates
from tests.disk.update_lives import STATES, kill_rounds
from tests.releases import tiny_files, write_bundle


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


FILLS_UP = """
import errno, sys
from pathlib import Path
from edgeinfer.updates.store import Store
from tests.disk.faulty_disk import Fault, fail
from tests.releases import Shelf, tiny_files

store, shelf = Store(Path(sys.argv[1])), Shelf()
installed = store.offer(shelf.put(tiny_files(1), 1))
store.fetch(installed, shelf.fetch)
store.verified("detector")
store.begin_canary("detector")
store.pass_canary("detector", "well")
fail(Fault.GROW, errno.ENOSPC)
for _ in range(50):
    assert store.begin_trial("detector") is not None
    store.leave_trial("detector")
assert store.begin_trial("detector") is not None
store.roll_back("detector", "it was slow " * 40)
print(store.state("detector").step, store.active("detector").release)
"""


def test_a_model_on_trial_is_undone_on_a_full_disk(tmp_path):
    folder = tmp_path / "store"
    store = Store(folder)
    store.add(write_bundle(tmp_path / "factory", tiny_files(0)), "detector")
    store.close()
    try:
        said = faulty_disk.run(["-c", FILLS_UP, str(folder)], folder)
    except NoCompiler as missing:
        pytest.skip(str(missing))
    assert said == "rolled_back 0\n"
