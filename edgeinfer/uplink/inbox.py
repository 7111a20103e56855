"""What waits to be accepted: given by any thread, taken by one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from edgeinfer.metrics import Tally
from edgeinfer.uplink.message import Message

DROPPED = "dropped.uplink.pending"

_COUNT_MAX = 2000
_BYTES_MAX = 4 << 20


class Inbox:
    """Messages not yet accepted, 2000 and 4 MiB at most: then the oldest is dropped, and counted.

    `wake` is called for the first that waits, and for the one that makes a whole group of `group_rows`: each call
    costs the thread that is woken, and the one that gives.
    """

    def __init__(self, *, group_rows: int, tally: Tally, wake: Callable[[], None], now_s: Callable[[], float]) -> None:
        self.group_rows = group_rows
        self._tally = tally
        self._wake = wake
        self._now_s = now_s
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._first_s: float | None = None

    @property
    def count(self) -> int:
        return len(self._waiting)

    @property
    def first_s(self) -> float | None:
        """Since when something waits, in monotonic seconds; None where nothing does."""
        return self._first_s

    def put(self, message: Message) -> None:
        """From any thread; never waits and never raises."""
        with self._lock:
            self._waiting.append(message)
            self._bytes += len(message.data)
            dropped = self._drop()
            count = len(self._waiting)
            if self._first_s is None:
                self._first_s = self._now_s()
        if dropped:
            self._tally.add(DROPPED, dropped)
        if count in (1, self.group_rows):
            self._wake()

    def take(self) -> Sequence[Message]:
        """All that waits."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            self._bytes, self._first_s = 0, None
        return tuple(taken)

    def give_back(self, messages: Sequence[Message]) -> None:
        """They were taken and could not be accepted; they are older than all that waits."""
        if not messages:
            return
        with self._lock:
            self._waiting.extendleft(reversed(messages))
            self._bytes += sum(len(message.data) for message in messages)
            self._first_s = self._now_s()
            dropped = self._drop()
        if dropped:
            self._tally.add(DROPPED, dropped)

    def _drop(self) -> int:
        dropped = 0
        while len(self._waiting) > _COUNT_MAX or (self._bytes > _BYTES_MAX and len(self._waiting) > 1):
            self._bytes -= len(self._waiting.popleft().data)
            dropped += 1
        return dropped
