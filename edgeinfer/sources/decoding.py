"""How many threads decode a file: one, unless everything waits for it while a core has nothing to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from edgeinfer.board.busy import IdleTime, idle_time

# So much of reading is looked at each time. Within the first second a file can be opened once more at little cost.
_LOOK_NS = 100_000_000
_LOOKS = 10
_WAITED_FOR = 0.9
_IDLE_CORES = 0.5
# What a read has to take at most with more threads, of what it takes with one.
_WORTH = 0.75


class DecoderPace:
    """Told of each read of a file that one thread decodes, it says when more threads may bring frames sooner.

    Several threads take some percent more of the processor for a frame than one, and take turns with those of the
    model. So they are worth it only where the run does little else than wait for the next frame, and at least half a
    core is idle; and where the decoder makes use of them, which those of some formats do not.

    `idle` is the idle time of the machine, `cpu_ns` the processor time of this process, `cores` how many of them it may
    run on; a test passes its own.
    """

    def __init__(
        self,
        *,
        idle: Callable[[], IdleTime | None] = idle_time,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        cores: int | None = None,
    ) -> None:
        self._idle = idle
        self._cpu_ns = cpu_ns
        self._cores = len(os.sched_getaffinity(0)) if cores is None else cores
        self._looks_left = _LOOKS if self._cores > 1 else 0
        self._begun_ns: int | None = None
        self._begun_cpu_ns = 0
        self._begun_idle: IdleTime | None = None
        self._reads = 0
        self._decoding_ns = 0
        self._converting_ns = 0
        self._read_ns = 0.0
        self._convert_ns = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing more to look at."""
        return self._looks_left == 0

    def wants_more(self, begun_ns: int, decoded_ns: int, ended_ns: int) -> bool:
        """Whether more threads may help, after a read that began, had decoded and ended at these monotonic times."""
        if self._begun_ns is None:
            # The first read opens the file's first packets as well.
            self._begin(ended_ns)
            return False
        self._reads += 1
        self._decoding_ns += decoded_ns - begun_ns
        self._converting_ns += ended_ns - decoded_ns
        reading_ns = self._decoding_ns + self._converting_ns
        if reading_ns < _LOOK_NS or self.is_settled:
            return False
        is_waited_for = reading_ns > _WAITED_FOR * (ended_ns - self._begun_ns)
        wants_more = is_waited_for and self._idle_cores(ended_ns - self._begun_ns) >= _IDLE_CORES
        self._read_ns, self._convert_ns = reading_ns / self._reads, self._converting_ns / self._reads
        self._looks_left -= 1
        self._begin(ended_ns)
        return wants_more

    def is_worth(self, decode_ns: float) -> bool:
        """Whether to change, after `wants_more`, to a decoder that takes so long for a frame."""
        return decode_ns + self._convert_ns <= _WORTH * self._read_ns

    def _begin(self, now_ns: int) -> None:
        self._begun_ns, self._begun_cpu_ns, self._begun_idle = now_ns, self._cpu_ns(), self._idle()
        self._reads = self._decoding_ns = self._converting_ns = 0

    def _idle_cores(self, wall_ns: int) -> float:
        """Since this look was begun: of the machine, and of the cores that this process may run on."""
        idle = self._idle()
        if idle is None or self._begun_idle is None:
            return 0.0
        left_by_us = self._cores - (self._cpu_ns() - self._begun_cpu_ns) / wall_ns
        return min(left_by_us, idle.cores_since(self._begun_idle))
