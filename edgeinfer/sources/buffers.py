"""Memory of pictures, used again."""

from __future__ import annotations

import sys

from edgeinfer.frame import Pixels

# As many as can be in flight between a camera and the sinks that draw; whoever keeps more gets memory of their own.
_BUFFERS_MAX = 8
_UNUSED_REFERENCES = 2
# Without the global lock another thread may just be giving a reference away.
_COUNTS_ARE_EXACT = getattr(sys, "_is_gil_enabled", lambda: True)()


class Buffers:
    """Memory for pictures, used again once nobody holds the picture in it: no page is touched for the first time twice.

    A picture is held by its array and by every view of it, and numpy lets each of these hold the array that owns the
    memory: when the owner's references are down to ours, it is free. For one reader.
    """

    def __init__(self) -> None:
        self._owners: list[Pixels] = []

    def free(self) -> Pixels | None:
        """Memory that nobody uses; None where there is none."""
        if not _COUNTS_ARE_EXACT:
            return None
        for index in range(len(self._owners)):
            # Named nowhere: the list's reference, and the one that the call itself holds.
            if sys.getrefcount(self._owners[index]) <= _UNUSED_REFERENCES:
                return self._owners[index]
        return None

    def keep(self, pixels: Pixels) -> None:
        """Remember the memory of a picture that lies in none of ours."""
        if self._owners and self._owners[0].shape != pixels.shape:
            self._owners.clear()
        if pixels.base is None and pixels.flags.owndata and len(self._owners) < _BUFFERS_MAX:
            self._owners.append(pixels)
