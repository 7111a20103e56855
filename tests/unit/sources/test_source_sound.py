"""Sound files of every kind, written here byte by byte or by the standard library."""

from __future__ import annotations

import ctypes.util
import os
import struct
import subprocess
import sys
import types
import wave
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from microphones import BLOCK, WORD, microphone

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import open_any
from edgeinfer.sources.account import Account
from edgeinfer.sources.windows import Windows

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)


def wav(path: Path, data: bytes, *, code=1, channels=1, rate_hz=8000, bits=16, extensible=False, size=None) -> str:
    frame = channels * bits // 8
    chunk = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate_hz, rate_hz * frame, frame, bits)
    if extensible:
        chunk += struct.pack("<HHIH", 22, bits, 0, code) + bytes.fromhex("000000001000800000aa00389b71")
    # An odd chunk before the sound, as some recorders write.
    body = b"WAVE" + b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(chunk)) + chunk
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return str(path)


def stored(values: np.ndarray, bits: int, *, is_float: bool) -> bytes:
    if is_float:
        return values.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return (np.round(values * 127) + 128).astype(np.uint8).tobytes()
    whole = np.round(values * (2 ** (bits - 1) - 1)).astype(np.int64)
    return b"".join(int(number).to_bytes(bits // 8, "little", signed=True) for number in whole)


def sound_of(word: str) -> tuple[np.ndarray, float]:
    source = open_any(word)
    source.begin((), Account())
    pieces = list(iter(source.read, None))
    source.close()
    return np.concatenate([piece.values[:, 0] for piece in pieces]), source.rate_hz


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("bits", "is_float"), [(8, False), (16, False), (24, False), (32, False), (32, True), (64, True)]
)
def test_every_width_gives_the_same_sound(tmp_path: Path, bits: int, is_float: bool, extensible: bool) -> None:
    data = stored(TONE, bits, is_float=is_float)
    word = wav(tmp_path / "a.wav", data, code=3 if is_float else 1, bits=bits, extensible=extensible)
    sound, rate_hz = sound_of(word)
    assert rate_hz == 8000
    assert np.abs(sound - TONE).max() < 1.5 / 2 ** (min(bits, 24) - 1)


def test_it_agrees_with_the_standard_library_and_mixes_to_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    pairs = np.stack([TONE, -TONE / 2], axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(stored(pairs.reshape(-1), 16, is_float=False))
    sound, rate_hz = sound_of(str(path))
    assert rate_hz == 44100
    assert np.abs(sound - TONE / 4).max() < 1e-4


def test_another_rate_becomes_the_models(tmp_path: Path) -> None:
    high = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    word = wav(tmp_path / "a.wav", stored(high, 24, is_float=False), rate_hz=44100, bits=24)
    wanted = WindowInput(0, 16000.0, 8000, 4000, (), (0.0,), (1.0,), "hold", 0.0)
    with closing(Windows(open_any(word), wanted)) as windows:
        made = list(iter(windows.read, None))
    assert [window.position_s for window in made] == [0.0, 0.25, 0.5]
    assert made[0].values.shape == (8000, 1)
    assert [window.filled for window in made] == [0.0] * 3
    expected = np.sin(2 * np.pi * 440 * np.arange(4000, 12000) / 16000)
    assert np.abs(made[1].values[:, 0] - expected).max() < 1e-4
    assert windows.account.fates() == {"used": 44100}


def test_a_length_that_was_never_filled_in_is_the_rest_of_the_file(tmp_path: Path) -> None:
    data = stored(TONE, 16, is_float=False)
    sound, _ = sound_of(wav(tmp_path / "a.wav", data, size=0xFFFFFFFF))
    assert sound.size == TONE.size


def test_a_file_that_is_cut_off_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    data = stored(TONE, 16, is_float=False)
    source = open_any(wav(tmp_path / "a.wav", data[:10001], size=len(data)))
    source.begin((), Account())
    assert len(source.read().values) == 5000
    with pytest.raises(SourceError, match=r"ended after 0.62 of 1.00 s"):
        source.read()
    source.close()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda good: b"RIFX" + good[4:], "is no WAV file"),
        (lambda good: good[:30], "broken header"),
        (lambda good: good.replace(b"fmt ", b"fmd "), "no format"),
        (lambda good: good.replace(b"data", b"dato"), "no sound"),
        (lambda good: good.replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 85, 1), 1), "compressed sound"),
        (lambda good: good.replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 1, 0), 1), "0 channels"),
        (lambda good: good.replace(struct.pack("<HH", 2, 16), struct.pack("<HH", 2, 12), 1), "12 bits"),
        (lambda good: good.replace(struct.pack("<I", 8000), struct.pack("<I", 0), 1), "0 Hz"),
        (lambda good: b"", "is no WAV file"),
    ],
)
def test_a_broken_header_is_one_clear_line(tmp_path: Path, spoil, says: str) -> None:
    path = tmp_path / "a.wav"
    wav(path, stored(TONE, 16, is_float=False))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SourceError, match=says):
        open_any(str(path))


