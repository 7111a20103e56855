"""Who watches a pipeline, and the newest picture for them: none is made while nobody does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Screen:
    """`wants_picture` says when the next one is due; `show` hands it to all viewers, the slow ones miss some.

    fps: so many pictures a second at most.
    """

    def __init__(self, fps: float, monotonic_ns: Callable[[], int]) -> None:
        self._period_ns = round(1e9 / fps)
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._viewers: frozenset[Viewer] = frozenset()
        self._due_ns = 0

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def wants_picture(self) -> bool:
        """Whether somebody watches and a picture is due; said once for each."""
        if not self._viewers:
            return False
        now_ns = self._monotonic_ns()
        if now_ns < self._due_ns:
            return False
        # Even distances, as long as the pictures keep up.
        self._due_ns = max(self._due_ns + self._period_ns, now_ns + self._period_ns // 2)
        return True

    def show(self, picture: bytes) -> None:
        for viewer in self._viewers:
            viewer.give(picture)

    def watch(self) -> Viewer:
        """Somebody who watches from now on, until closed; to be called in their event loop."""
        return Viewer(self._enter, self._leave)

    def _enter(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers |= {viewer}

    def _leave(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers -= {viewer}


class Viewer:
    """Use it with `with`, in an event loop."""

    def __init__(self, enter: Callable[[Viewer], None], leave: Callable[[Viewer], None]) -> None:
        self._enter, self._leave = enter, leave
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._picture: bytes | None = None

    def __enter__(self) -> Viewer:
        self._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self)

    def give(self, picture: bytes) -> None:
        """By any thread."""
        self._picture = picture
        with suppress(RuntimeError):  # The loop has ended: there is nobody to wake.
            self._loop.call_soon_threadsafe(self._came.set)

    async def next(self, timeout_s: float) -> bytes | None:
        """The next picture; None where none came within that time."""
        try:
            await asyncio.wait_for(self._came.wait(), timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            return None
        self._came.clear()
        return self._picture
