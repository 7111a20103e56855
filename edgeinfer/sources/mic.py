"""A microphone, through PortAudio: `mic://`, or `mic://USB?rate=16000`, the beginning or any part of its name."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources.account import Account
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings, no_readings
from edgeinfer.sources.wav import CHANNEL, CHANNELS_MAX, check_channels

if TYPE_CHECKING:
    from edgeinfer.sources.readings import Numbers

_PREFIX = "mic://"
_BLOCK_S = 0.05
_HELD_S = 10.0
_LOOK_EVERY_S = 0.5


def open_mic(word: str, options: SourceOptions, clock: Clock) -> MicSource:
    """Open the microphone. Raises SourceError: PortAudio or the microphone is absent."""
    refuse_picture_options(options, word, "a microphone")
    name, _, asked = word[len(_PREFIX) :].partition("?")
    query = Query(asked, word)
    rate_hz = query.whole("rate", low=4000, high=384_000)
    channels = query.whole("channels", low=1, high=CHANNELS_MAX) or 1
    query.done()
    return MicSource(word, _portaudio(), unquote(name) or None, rate_hz, channels, clock, options.read_timeout_s)


def _portaudio() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError as missing:
        raise SourceError("mic:// needs the module 'sounddevice'", hint="pip install 'edgeinfer[audio]'") from missing
    except OSError as missing:
        # The wheel for Linux comes without it.
        raise SourceError("mic:// needs PortAudio", hint="sudo apt install libportaudio2") from missing
    return sounddevice


class MicSource:
    """Sound as it is heard, -1..1. See SampleSource. What PortAudio had to drop is a gap, and counted."""

    live = True
    can_be_late = False
    channels = (CHANNEL,)

    def __init__(
        self,
        uri: str,
        portaudio: Any,
        name: str | None,
        rate_hz: int | None,
        channels: int,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self.uri = uri
        self._clock = clock
        self._timeout_s = timeout_s
        self._account = Account()
        self._heard: deque[Readings] = deque(maxlen=round(_HELD_S / _BLOCK_S))
        self._has_heard = threading.Condition()
        self._is_closed = False
        self._follows = True
        self._heard_ns = clock.monotonic_ns()
        device = int(name) if name is not None and name.isdecimal() else name
        try:
            found = portaudio.query_devices(device, "input")
            self.rate_hz: float | None = float(rate_hz or found["default_samplerate"])
            self._stream = portaudio.InputStream(
                samplerate=self.rate_hz,
                blocksize=round(self.rate_hz * _BLOCK_S),
                device=device,
                channels=channels,
                dtype="float32",
                callback=self._hear,
            )
            self._stream.start()
        except (portaudio.PortAudioError, ValueError) as failed:
            raise SourceError(f"{uri!r} does not open: {_line(failed)}", hint=_devices_hint(portaudio)) from failed

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        check_channels(self.uri, channels)
        with self._has_heard:
            # Heard while the model was loaded.
            self._heard.clear()
            self._account = account

    def read(self) -> Readings | None:
        with self._has_heard:
            if not self._heard and not self._is_closed:
                self._has_heard.wait(_LOOK_EVERY_S)
            if self._is_closed:
                return None
            if self._heard:
                return self._heard.popleft()
            now_ns = self._clock.monotonic_ns()
            if not self._stream.active or now_ns - self._heard_ns > self._timeout_s * 1e9:
                raise SourceLost(f"{self.uri!r} gives no sound any more", hint="is it still plugged in?")
            return no_readings(1, now_ns, self._clock.unix_ns())

    def close(self) -> None:
        with self._has_heard:
            closed, self._is_closed = self._is_closed, True
            self._has_heard.notify_all()
        if not closed:
            self._stream.close(ignore_errors=True)

    def _hear(self, sound: Numbers, _frames: int, _time: Any, status: Any) -> None:
        """Called by PortAudio's own thread, which must not wait."""
        with self._has_heard:
            if status.input_overflow:
                self._follows = False
            if len(self._heard) == self._heard.maxlen:
                self._follows = False
                self._account.count("lost", len(sound))
                return
            self._heard_ns = self._clock.monotonic_ns()
            mono = np.asarray(sound, np.float64).mean(axis=1, keepdims=True)
            self._heard.append(
                Readings(mono, None, self._heard_ns, self._clock.unix_ns(), has_wall_time=False, follows=self._follows)
            )
            self._follows = True
            self._has_heard.notify_all()


def _devices_hint(portaudio: Any) -> str:
    names = [each["name"] for each in portaudio.query_devices() if each["max_input_channels"] > 0]
    return f"here are {', '.join(names[:8])}" if names else "no microphone is connected here"


def _line(failed: Exception) -> str:
    return str(failed).splitlines()[0] if str(failed) else type(failed).__name__
