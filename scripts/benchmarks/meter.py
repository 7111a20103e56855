"""What a loop costs while it runs, measured from inside its process: the same way for every contender."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.05


class Sample(NamedTuple):
    """What was spent until now by this process, and how many frames are done."""

    at_s: float
    cpu_s: float
    faults: int
    frames: int


class Meter:
    """Looks at a running loop from another thread; the steady state lies between the warm-up and the last look."""

    def __init__(self, frames_done: Callable[[], int], *, warm_up: int, every_s: float = LOOK_EVERY_S) -> None:
        self._frames_done = frames_done
        self._warm_up = warm_up
        self._every_s = every_s
        self._first: Sample | None = None
        self._last: Sample | None = None
        self._anonymous_kib = 0

    def watch(self, ended_within: Callable[[float], bool]) -> None:
        """Until the loop has ended: `ended_within` waits that many seconds for it. Whoever asks meanwhile is told."""
        answer(lambda: {**self._look()._asdict(), "peak_mib": peak_mib(), "own_mib": self._anonymous_kib / 1024})
        while not ended_within(self._every_s):
            sample = self._look()
            self._anonymous_kib = max(self._anonymous_kib, _status_kib("RssAnon"))
            if self._first is None:
                self._first = sample if sample.frames >= self._warm_up else None
            else:
                self._last = sample

    def figures(self) -> dict[str, float]:
        """Of the steady state: frames per second; CPU milliseconds and page faults per frame. Of all: peak memory,
        and how much of the memory was at most its own, without the pages of libraries and models on disk."""
        if self._first is None or self._last is None:
            raise SystemExit("the loop ended before its steady state: give it more frames")
        frames = self._last.frames - self._first.frames
        return {
            "fps": frames / (self._last.at_s - self._first.at_s),
            "cpu_ms": (self._last.cpu_s - self._first.cpu_s) * 1e3 / frames,
            "faults": (self._last.faults - self._first.faults) / frames,
            "peak_mib": peak_mib(),
            "own_mib": self._anonymous_kib / 1024,
            "frames": frames,
        }

    def _look(self) -> Sample:
        return Sample(
            time.monotonic(),
            time.process_time(),
            resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
            self._frames_done(),
        )


def peak_mib() -> float:
    """The most memory this process ever held. Not ru_maxrss, which begins with what its parent held."""
    return _status_kib("VmHWM") / 1024


def resident_mib() -> float:
    """The memory that this process holds now."""
    return _status_kib("VmRSS") / 1024


def tell(figures: dict[str, object] | dict[str, float]) -> None:
    """Hand the figures to the process that asked for them."""
    sys.stdout.write(json.dumps(figures) + "\n")  # In one piece: an answer may be under way.
    sys.stdout.flush()


def answer(look: Callable[[], dict[str, object]]) -> None:
    """From now on tell how it stands for each line on stdin, in a thread of its own."""

    def listen() -> None:
        for _ in sys.stdin:
            tell(look())

    threading.Thread(target=listen, name="answers", daemon=True).start()


def _status_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {name}")
