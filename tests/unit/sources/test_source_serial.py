"""A sensor at a serial port: real pseudo-terminals, and a clock of the test's own."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import random
import struct
import sys
import termios
import time
import tty

import numpy as np
import pytest

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import SourceOptions, open_any, open_source
from edgeinfer.sources.account import Account
from edgeinfer.sources.serial import open_serial, read_port
from edgeinfer.sources.windows import Windows

START_NS = 1_700_000_000 * 10**9


class Line:
    """The sensor's end of a cable, and the time."""

    def __init__(self) -> None:
        self.end, self._port = pty.openpty()
        tty.setraw(self._port)
        self.name = os.ttyname(self._port)
        self.now_ns = 0
        self.clock = Clock(lambda: self.now_ns, lambda: START_NS + self.now_ns)

    def word(self, query: str = "") -> str:
        return f"serial://{self.name}?{query}" if query else f"serial://{self.name}"

    def open(self, query: str = "", *, channels: tuple[str, ...] = ()):
        source = open_serial(self.word(query), SourceOptions(), self.clock)
        account = Account()
        source.begin(channels, account)
        return source, account

    def say(self, text: bytes) -> None:
        # Less than a pty holds, so that it never waits for its reader.
        assert len(text) <= 2048
        assert os.write(self.end, text) == len(text)

    def say_and_see(self, text: bytes) -> None:
        """The same, and wait until it has come to the port: a pty hands on what was written a little later."""
        before = self._unread()
        self.say(text)
        until_s = time.monotonic() + 60
        while self._unread() < before + len(text):
            assert time.monotonic() < until_s, "what was written does not come out"
            time.sleep(0)

    def _unread(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._port, termios.FIONREAD, bytes(4)), sys.byteorder)

    def unplug(self) -> None:
        os.close(self.end)


@pytest.fixture
def line():
    line = Line()
    yield line
    for handle in (line.end, line._port):
        try:
            os.close(handle)
        except OSError:
            continue


def read_until(source, count: int):
    """All rows and their times once so many have come."""
    readings = []
    while sum(len(each.values) for each in readings) < count:
        readings.append(source.read())
    there = [each for each in readings if len(each.values)]
    return np.concatenate([each.values for each in there]), np.concatenate([each.at_ns for each in there])


def until_half_lines(source, account: Account, count: int) -> None:
    while account.fates().get("half line", 0) < count:
        source.read()


@pytest.mark.parametrize(
    ("query", "text", "channels"),
    [
        ("", b"cut,1\n1,2\r\n3,4\n", ("0", "1")),
        ("", b"cut\ntemp,hum\n1,2\n3,4\n", ("temp", "hum")),
        ("format=csv&names=x,y", b"5\nhello\n1;2\n3;4\n", ("x", "y")),
        ("", b'{"temp": 1, "hum": "2"}\n{"hum": 4, "other": 7, "temp": 3}\n', ("temp", "hum")),
        ("", b'{"a": {"x": 1, "y": 2}, "unit": "g"}\n{"a": {"x": 3, "y": 4}, "unit": "g"}\n', ("a.x", "a.y")),
        ("format=keyvalue", b"p=3\ntemp=1 hum=2\ntemp:3, hum:4\n", ("temp", "hum")),
        ("", b"cut\n1 2\n3\t4\n", ("0", "1")),
    ],
)
def test_the_forms_of_lines(line: Line, query: str, text: bytes, channels: tuple[str, ...]) -> None:
    source, _ = line.open(query)
    line.say(text)
    values, at_ns = read_until(source, 2)
    assert values.tolist() == [[1, 2], [3, 4]]
    assert source.channels == channels
    assert (np.diff(at_ns) > 0).all()
    source.close()
    assert source.read() is None


def test_the_time_on_the_wire_sets_lines_apart(line: Line) -> None:
    source, _ = line.open("baud=9600&parity=E&stop=2")
    line.now_ns = 5 * 10**9
    line.say(b"0\n" + b"12,34\n" * 3)
    _, at_ns = read_until(source, 3)
    # Start, 8 bits, parity and two stop bits; six bytes a line.
    assert np.diff(at_ns).tolist() == pytest.approx([6 * 12 / 9600 * 1e9] * 2, abs=2)
    assert at_ns[-1] == START_NS + 5 * 10**9
    source.close()


