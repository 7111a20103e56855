"""Files that survive a power cut, and what one leaves beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.clock import Clock
from edgeinfer.delegates.memory import Memory
from edgeinfer.durable import replace_file, sweep
from edgeinfer.service.install import Write
from edgeinfer.uplink.consumer import Consumer
from edgeinfer.uplink.session import Sessions

DIES = """
import os, pathlib, signal, sys
from edgeinfer.durable import replace_file
pathlib.Path.replace = lambda beside, path: os.kill(os.getpid(), signal.SIGKILL)
replace_file(pathlib.Path(sys.argv[1]), b"half of it")
"""


def leave(path: Path) -> Path:
    """What is left where a process ends just before the file takes its place."""
    with subprocess.Popen([sys.executable, "-c", DIES, str(path)]) as process:
        assert process.wait(30) == -9
    left = path.with_suffix(f".{process.pid}.new")
    assert left.read_bytes() == b"half of it"
    return left


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("trial.json", Memory),
        ("session", lambda folder: Sessions(folder / "session", Clock())),
        ("seen.json", lambda folder: Consumer("mqtt://127.0.0.1:1", state=folder / "seen.json")),
        ("edgeinfer.service", lambda folder: Write(folder / "edgeinfer.service", "[Unit]\n").do()),
    ],
)
def test_whoever_owns_a_folder_takes_away_at_the_start_what_a_power_cut_left(name, begin, tmp_path):
    left = leave(tmp_path / name)
    begin(tmp_path)
    assert not left.exists()


def test_what_is_somebody_elses_or_of_a_living_process_stays(tmp_path):
    dead = leave(tmp_path / "a.json").name.split(".")[1]
    kept = {f"a.{os.getpid()}.new", "a.1.new", "a.json", "a.new", f"a.{dead}.old", ".new", f".{dead}.new", "a.x1.new"}
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f"folder.{dead}.new").mkdir()
    (tmp_path / f"link.{dead}.new").symlink_to("a.json")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f"folder.{dead}.new", f"link.{dead}.new"}


def test_of_a_folder_that_is_not_ours_alone_only_our_own_name_is_taken_away(tmp_path):
    ours, other = leave(tmp_path / "seen.json"), leave(tmp_path / "other.json")
    sweep(tmp_path, "seen")
    assert (ours.exists(), other.exists()) == (False, True)


def test_a_folder_that_is_not_there_is_no_matter(tmp_path):
    sweep(tmp_path / "absent")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for content in (b"old", b"new"):
        replace_file(tmp_path / "plan.json", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("plan.json", b"new")]
