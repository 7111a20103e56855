"""Which cores to compute on: the big ones, where a board has small ones beside them; and which threads come first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edgeinfer.board.recognise import Board

_STEPS_BEHIND = 5


def big_cores(board: Board) -> frozenset[int]:
    """The big cores among those that this process may use; none where all are alike."""
    big = frozenset(cpu for cluster in board.clusters if cluster.big for cpu in cluster.cpus)
    ours = big & _usable()
    return ours if ours and len(big) < board.cores else frozenset()


def usual_threads(board: Board) -> int | None:
    """How many threads a model computes with on this CPU where nobody says it; None leaves it to the runtime.

    The slowest thread of a layer is the one that all others wait for: none of them shall be on a small core.
    """
    if board.profile.threads is not None:
        return min(board.profile.threads, len(_usable()))
    return len(big_cores(board)) or None


def _usable() -> set[int]:
    return os.sched_getaffinity(0)


def stay_on(cores: frozenset[int]) -> None:
    """Keep the calling thread, and those that it begins from now on, on these cores; of none nothing is asked."""
    if cores:
        # Somebody may have taken them away meanwhile; then the kernel chooses.
        with suppress(OSError):
            os.sched_setaffinity(0, cores)


def give_way() -> None:
    """Where cores are short, let the calling thread, and those that it begins from now on, come behind others: as by
    `nice`, five steps, so that it gets a third of the time that each of the others does (weights of Linux: 335, 1024).
    """
    me = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, me, min(os.getpriority(os.PRIO_PROCESS, me) + _STEPS_BEHIND, 19))


@contextmanager
def begun_on(cores: frozenset[int]) -> Iterator[None]:
    """Threads that are begun within the block stay on these cores; the calling thread is free again afterwards."""
    before = os.sched_getaffinity(0)
    stay_on(cores)
    try:
        yield
    finally:
        stay_on(frozenset(before) if cores else cores)
