"""What native libraries write to file descriptor 2, kept off a user's terminal."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()

# The prefixes of TensorFlow Lite, Abseil and ONNX Runtime.
_CHATTER = re.compile(
    rb"(INFO|WARNING|ERROR|VERBOSE): |[IWEF]\d{4} \d\d:|WARNING: All log messages before absl"
    rb"|\S+ \S+ \[[VIWEF]:onnxruntime"
)


@contextmanager
def quiet_stderr(log: logging.Logger) -> Iterator[None]:
    """What libraries log to descriptor 2 goes to `log` at debug level; anything else still reaches the terminal.

    No variable silences "INFO: Created TensorFlow Lite XNNPACK delegate". One library at a time: the
    descriptor belongs to the whole process, so what other threads write meanwhile is passed on afterwards.
    """
    with _lock:
        try:
            terminal = os.dup(2)
        except OSError:
            yield  # A service may run without a standard error.
            return
        captured = os.memfd_create("edgeinfer-stderr", os.MFD_CLOEXEC)
        os.dup2(captured, 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            _pass_on(captured, terminal, log)
            os.close(captured)
            os.close(terminal)


def _pass_on(captured: int, terminal: int, log: logging.Logger) -> None:
    size = os.fstat(captured).st_size
    for line in os.pread(captured, size, 0).splitlines(keepends=True):
        if _CHATTER.match(line):
            log.debug("%s", line.decode(errors="replace").rstrip())
            continue
        try:
            os.write(terminal, line)
        except OSError:
            return  # Nobody is listening.
