from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

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


def test_whether_a_device_is_shared_is_known_at_any_time(file):
    devices = Devices()
    first = devices.open(file, "fake")
    assert not first.is_shared
    second = devices.open(file, "fake")
    assert first.is_shared
    assert second.is_shared
    second.close()
    assert not first.is_shared


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


class Users:
    """Threads that take turns as a test says, by a clock of its own; `order` has who had it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.turns = Turns(lambda: self.now_ns)
        self.order: list[str] = []
        self._may_end: dict[str, threading.Event] = {}
        self._on: dict[str, ThreadPoolExecutor] = {}

    def ask(self, name: str) -> None:
        """In a thread that is always the same for that name; goes on once it stands in line, or has it."""
        waiting, had = len(self.turns._waiting), len(self.order)
        self._may_end[name] = may_end = threading.Event()

        def take() -> None:
            self.turns.begin()
            self.order.append(name)
            assert may_end.wait(10)
            self.turns.end()

        self._on.setdefault(name, ThreadPoolExecutor(1)).submit(take)
        wait_until(lambda: len(self.turns._waiting) > waiting or len(self.order) > had)

    def end(self, after_ms: float) -> None:
        """Whoever has it gives it back after that time; goes on once the next one has it."""
        had, is_waited_for = len(self.order), bool(self.turns._waiting)
        self.now_ns += round(after_ms * 1e6)
        self._may_end[self.order[-1]].set()
        wait_until(lambda: len(self.order) > had if is_waited_for else not self.turns._is_taken)

    def take_turns(self, turns: int) -> None:
        """Of 10 ms each; whoever had it asks again."""
        for _ in range(turns):
            had_it = self.order[-1]
            self.end(10)
            self.ask(had_it)

    def close(self) -> None:
        """Let all who wait have their turn."""
        while self.turns._waiting:
            self.end(10)
        self.end(10)
        for thread in self._on.values():
            thread.shutdown()


def wait_until(holds) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_whoever_has_had_it_for_the_least_time_is_next():
    users = Users()
    for name in "abc":
        users.ask(name)
    users.end(20)
    users.ask("a")
    users.end(2)
    users.ask("b")
    users.end(3)
    users.ask("c")
    assert users.order == ["a", "b", "c", "b"], "a asked before b, and has had 20 ms of it"
    users.end(2)
    users.close()
    assert users.order == ["a", "b", "c", "b", "c", "a"]


@pytest.mark.parametrize(("name", "turns"), [("c", {6, 7}), ("new", {4, 5})])
def test_who_was_away_makes_up_for_no_more_than_a_stint(name, turns):
    users = Users()
    for each in "cab":
        users.ask(each)
    users.end(10)
    users.take_turns(20)  # The other two.
    users.ask(name)
    seen = len(users.order)
    users.take_turns(12)
    users.close()
    assert users.order[seen : seen + 12].count(name) in turns, "a third of twelve, and some more for 50 ms"


def test_who_had_it_for_long_among_others_who_are_gone_does_not_pay_for_that():
    users = Users()
    users.ask("c")
    users.ask("a")
    users.take_turns(80)
    users.end(10)
    users.end(10)  # Each has had 400 ms.
    for name in "xyzc":
        users.ask(name)
    seen = len(users.order)
    users.take_turns(24)
    users.close()
    assert users.order[seen : seen + 24].count("c") >= 1


def test_what_is_remembered_of_threads_that_have_ended_is_bounded(monkeypatch):
    turns = Turns()
    idents = itertools.count()
    never_again = SimpleNamespace(get_ident=lambda: next(idents), Lock=threading.Lock)
    monkeypatch.setattr("edgeinfer.delegates.shared.threading", never_again)
    for _ in range(600):
        turns.begin()
        other = InLine(turns)
        turns.end()
        other.join()
    assert len(turns._had_ns) <= 300


class InLine:
    """A thread that waits for its turn, once it stands in line."""

    def __init__(self, turns: Turns, *, may_come_back: bool = True) -> None:
        self.had_it = threading.Event()
        self._turns = turns
        self._may_come_back = may_come_back
        self._thread = threading.Thread(target=self._take, daemon=True)
        waiting = len(turns._waiting)
        self._thread.start()
        wait_until(lambda: len(turns._waiting) > waiting or self.had_it.is_set())

    def _take(self) -> None:
        self._turns.begin(may_come_back=self._may_come_back)
        self.had_it.set()
        self._turns.end()

    def join(self) -> None:
        self._thread.join(10)
        assert self.had_it.is_set()


def test_who_comes_back_at_once_keeps_the_turn_for_a_stint_and_no_longer():
    now_ns = [0]
    turns = Turns(lambda: now_ns[0])
    turns.begin()
    other = InLine(turns)
    for _ in range(4):
        now_ns[0] += 10_000_000
        turns.end(comes_back=True)
        assert not other.had_it.is_set()
        turns.begin()
    now_ns[0] += 10_000_000
    turns.end(comes_back=True)
    other.join()


def test_who_never_comes_back_is_not_kept_waiting_by_one_who_does():
    turns = Turns(lambda: 0)
    turns.begin(may_come_back=True)
    others = [InLine(turns), InLine(turns, may_come_back=False)]
    turns.end(comes_back=True)
    for other in others:
        other.join()


def test_what_lies_between_two_frames_of_one_who_keeps_it_counts_as_theirs():
    now_ns = [0]
    turns = Turns(lambda: now_ns[0])
    turns.begin(may_come_back=True)
    other = InLine(turns)
    for _ in range(4):
        now_ns[0] += 1_000_000
        turns.end(comes_back=True)
        assert not other.had_it.is_set()
        now_ns[0] += 11_000_000
        turns.begin(may_come_back=True)
    now_ns[0] += 2_000_000
    turns.end(comes_back=True)  # After 50 ms.
    other.join()


def test_who_never_comes_back_gets_at_once_what_is_only_kept():
    turns = Turns(lambda: 0)
    turns.begin(may_come_back=True)
    others = [InLine(turns)]
    turns.end(comes_back=True)
    others.append(InLine(turns, may_come_back=False))
    for other in others:
        other.join()


def test_who_is_interrupted_while_waiting_is_waited_for_by_nobody(monkeypatch):
    class Interrupted(Exception):
        pass

    class Lock:
        def acquire(self, timeout=None):
            if timeout is not None:
                raise Interrupted

    turns = Turns()
    turns.begin()
    with monkeypatch.context() as patched:
        patched.setattr("edgeinfer.delegates.shared._InLine.__init__", interrupted_init(Lock))
        failed = []

        def ask():
            try:
                turns.begin()
            except Interrupted:
                failed.append(1)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)
    assert failed
    assert turns._waiting == []
    other = InLine(turns)
    turns.end()
    other.join()


def interrupted_init(lock):
    def init(self, who, had_ns, *, may_come_back):
        self.who, self.had_ns, self.may_come_back, self.turn = who, had_ns, may_come_back, lock()

    return init


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
    other = threading.Thread(target=lambda: (turns.begin(may_come_back=True), order.append("other"), turns.end()))
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
