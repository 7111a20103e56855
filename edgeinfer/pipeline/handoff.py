"""How frames pass from the thread that captures to the thread that infers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edgeinfer.errors import EdgeInferError
from edgeinfer.frame import Frame


class Finished(Exception):
    """There are no more frames."""


class Handoff(Protocol):
    """One writer, one reader. After `finish`, `get` gives what is left and then ends."""

    def put(self, frame: Frame) -> None:
        """Hand over a frame; may wait, returns at once after `abandon`."""
        ...

    def get(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame; None when none came in time. Raises Finished at the end, or the error it ended with."""
        ...

    def finish(self, error: EdgeInferError | None = None) -> None:
        """No more frames will be put."""
        ...

    def abandon(self) -> None:
        """Nobody will get any more: wake everyone."""
        ...


class BoundedQueue:
    """For files: every frame in order; the writer waits when `size` frames are waiting."""

    def __init__(self, size: int = 2) -> None:
        self._frames: deque[Frame] = deque()
        self._size = size
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._is_finished = False
        self._is_abandoned = False
        self._error: EdgeInferError | None = None

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._make_room()
            if not self._is_abandoned:
                self._frames.append(frame)
                self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._is_finished or self._is_abandoned, timeout_s)
            if self._is_abandoned:
                raise Finished
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
            if not self._is_finished:
                return None
            if self._error is not None:
                raise self._error
            raise Finished

    def finish(self, error: EdgeInferError | None = None) -> None:
        with self._changed:
            self._is_finished = True
            self._error = error
            self._changed.notify_all()

    def abandon(self) -> None:
        with self._changed:
            self._is_abandoned = True
            self._frames.clear()
            self._changed.notify_all()

    def _make_room(self) -> None:
        self._changed.wait_for(lambda: len(self._frames) < self._size or self._is_abandoned)


class Mailbox(BoundedQueue):
    """For live sources: one slot, the newest frame wins.

    The one it replaces is told to `on_drop` with the reason: `superseded`, or `rate` where it was held back.
    """

    def __init__(self, on_drop: Callable[[str], None]) -> None:
        super().__init__(size=1)
        self._on_drop = on_drop
        self._is_held = False
        self._ended = threading.Condition(self._lock)

    def hold(self, seconds: float) -> None:
        """Wait that long, or until the end; frames that come meanwhile wake nobody, and the newest stays."""
        with self._lock:
            self._is_held = True
            self._ended.wait_for(lambda: self._is_finished or self._is_abandoned, seconds)
            if self._is_finished:
                self._make_room()  # The last one was not due.
            self._is_held = False

    def finish(self, error: EdgeInferError | None = None) -> None:
        super().finish(error)
        self._wake_holder()

    def abandon(self) -> None:
        super().abandon()
        self._wake_holder()

    def _wake_holder(self) -> None:
        with self._lock:
            self._ended.notify_all()

    def _make_room(self) -> None:
        if self._frames:
            self._frames.clear()
            self._on_drop("rate" if self._is_held else "superseded")
