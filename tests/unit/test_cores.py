from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeinfer.board import Roots, recognise_board
from edgeinfer.board.cores import begun_on, big_cores, give_way, stay_on, usual_threads

BOARDS = Path(__file__).parents[1] / "boards"


def board(name: str):
    tree = BOARDS / name
    return recognise_board(Roots(sys=tree / "sys", proc=tree / "proc", dev=tree / "dev"))


@pytest.fixture
def all_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))


@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize(
    ("name", "big", "threads"),
    [
        ("rock-5b", {4, 5, 6, 7}, 4),
        ("rockpro64", {4, 5}, 2),
        ("raspberry-pi-5", set(), 4),
        ("jetson-agx-orin", set(), 4),
        ("intel-nuc", set(range(8)), 8),
    ],
)
def test_the_big_cores_of_a_board_and_as_many_threads(name, big, threads):
    assert big_cores(board(name)) == big
    assert usual_threads(board(name)) == threads


def test_cores_that_we_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5})
    assert big_cores(board("rock-5b")) == {5}
    assert usual_threads(board("rock-5b")) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert big_cores(board("rock-5b")) == set()


def affinity_of_a_new_thread() -> set[int]:
    seen: list[set[int]] = []
    thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join(10)
    return seen[0]


@pytest.fixture
def one_core() -> frozenset[int]:
    return frozenset(sorted(os.sched_getaffinity(0))[:1])


def test_threads_begun_within_stay_and_the_caller_is_free_again(one_core):
    before = os.sched_getaffinity(0)
    with begun_on(one_core):
        assert affinity_of_a_new_thread() == one_core
    assert os.sched_getaffinity(0) == before
    assert affinity_of_a_new_thread() == before


def test_where_all_cores_are_alike_nothing_is_asked_for(one_core):
    before = os.sched_getaffinity(0)
    with begun_on(frozenset()):
        assert affinity_of_a_new_thread() == before


def test_cores_that_are_gone_are_no_reason_to_stop():
    before = os.sched_getaffinity(0)
    stay_on(frozenset({4000}))
    assert os.sched_getaffinity(0) == before


def test_a_thread_that_gives_way_comes_five_steps_behind_and_nobody_else():
    def steps() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = steps()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(give_way).result()
        assert thread.submit(steps).result() == min(before + 5, 19)
        for _ in range(5):
            thread.submit(give_way).result()
        assert thread.submit(steps).result() == 19
    assert steps() == before