def test_nothing_can_be_chosen_and_one_channel_is_all(tmp_path: Path) -> None:
    word = wav(tmp_path / "a.wav", b"\0\0" * 100)
    with pytest.raises(SourceError, match="nothing can be chosen"):
        open_any(f"{word}?rate=3")
    wanted = WindowInput(0, 8000.0, 9, 9, ("left", "right"), (0.0,), (1.0,), "hold", 0.0)
    with closing(open_any(word)) as source, pytest.raises(SourceError, match="one channel of sound"):
        Windows(source, wanted)


class PortAudio(types.ModuleType):
    """As much of sounddevice as is used here: what it drops and when it falls silent is for the test to say."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.stream = types.SimpleNamespace(active=True, start=lambda: None, close=lambda ignore_errors: None)

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return [{"name": "USB mic", "max_input_channels": 1}]
        if device not in (None, "USB"):
            raise ValueError(f"No input device matching {device!r}")
        return {"default_samplerate": 48000.0}

    def InputStream(self, **asked):  # noqa: N802 - its name there.
        self.asked = asked
        return self.stream

    def hear(self, block: np.ndarray, *, overflow: bool = False) -> None:
        self.asked["callback"](block, len(block), None, types.SimpleNamespace(input_overflow=overflow))


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> PortAudio:
    module = PortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_a_microphone_is_heard_and_what_was_lost_is_a_gap(portaudio: PortAudio) -> None:
    source = open_any("mic://USB?rate=16000&channels=2")
    windows = Windows(source, WindowInput(0, 16000.0, 800, 800, (), (0.0,), (1.0,), "hold", 0.0))
    for overflow in (False, False, True, False):
        portaudio.hear(np.tile([[0.5, 0.25]], (800, 1)).astype(np.float32), overflow=overflow)
    made = [windows.read() for _ in range(4)]
    assert [window.follows for window in made] == [False, True, False, True]
    assert made[0].values[0, 0] == pytest.approx(0.375)
    assert windows.account.notes() == {"gaps": 1}
    for _ in range(300):
        portaudio.hear(np.zeros((800, 2), np.float32))
    assert windows.account.fates()["lost"] == 100 * 800
    windows.close()
    assert windows.read() is None


def test_a_microphone_that_falls_silent_is_lost(portaudio: PortAudio) -> None:
    now_ns = [0]
    source = open_any("mic://", clock=Clock(lambda: now_ns[0], lambda: 0))
    assert portaudio.asked["samplerate"] == 48000
    source.begin((), Account())
    now_ns[0] = 6 * 10**9
    with pytest.raises(SourceLost, match="gives no sound any more"):
        source.read()
    source.close()


def test_an_absent_microphone_is_said(portaudio: PortAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="No input device matching 'Headset'; here are USB mic"):
        open_any("mic://Headset")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SourceError, match=r"pip install 'edgeinfer\[audio\]'"):
        open_any("mic://")


def test_an_absent_portaudio_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: None)
    with pytest.raises(SourceError, match="mic:// needs PortAudio") as said:
        open_any("mic://")
    assert said.value.hint == "sudo apt install libportaudio2"


# In a process of its own, since PortAudio and ALSA look once at what there is.
LISTENER = """
import sys
import numpy as np
from edgeinfer.sources import open_any
from edgeinfer.sources.account import Account
source = open_any(sys.argv[1])
source.begin((), Account())
print(source.rate_hz, flush=True)
heard = np.empty(0)
while np.count_nonzero(heard) < int(sys.argv[2]):
    piece = source.read()
    assert piece.follows
    heard = np.append(heard, piece.values[:, 0])
source.close()
sys.stdout.buffer.write(heard.astype("<f4").tobytes())
"""


def test_every_sample_that_portaudio_hears_is_read(tmp_path: Path) -> None:
    sound = np.random.default_rng(4).uniform(-1, 1, 12 * BLOCK).astype("<f4")
    with microphone(tmp_path) as heard_by:
        # sounddevice 0.5 sets shapes, which numpy 2.5 wants no more.
        warnings = ["-W", "error", "-W", "ignore::DeprecationWarning:sounddevice"]
        command = [sys.executable, *warnings, "-c", LISTENER, WORD, str(sound.size)]
        environment = {**os.environ, **heard_by.environment}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listener:
            assert listener.stdout.readline() == b"16000.0\n", listener.stderr.read()
            heard_by.play(sound)
            out, err = listener.communicate(timeout=60)
    assert listener.returncode == 0, err
    heard = np.frombuffer(out, "<f4")
    np.testing.assert_array_equal(heard[np.flatnonzero(heard)[0] :], sound)


def test_microphones_that_portaudio_knows_are_named(tmp_path: Path) -> None:
    with microphone(tmp_path) as there:
        listener = subprocess.run(
            [sys.executable, "-c", LISTENER, "mic://Headset", "1"],
            env={**os.environ, **there.environment}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert "No input device matching 'Headset'; here are recorded" in listener.stderr