def test_binary_records_by_sync_and_by_pause(line: Line) -> None:
    record = struct.Struct("<hf")
    source, account = line.open("format=struct:<hf&sync=aa55&names=n,v")
    good = [b"\xaa\x55" + record.pack(number, number / 2) for number in range(4)]
    line.say(b"\x55" + record.pack(9, 9)[2:] + good[0] + b"\x00\xaa" + good[1] + good[2][:3])
    read_until(source, 2)
    line.say(good[2][3:] + good[3])
    values, _ = read_until(source, 2)
    assert values.tolist() == [[2, 1.0], [3, 1.5]]
    assert account.fates() == {"garbage": 2}
    source.close()
    source, account = line.open("format=struct:<hf")
    line.say(b"123")
    until_half_lines(source, account, 1)
    line.say(record.pack(1, 2.0) + record.pack(3, 4.0) + b"cut")
    values, _ = read_until(source, 2)
    until_half_lines(source, account, 2)
    line.say(record.pack(5, 6.0))
    assert read_until(source, 1)[0].tolist() == [[5, 6.0]]
    assert values.tolist() == [[1, 2.0], [3, 4.0]]
    assert account.fates() == {"half line": 2}
    source.close()


def test_a_line_without_end_takes_no_more_memory_than_its_limit(line: Line) -> None:
    source, account = line.open()
    line.say(b"0\n1,2\n")
    read_until(source, 1)
    for _ in range(50):
        line.say(b"7" * 2000)
        source.read()
    line.say(b"\n3,4\n")
    assert read_until(source, 1)[0].tolist() == [[3, 4]]
    assert account.fates() == {"half line": 1, "too long": 1}
    source.close()


def test_only_garbage_is_said_to_be_the_baud_rate(line: Line) -> None:
    source, account = line.open("baud=9600&unreadable=10")
    draw = random.Random(3)

    def listen() -> None:
        for _ in range(200):
            line.now_ns += 10**9
            line.say(bytes(draw.choice(b"\x00\x80\xe0\xf8\xff\x1e\n") for _ in range(60)))
            source.read()

    with pytest.raises(SourceLost, match=r"no line could be read at 9600 baud .* for 1[01] s") as caught:
        listen()
    assert "does the sensor send at that rate" in str(caught.value)
    assert account.fates()["garbage"] > 10
    source.close()


def test_silence_and_an_unplugged_cable_are_losses(line: Line) -> None:
    source, _ = line.open("silent=5")
    line.now_ns = 6 * 10**9
    with pytest.raises(SourceLost, match="sent nothing for 6 s"):
        source.read()
    source.close()
    source, _ = line.open()
    line.unplug()
    with pytest.raises(SourceLost, match="still plugged in"):
        source.read()
    source.close()


def test_a_channel_that_the_sensor_lacks_is_named(line: Line) -> None:
    source, _ = line.open(channels=("temp", "hmu"))
    line.say(b'{"temp": 1, "hum": 2}\n')
    with pytest.raises(SourceError, match="unknown channel 'hmu': did you mean 'hum'"):
        read_until(source, 1)
    source.close()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("baud=fast", "baud=fast"),
        ("baut=9600", "did you mean 'baud'"),
        ("parity=X", "unknown parity 'X'"),
        ("format=xml", "unknown format 'xml'"),
        ("format=struct:hhf", "names no byte order"),
        ("format=struct:<hq?y", "is no layout"),
        ("format=struct:<4s", "holds text"),
        ("format=struct:<hf&names=a", "2 numbers, and 1 names"),
        ("format=struct:<h&sync=xy", "not hexadecimal"),
        ("sync=aa", "is for format=struct"),
        ("names=a,a", "the same name"),
        ("unit=min", "unknown unit 'min'"),
        ("silent=0", "silent=0"),
    ],
)
def test_what_makes_no_sense_is_refused(line: Line, query: str, says: str) -> None:
    with pytest.raises(SourceError, match=says.replace("[", r"\[")):
        line.open(query)


def test_a_port_that_is_not_there_is_said(line: Line) -> None:
    with pytest.raises(SourceError, match="there is no /dev/ttyNONE0"):
        open_any("serial:///dev/ttyNONE0")
    with pytest.raises(SourceError, match="three slashes"):
        open_any("serial://ttyUSB0")
    with pytest.raises(SourceError, match="gives samples"):
        open_source(line.word())
    assert read_port("serial:///dev/ttyS0?parity=e&bits=7&stop=2").byte_s == pytest.approx(11 / 115200)


class Driven:
    """A source before whose every read the test does something."""

    def __init__(self, source, before_read) -> None:
        self._source = source
        self._before_read = before_read

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self):
        if not self._before_read():
            return None
        return self._source.read()


