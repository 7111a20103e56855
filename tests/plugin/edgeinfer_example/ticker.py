"""`ticker://3`: as many pictures as it says, each brighter than the one before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame
from edgeinfer.sources import SourceOptions


class Ticker:
    """A source. Frame number n of N has the grey level 255 * n / N everywhere."""

    live = False

    def __init__(self, uri: str, options: SourceOptions, clock: Clock) -> None:
        count = uri.removeprefix("ticker://")
        if not count.isdecimal():
            raise SourceError(f"{uri}: {count!r} is not a number of frames", hint="as in ticker://3")
        self.uri = uri
        self.fps = options.fps
        self._size = (options.height or 48, options.width or 64)
        self._count = int(count)
        self._clock = clock
        self._seq = 0

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        if self._seq >= self._count:
            return None
        level = 255 * self._seq // self._count
        frame = Frame(
            pixels=np.full((*self._size, 3), level, dtype=np.uint8),
            seq=self._seq,
            captured_ns=self._clock.monotonic_ns(),
            captured_unix_ns=self._clock.unix_ns(),
            uri=self.uri,
        )
        self._seq += 1
        return frame

    def close(self) -> None:
        self._count = 0
