"""A sensor at a serial port: `serial:///dev/ttyUSB0?baud=115200&parity=N&format=csv`."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serial

from edgeinfer.access import how_to_join
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Framing, Lines, Records
from edgeinfer.sources.gathering import Gatherer
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import Form, RecordReader, form_of, layout_of
from edgeinfer.words import unknown

_PREFIX = "serial://"
_BY_ID = Path("/dev/serial/by-id")
_BAUD = 115_200
_PARITIES = {"N": serial.PARITY_NONE, "E": serial.PARITY_EVEN, "O": serial.PARITY_ODD}
_PAUSE_S = 0.05
_READ_BYTES = 65_536
_SILENT_S = 30.0
_UNREADABLE_S = 10.0
_UNREADABLE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Port:
    """device: the path of the port. silent_s: after so long without a byte it is opened again. unreadable_s: after so
    long with bytes and no line it is said that none can be read."""

    device: str
    baud: int
    parity: str
    bits: int
    stop: int
    silent_s: float
    unreadable_s: float
    form: Form

    @property
    def byte_s(self) -> float:
        """How long a byte takes, with its start, parity and stop bits."""
        return (1 + self.bits + (self.parity != "N") + self.stop) / self.baud


def read_port(word: str) -> Port:
    """`serial:///dev/ttyUSB0?…` -> what it says. Raises SourceError."""
    path, _, asked = word[len(_PREFIX) :].partition("?")
    if not path.startswith("/"):
        raise SourceError(f"{word!r} names no port", hint=f"serial:///dev/ttyUSB0 has three slashes; {_ports_hint()}")
    query = Query(asked, word)
    parity = (query.text("parity") or "N").upper()
    if parity not in _PARITIES:
        raise SourceError(f"{unknown('parity', parity, _PARITIES)} (in {word!r})")
    port = Port(
        device=path,
        baud=query.whole("baud", low=50, high=4_000_000) or _BAUD,
        parity=parity,
        bits=query.whole("bits", low=7, high=8) or 8,
        stop=query.whole("stop", low=1, high=2) or 1,
        silent_s=_positive(query, "silent", word) or _SILENT_S,
        unreadable_s=_positive(query, "unreadable", word) or _UNREADABLE_S,
        form=form_of(query, word),
    )
    query.done()
    return port


def open_serial(word: str, options: SourceOptions, clock: Clock) -> SerialSource:
    """Open the port for this process alone. Raises SourceError."""
    refuse_picture_options(options, word, "a serial port")
    port = read_port(word)
    try:
        opened = serial.Serial(
            port.device,
            port.baud,
            bytesize=port.bits,
            parity=_PARITIES[port.parity],
            stopbits=port.stop,
            timeout=_PAUSE_S,
            exclusive=True,
        )
    except (OSError, ValueError) as failed:
        raise _cannot_open(word, port, failed) from failed
    return SerialSource(word, port, opened, clock)


def check_access(word: str, port: Port) -> None:
    """Whether the port is there and may be opened, without opening it. Raises SourceError."""
    device = Path(port.device)
    if not device.exists():
        raise _cannot_open(word, port, OSError(errno.ENOENT, ""))
    if not device.is_char_device():
        raise SourceError(f"{word!r}: {device} is no serial port", hint=_ports_hint())
    if not os.access(device, os.R_OK | os.W_OK):
        raise _cannot_open(word, port, OSError(errno.EACCES, ""))


def stable_name(device: str, folder: Path = _BY_ID) -> str | None:
    """The name of an adapter that stays whatever its number; None where that is the one given, or there is none."""
    if not device.startswith(("/dev/ttyUSB", "/dev/ttyACM")):
        return None
    try:
        links = sorted(folder.iterdir())
    except OSError:
        return None
    return next((str(link) for link in links if link.resolve() == Path(device).resolve()), None)


class SerialSource:
    """Samples of a sensor as it sends them. See SampleSource.

    Where records say no time, theirs is that of the arrival.
    """

    live = True
    rate_hz: float | None = None

    def __init__(self, uri: str, port: Port, opened: Any, clock: Clock) -> None:
        self.uri = uri
        self._port = port
        self._opened = opened
        self._clock = clock
        self._reader = RecordReader(port.form)
        self._framing = _framing(port.form)
        # What a record of fixed size begins with, its framing knows.
        trusts_first = isinstance(self._framing, Records)
        self._gatherer = Gatherer(self._reader, clock, byte_s=port.byte_s, trusts_first=trusts_first)
        self._heard_ns = self._read_ns = clock.monotonic_ns()
        self._bytes_unread = 0
        self._account = Account()
        self._closed = threading.Event()

    @property
    def can_be_late(self) -> bool:
        return True

    @property
    def channels(self) -> tuple[str, ...]:
        return self._reader.channels

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        self._account = account
        self._gatherer.begin(channels, account)
        self._heard_ns = self._read_ns = self._clock.monotonic_ns()

    def read(self) -> Readings | None:
        arrived = self._arrived()
        if self._closed.is_set():
            return None
        before = self._gatherer.records
        readings = self._gatherer.gather(self._framing.feed(arrived) if arrived else self._framing.pause())
        self._judge(readings.captured_ns, len(arrived), has_read=self._gatherer.records > before)
        return readings

    def close(self) -> None:
        self._closed.set()
        self._opened.close()

    def _arrived(self) -> bytes:
        try:
            waiting = min(self._opened.in_waiting, _READ_BYTES)
            arrived: bytes = self._opened.read(max(1, waiting))
        except (OSError, TypeError, ValueError) as failed:
            # Closed by another thread, pyserial stumbles over the handle that is gone.
            if self._closed.is_set():
                return b""
            reason = getattr(failed, "strerror", None) or str(failed)
            raise SourceLost(f"{self.uri!r} is gone: {reason}", hint="is it still plugged in?") from failed
        return arrived

    def _judge(self, now_ns: int, arrived: int, *, has_read: bool) -> None:
        """Silence, or nothing but garbage, for too long: opened again it may be better."""
        if arrived:
            self._heard_ns = now_ns
            if not self._bytes_unread:
                self._read_ns = now_ns
            self._bytes_unread += arrived
        if has_read:
            self._read_ns, self._bytes_unread = now_ns, 0
        silent_s, unread_s = (now_ns - self._heard_ns) / 1e9, (now_ns - self._read_ns) / 1e9
        if silent_s >= self._port.silent_s:
            raise SourceLost(f"{self.uri!r} sent nothing for {silent_s:.0f} s", hint="is the sensor on? silent=SECONDS")
        if unread_s >= self._port.unreadable_s and self._bytes_unread >= _UNREADABLE_BYTES:
            raise SourceLost(
                f"no line could be read at {self._port.baud} baud from {self._port.device} for {unread_s:.0f} s,"
                f" though {self._bytes_unread} bytes came",
                hint="does the sensor send at that rate, with that parity, in that format? as in ?baud=9600",
            )


def _framing(form: Form) -> Framing:
    if form.format is not None and form.format.startswith("struct:"):
        return Records(layout_of(form.format).size, form.sync)
    return Lines()


def _positive(query: Query, name: str, word: str) -> float | None:
    value = query.number(name)
    if value is not None and not 0 < value <= 86_400:
        raise SourceError(f"{name}={value:g} in {word!r} is impossible", hint="seconds, above 0 and up to a day")
    return value


def _cannot_open(word: str, port: Port, failed: Exception) -> SourceError:
    number = getattr(failed, "errno", None)
    if number == errno.ENOENT:
        return SourceError(f"{word!r}: there is no {port.device}", hint=_ports_hint())
    if number in (errno.EACCES, errno.EPERM):
        return SourceError(f"{word!r}: no permission for {port.device}", hint=_how_to_open(port.device))
    if number in (errno.EBUSY, errno.EAGAIN):
        return SourceError(f"{word!r} is in use", hint=f"fuser -v {port.device} says by whom")
    return SourceError(f"{word!r} does not open: {failed}", hint=_ports_hint())


def _how_to_open(device: str) -> str:
    try:
        group = Path(device).group()
    except (OSError, KeyError):
        group = "root"
    # Nobody is to become one of root's group for a sensor.
    return f"ls -l {device} says who may" if group == "root" else f"join its group: {how_to_join(group)}"


def _ports_hint() -> str:
    ports = sorted([*_BY_ID.glob("*"), *Path("/dev").glob("ttyUSB*"), *Path("/dev").glob("ttyACM*")])
    return f"here are {', '.join(map(str, ports[:8]))}" if ports else "no serial adapter is connected here"
