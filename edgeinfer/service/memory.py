"""Memory that malloc keeps for later goes back to the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Whole pages of the heap that hold nothing. Takes some milliseconds; without glibc nothing is done.

    Each burst, such as the backlog after an outage of the broker, leaves its highest mark behind otherwise, here and
    there between what is in use, and a service of months has had many bursts.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
