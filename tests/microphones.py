"""A microphone for tests, where PortAudio is: ALSA takes from a pipe what it hears. PortAudio knows no difference."""

from __future__ import annotations

import importlib.util
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

RATE_HZ = 16_000
# As long as the blocks that `mic://` asks for: ALSA takes less than it asked for as if it were all.
BLOCK = RATE_HZ // 20
WORD = f"mic://recorded?rate={RATE_HZ}"
# Ten times as fast as sound.
_EVERY_S = 0.005
_ALSA = Path("/usr/share/alsa/alsa.conf")
_CONFIGURATION = """<{alsa}>
pcm.recorded {{
    type file
    file "/dev/null"
    infile "{pipe}"
    format raw
    slave.pcm {{ type null }}
}}
"""


class Microphone:
    """Hears silence until something is played to it. `WORD` opens it, in processes of `environment`."""

    def __init__(self, folder: Path) -> None:
        pipe, configuration = folder / "heard", folder / "asound.conf"
        os.mkfifo(pipe)
        configuration.write_text(_CONFIGURATION.format(alsa=_ALSA, pipe=pipe))
        # ALSA reads the configuration in HOME besides.
        self.environment = {"ALSA_CONFIG_PATH": str(configuration), "HOME": str(folder)}
        # Read as well as written, for who opens it does not wait for another end then.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._blocks: Iterator[np.ndarray] = iter(())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def play(self, sound: np.ndarray, *, times: int = 1) -> None:
        whole = sound[: sound.size // BLOCK * BLOCK].astype("<f4").reshape(-1, BLOCK)
        self._blocks = itertools.chain.from_iterable(itertools.repeat(whole, times))

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        os.close(self._pipe)

    def _hear(self) -> None:
        silence = np.zeros(BLOCK, "<f4")
        while not self._stopped.wait(_EVERY_S):
            try:
                os.write(self._pipe, next(self._blocks, silence).tobytes())
            except BlockingIOError:
                # Nobody listens.
                continue


@contextmanager
def microphone(folder: Path) -> Iterator[Microphone]:
    for present, absent in _needed():
        if not present:
            pytest.skip(absent)
    opened = Microphone(folder)
    try:
        yield opened
    finally:
        opened.close()


def _needed() -> Iterable[tuple[bool, str]]:
    yield importlib.util.find_spec("sounddevice") is not None, "the module sounddevice is not here"
    yield find_library("portaudio") is not None, "PortAudio is not here: apt install libportaudio2"
    yield _ALSA.is_file(), f"ALSA's configuration is not here: {_ALSA}"
