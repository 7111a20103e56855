"""Results kept in memory for whoever iterates over them: Python callers and tests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from edgeinfer.frame import Frame
from edgeinfer.result import Result
from edgeinfer.sinks import SinkOptions


class MemorySink:
    """Holds at most `capacity` results. `write` waits for room, so that the queue before it decides what is dropped.

    Iterating takes results out and ends when the sink is closed and empty.
    """

    wants_pixels = False

    def __init__(
        self,
        uri: str = "memory:",
        options: SinkOptions | None = None,
        *,
        capacity: int = 100_000,
        waiting_max: int = 256,
    ) -> None:
        self.uri = uri
        self.waiting_max = waiting_max
        self._capacity = capacity
        self._results: deque[Result] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def write(self, result: Result, frame: Frame | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._results) < self._capacity)
            self._results.append(result)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Result]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._results)
                if not self._results:
                    return
                result = self._results.popleft()
                self._changed.notify_all()
            yield result
