"""What other programs take of the cores, and what nobody does, by recorded and by this machine's own figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.board.busy import CoreTime, IdleTime, core_time, idle_time
from edgeinfer.board.roots import Roots

US = 40


@pytest.fixture
def proc(tmp_path) -> Path:
    write_stat(tmp_path, "cpu  100 20 30 800 50 4 6 10 99 99")
    write_process(tmp_path, 1, 0, 10)
    write_process(tmp_path, US, 1, 12, name="edge) R (x")
    write_process(tmp_path, 41, US, 20)
    write_process(tmp_path, 42, 41, 8)
    write_process(tmp_path, 50, 1, 60)
    return tmp_path


def write_stat(proc: Path, *lines: str) -> None:
    (proc / "stat").write_text("\n".join([*lines, ""]))


def write_process(proc: Path, number: int, parent: int, ticks: int, *, name: str = "python") -> None:
    """ticks: a quarter each of its own time, by user and system, and of children that have ended."""
    (proc / str(number)).mkdir()
    quarter = ticks // 4
    taken = f"{quarter} {quarter} {quarter} {ticks - 3 * quarter}"
    (proc / str(number) / "stat").write_text(
        f"{number} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 {taken} 20 0 1 0 7"
    )


def test_what_our_workers_take_is_ours(proc):
    roots = Roots(proc=proc)
    # User, nice, system, two of interrupts and what a hypervisor took: 170; ours are 12 + 20 + 8.
    assert core_time(roots, US) == CoreTime(total=1020, others=130)


def test_the_share_is_of_the_time_between_two_looks(proc):
    roots = Roots(proc=proc)
    before = core_time(roots, US)
    write_stat(proc, "cpu  160 20 30 820 50 4 6 30 99 99")
    assert core_time(roots, US).others_since(before) == pytest.approx(80 / 100)
    assert before.others_since(before) == 0


def test_what_nobody_takes_is_told_in_cores(proc):
    roots = Roots(proc=proc)
    write_stat(proc, "cpu  100 20 30 800 50 4 6 10 99 99", "cpu0 1 2 3", "cpu1 1 2 3", "intr 7")
    before = idle_time(roots)
    assert before == IdleTime(cores=2, total=1020, idle=850)
    write_stat(proc, "cpu  160 20 30 820 60 4 6 20 99 99", "cpu0 1 2 3", "cpu1 1 2 3", "intr 7")
    assert idle_time(roots).cores_since(before) == pytest.approx(2 * 30 / 100)
    assert before.cores_since(before) == 0


@pytest.mark.parametrize("line", ["", "cpu  1 2 3", "cpu  x y z", "cpu  100 20 30 800 50 4 6 -10 0 0"])
def test_a_kernel_that_says_something_else_is_not_believed(proc, line):
    write_stat(proc, line)
    assert core_time(Roots(proc=proc), US) is None
    assert idle_time(Roots(proc=proc)) is None


def test_who_is_not_to_be_seen_knows_nothing(proc):
    assert core_time(Roots(proc=proc), 77) is None


def test_a_child_of_this_process_is_not_another_program():
    begun = core_time()
    if begun is None:
        pytest.skip("this kernel does not say what its cores do")
    script = "import os, time\nwhile os.times().user < 0.5: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            ours = core_time(pid=os.getpid())
            without = core_time(pid=child.pid)
        finally:
            child.kill()
    # By its own view it has nothing of what this process took; by ours it is a part of that.
    taken = sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK")
    assert without.others - ours.others > 0.5 * taken
