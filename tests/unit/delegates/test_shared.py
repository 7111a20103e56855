from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile, load_bundle
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import Devices, Turns, open_device
from edgeinfer.errors import ModelError
from edgeinfer.frame import Frame
from edgeinfer.model import open_model


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path) -> ModelFile:
    (tmp_path / "tiny.tflite").write_bytes(tflite_model())
    return read_model_file(tmp_path / "tiny.tflite")


def test_the_same_model_on_the_same_device_is_opened_once(file):
    devices = Devices()
    first, second = devices.open(file, "fake"), devices.open(file, "fake")
    first.input()[...] = 1
    assert second.input()[0].all()
    assert first.turns is second.turns


@pytest.mark.parametrize("other", [{"threads": 2}, {"paced": True}, {"word": "fake:latency_ms=1"}])
def test_who_wants_it_otherwise_gets_one_of_their_own(file, other):
    devices = Devices()
    first = devices.open(file, "fake")
    second = devices.open(file, **{"word": "fake", **other})
    first.input()[...] = 1
    assert not second.input()[0].any()
    assert first.turns is not second.turns


def test_another_model_is_another_device(file, tmp_path):
    (tmp_path / "other.tflite").write_bytes(tflite_model(op="another"))
    devices = Devices()
    other = read_model_file(tmp_path / "other.tflite")
    assert devices.open(file, "fake").turns is not devices.open(other, "fake").turns


def test_the_last_one_to_close_frees_it(file):
    devices = Devices()
    first, second = devices.open(file, "fake"), devices.open(file, "fake")
    first.close()
    first.close()
    second.input()[...] = 0
    second.run()
    second.close()
    third = devices.open(file, "fake")
    assert third.turns is not second.turns


def test_who_lets_go_does_not_wait_while_another_one_is_opened(file, monkeypatch):
    devices, begun, may_go_on = Devices(), threading.Event(), threading.Event()
    first = devices.open(file, "fake")

    def slowly(*arguments, **more):
        begun.set()
        assert may_go_on.wait(30)
        return open_device(*arguments, **more)

    monkeypatch.setattr("edgeinfer.delegates.shared.open_device", slowly)
    opening = threading.Thread(target=devices.open, args=(file, "fake:latency_ms=1"))
    opening.start()
    assert begun.wait(30)
    closing = threading.Thread(target=first.close)
    closing.start()
    closing.join(10)
    is_closed = not closing.is_alive()
    may_go_on.set()
    opening.join()
    assert is_closed


def test_what_cannot_be_opened_leaves_nothing_behind(file):
    devices = Devices()
    with pytest.raises(ModelError, match="as asked"):
        devices.open(file, "fake:fail_at=0")
    devices.open(file, "fake").close()


def test_turns_are_given_in_the_order_of_asking():
    turns, order = Turns(), []
    waiting = []

    def take(name: int) -> None:
        with turns:
            order.append(name)

    with turns:
        for name in range(5):
            thread = threading.Thread(target=take, args=(name,))
            thread.start()
            waiting.append(thread)
            while len(turns._waiting) <= name:  # Until it stands in line.
                pass
    for thread in waiting:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]


class InLine:
    """A thread that waits for its turn, once it stands in line."""

    def __init__(self, turns: Turns) -> None:
        self.had_it = threading.Event()
        self._turns = turns
        self._thread = threading.Thread(target=self._take)
        self._thread.start()
        while not turns._waiting and not self.had_it.is_set():
            pass

    def _take(self) -> None:
        with self._turns:
            self.had_it.set()

    def join(self) -> None:
        self._thread.join(10)
        assert self.had_it.is_set()


def test_who_comes_back_at_once_keeps_the_turn_for_a_stint_and_no_longer():
    now_ns = [0]
    turns = Turns(lambda: now_ns[0])
    turns.begin()
    other = InLine(turns)
    for _ in range(3):
        now_ns[0] += 5_000_000
        turns.end(comes_back=True)
        assert not other.had_it.is_set()
        turns.begin()
    now_ns[0] += 10_000_000
    turns.end(comes_back=True)
    other.join()


def test_who_does_not_say_so_hands_it_on_at_once():
    turns = Turns(lambda: 0)
    turns.begin()
    other = InLine(turns)
    turns.end()
    other.join()


def test_who_said_so_and_did_not_come_back_loses_it():
    turns = Turns()
    turns.begin()
    other = InLine(turns)
    turns.end(comes_back=True)
    other.join()


def test_who_comes_back_too_late_stands_in_line_again():
    now_ns, order = [0], []
    turns = Turns(lambda: now_ns[0])
    turns.begin()
    other = threading.Thread(target=lambda: (turns.begin(), order.append("other"), turns.end()))
    other.start()
    while not turns._waiting:
        pass
    turns.end(comes_back=True)
    now_ns[0] += 60_000_000
    turns.begin()
    order.append("first")
    turns.end()
    other.join(10)
    assert order == ["other", "first"]


def test_models_that_share_a_device_do_not_mix_their_pictures():
    devices = Devices()
    bundle = load_bundle("blood-cells")
    pictures = [np.full((64, 64, 3), shade, dtype=np.uint8) for shade in (0, 255)]
    models = [open_model(bundle.folder, device="litert:cpu", devices=devices) for _ in pictures]
    alone = [model(picture).detections for model, picture in zip(models, pictures, strict=True)]
    wrong: list[object] = []

    def look(index: int) -> None:
        for _ in range(30):
            found = models[index](pictures[index]).detections
            if found != alone[index]:
                wrong.append(found)

    threads = [threading.Thread(target=look, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for model in models:
        model.close()
    assert wrong == []


def test_whether_the_next_picture_is_at_hand_is_asked_when_this_one_is_done():
    """While the model computes, a source has had time for the next."""
    asked_ns: list[int] = []

    def comes_back() -> bool:
        asked_ns.append(time.monotonic_ns())
        return True

    frame = Frame(np.zeros((64, 64, 3), np.uint8), 0, time.monotonic_ns(), time.time_ns(), "memory:")
    with open_model(load_bundle("blood-cells").folder, device="litert:cpu") as model:
        done_ns = model.answer(frame, comes_back=comes_back).stages_ns[-1]
    assert len(asked_ns) == 1
    assert asked_ns[0] >= done_ns