def test_every_sample_of_an_hour_is_accounted_for(line: Line) -> None:
    """20 lines a second that say their time, for an hour: with gaps, garbage, doubles, stragglers, NaN and a clock that
    is set. Whatever the sensor said is counted under what it was."""
    draw = random.Random(11)
    opened = open_serial(line.word("format=csv&names=t,a,b&time=t&unit=ms"), SourceOptions(), line.clock)
    said: dict[str, int] = dict.fromkeys(("used", "duplicate", "late", "no number", "garbage", "half line"), 0)
    lines = iter(hour(draw, said))

    def before_read() -> bool:
        batch = next(lines, None)
        if batch is None:
            return sum(windows.account.fates().values()) < sum(said.values())
        line.now_ns += 10**9
        line.say_and_see(batch)
        return True

    wanted = WindowInput(0, 20.0, 40, 20, ("a", "b"), (0.0,), (1.0,), "linear", 0.3)
    windows = Windows(Driven(opened, before_read), wanted, clock=line.clock)
    made = list(iter(windows.read, None))
    # What waits in the time line for stragglers is on it already, and what is in the port was all read.
    fates = dict(windows.account.fates())
    assert fates == {fate: count for fate, count in said.items() if count}
    assert sum(fates.values()) == sum(said.values()) > 70_000
    notes = windows.account.notes()
    assert notes["clock jumps"] == 2
    assert notes["gaps"] == 60 + 2
    assert 3000 < len(made) < 3600
    for window in made:
        assert np.isfinite(window.values).all()
        # a counts lines that should have come; b is twice that.
        assert np.abs(np.diff(window.values[:, 0]) - 1).max() < 1e-2
        assert np.abs(window.values[:, 1] - 2 * window.values[:, 0]).max() < 2e-2
    assert sum(not window.follows for window in made) == 60 + 2 + 1
    assert 0 < sum(window.filled > 0 for window in made) < len(made)
    windows.close()


def hour(draw: random.Random, said: dict[str, int]):
    """What comes in each second, in bytes; `said` counts what it holds."""
    offset_ms = START_NS // 10**6
    yield b"7,1\n"
    said["half line"] += 1
    for second in range(3600):
        if second == 1234:
            offset_ms -= 86_400_000
        if second == 2345:
            offset_ms += 3 * 86_400_000
        rows = []
        for index in range(20 * second, 20 * second + 20):
            if second % 60 == 30 and index % 20 >= 10:
                continue  # Half a second is missing: more than may be filled.
            text = b"%d,%d,%d\n" % (offset_ms + 50 * index, index, 2 * index)
            if index % 20 == 5 and (kind := draw.randrange(8)) < 6:
                row, fate = spoilt(kind, offset_ms, index, text)
                rows.append(row)
                said[fate] += 1
                continue
            rows.append(text)
            said["used"] += 1
        if second % 7 == 3:
            rows.append(rows[-3])
            said["duplicate"] += 1
        if second % 11 == 4 and second % 60 != 30:
            # Earlier by more than two periods, and at no time that a sample had.
            rows.append(b"%d,1,1\n" % (offset_ms + 50 * (20 * second + 9) + 13))
            said["late"] += 1
        if second % 13 == 6:
            rows[7], rows[8] = rows[8], rows[7]
        yield b"".join(rows)


def spoilt(kind: int, offset_ms: int, index: int, text: bytes):
    match kind:
        case 0:
            return b"\x80\xff\x13#%d\n" % index, "garbage"
        case 1:
            return text.rpartition(b",")[0] + b"\n", "half line"
        case 2:
            return b"%d,nan,nan\n" % (offset_ms + 50 * index), "no number"
        case 3:
            return b"%d,1e400,-1e400\n" % (offset_ms + 50 * index), "no number"
        case 4:
            return b"%d,12.3.4,1\n" % (offset_ms + 50 * index), "garbage"
        case _:
            return b"%d,,%d\n" % (offset_ms + 50 * index, 2 * index), "used"


def test_numbers_that_are_none_never_come_through(line: Line) -> None:
    source, _ = line.open()
    line.say(b"0\n1,2\nNaN,1e400\n-inf,\nnull,1e308\n")
    values, _ = read_until(source, 4)
    assert values[0].tolist() == [1, 2]
    assert np.isnan(values[1:, 0]).all()
    assert math.isnan(values[1, 1])
    assert values[3, 1] == 1e308
    source.close()
