"""Threads that a command had to leave behind."""

from __future__ import annotations

import threading
from collections.abc import Callable


def watch_threads() -> Callable[[], bool]:
    """From now on: whether a daemon thread that began since is still there.

    A read or an invoke that hangs in native code would hang, or crash, the interpreter's own shutdown; then a command
    leaves without it. Threads of a program that called us are none of our business.
    """
    before = frozenset(threading.enumerate())
    return lambda: any(each.daemon and each.is_alive() for each in threading.enumerate() if each not in before)
