"""One runtime out of several, with rungs that fail as they are told to."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import Failover
from edgeinfer.delegates.proof import Sample
from edgeinfer.delegates.proven import Proven
from edgeinfer.delegates.standby import Standby
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.runtimes.isolated import Crew, Isolated

DEVICES = ("best", "good", "last")


class Waits:
    """Stands for the rescuer's sleep and for the clock: each wait ends when the test says so, or when all is closed."""

    def __init__(self) -> None:
        self.asked: queue.Queue[float] = queue.Queue()
        self.now = 100.0
        self._go: queue.Queue[bool] = queue.Queue()

    def __call__(self, seconds: float) -> bool:
        self.asked.put(seconds)
        return self._go.get(timeout=20)

    def now_s(self) -> float:
        return self.now

    def next(self) -> float:
        """Let the wait that is under way end, once it is and its time is over; and say how long it was to be."""
        seconds = self.asked.get(timeout=20)
        self.now += seconds
        self._go.put(False)
        return seconds

    def next_of(self, seconds: float) -> None:
        """Let the wait of that length end; one that began before what called for it is ended early."""
        while self.asked.get(timeout=20) != seconds:
            self._go.put(False)
        self.now += seconds
        self._go.put(False)

    def end_early(self) -> None:
        """Let the wait that is under way end before its time."""
        self.asked.get(timeout=20)
        self._go.put(False)

    def end(self) -> None:
        self._go.put(True)


@dataclass
class Rack:
    """Working runtimes by rung: each doubles its input. missing: the rungs that cannot be opened, and why."""

    file: ModelFile
    faults: dict[int, Faults] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    opened: list[tuple[int, bool]] = field(default_factory=list)
    runtimes: list[FakeRuntime] = field(default_factory=list)
    gate: threading.Event | None = None
    at_gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self, index: int, *, afresh: bool) -> FakeRuntime:
        self.opened.append((index, afresh))
        if afresh and self.gate is not None:
            self.at_gate.set()
            self.gate.wait(20)
        if index in self.missing:
            raise DeviceNotFound(self.missing[index])
        return self.make(index)

    def make(self, index: int) -> FakeRuntime:
        runtime = FakeRuntime(self.file, self.faults.get(index), outputs=lambda inputs: (inputs[0] * 2,))
        runtime.device = DEVICES[index]
        self.runtimes.append(runtime)
        return runtime

    def is_all_closed(self) -> bool:
        return all(runtime._closed.is_set() for runtime in self.runtimes)


@pytest.fixture
def file(tmp_path) -> ModelFile:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tflite_model())
    return read_model_file(path)


@pytest.fixture
def rack(file) -> Rack:
    return Rack(file)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def open_(rack, waits) -> Iterator[Callable[..., Failover]]:
    opened: list[Failover] = []

    def open_failover(index: int = 0, devices: tuple[str, ...] = DEVICES, suspects: tuple[int, ...] = ()) -> Failover:
        first = rack.make(index)
        opened.append(
            Failover(devices, index, first, rack, suspects=frozenset(suspects), wait=waits, now_s=waits.now_s)
        )
        return opened[-1]

    yield open_failover
    waits.end()
    for each in opened:
        each.close()
    wait_until(lambda: not rescuers())
    assert rack.is_all_closed()


def rescuers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "device rescue"]


def wait_until(happened: Callable[[], bool], timeout_s: float = 20) -> None:
    until_s = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.002)


def infer(runtime: Failover, number: float) -> list[float]:
    runtime.input()[...] = number
    return runtime.run()[0][0].tolist()


def returned(runtime: Failover) -> bool:
    return runtime._returned is not None


def test_without_a_fault_it_is_the_runtime_itself(open_, rack):
    runtime = open_()
    for number in range(5):
        assert infer(runtime, number) == [2 * number] * 4
    assert (runtime.device, runtime.state) == ("best", "ok")
    assert (runtime.inputs, runtime.outputs) == (rack.runtimes[0].inputs, rack.runtimes[0].outputs)
    assert rack.opened == []
    assert rescuers() == []


def test_a_run_that_fails_is_run_elsewhere_with_the_same_input(open_, rack, caplog):
    rack.faults[0] = Faults(fail_at=2)
    runtime = open_()
    infer(runtime, 1)
    with caplog.at_level(logging.INFO, "edgeinfer"):
        assert infer(runtime, 7) == [14] * 4
    assert rack.runtimes[1].seen[0] == rack.runtimes[0].seen[1], "the very same bytes"
    assert runtime.device == "good"
    assert runtime.state == "degraded: best fake failed at run 2, as asked"
    assert rack.opened == [(1, False)]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "best is lost, good takes over: fake failed at run 2, as asked")
    ]
    wait_until(rack.runtimes[0]._closed.is_set)
    assert infer(runtime, 8) == [16] * 4
    assert rack.opened == [(1, False)]


def test_the_ladder_tells_of_each_rung_from_the_best(open_, rack):
    rack.faults[0] = Faults(fail_at=2)
    runtime = open_()
    infer(runtime, 1)
    assert list(runtime.ladder.items()) == [("best", "in use"), ("good", "ready"), ("last", "ready")]
    infer(runtime, 2)
    assert runtime.ladder == {"best": "lost: fake failed at run 2, as asked", "good": "in use", "last": "ready"}


def test_of_a_ladder_that_is_down_no_rung_is_in_use(open_, rack):
    rack.faults[0] = Faults(fail_at=1)
    rack.missing = {1: "good is unplugged", 2: "last is on fire"}
    runtime = open_()
    with pytest.raises(RuntimeFailed):
        infer(runtime, 1)
    assert all(word.startswith("lost: ") for word in runtime.ladder.values())


def test_nan_from_a_suspect_is_a_failure(open_, rack):
    rack.faults[0] = Faults(nan_at=2)
    runtime = open_(suspects=(0, 1))
    infer(runtime, 1)
    assert infer(runtime, 7) == [14] * 4
    assert runtime.state == "degraded: best computes nonsense: output 'y' is 100% NaN or infinite"


def test_nan_from_the_reference_device_is_the_models_own(open_, rack):
    rack.faults[0] = Faults(nan_at=1)
    runtime = open_(suspects=(1,))
    assert np.isnan(infer(runtime, 1)).all()
    assert runtime.state == "ok"


def test_a_rung_that_cannot_be_opened_is_skipped_and_named(open_, rack):
    rack.faults[0] = Faults(fail_at=1)
    rack.missing[1] = "good is unplugged"
    runtime = open_()
    assert infer(runtime, 3) == [6] * 4
    assert runtime.device == "last"
    assert runtime.state == "degraded: best fake failed at run 1, as asked; good is unplugged"


@pytest.mark.parametrize("faults", [Faults(fail_at=1), Faults(nan_at=1)])
def test_a_rung_that_fails_at_once_is_skipped_too(open_, rack, faults):
    rack.faults = {0: Faults(fail_at=2), 1: faults}
    runtime = open_(suspects=(0, 1))
    infer(runtime, 1)
    assert infer(runtime, 3) == [6] * 4
    assert runtime.device == "last"
    assert rack.runtimes[1]._closed.is_set()


def test_the_next_rung_below_comes_before_one_that_was_refused_from_the_start(open_, rack):
    rack.faults[1] = Faults(fail_at=1)
    runtime = open_(1)
    assert infer(runtime, 1) == [2] * 4
    assert runtime.device == "last"
    assert rack.opened == [(2, False)]


def test_one_that_was_refused_from_the_start_is_better_than_none(open_, rack):
    rack.faults[2] = Faults(fail_at=1)
    runtime = open_(2)
    assert infer(runtime, 1) == [2] * 4
    assert runtime.device == "best"


def test_a_lost_rung_is_taken_back_between_frames_after_its_proof(open_, rack, waits, caplog):
    rack.faults[0] = Faults(fail_at=2)
    runtime = open_()
    infer(runtime, 1)
    infer(runtime, 2)
    rack.faults.clear()
    waits.next()
    wait_until(lambda: returned(runtime))
    assert rack.opened == [(1, False), (0, True)]
    assert runtime.device == "good", "not before the next frame"
    caplog.clear()
    with caplog.at_level(logging.INFO, "edgeinfer"):
        assert infer(runtime, 3) == [6] * 4
    assert (runtime.device, runtime.state) == ("best", "ok")
    assert [record.getMessage() for record in caplog.records] == ["best is back"]
    assert rack.runtimes[1]._closed.is_set()
    wait_until(lambda: not rescuers())
    assert infer(runtime, 4) == [8] * 4


def test_the_waits_grow_up_to_a_minute(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=1)
    rack.missing[0] = "still unplugged"
    runtime = open_()
    infer(runtime, 1)
    assert [waits.next() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert runtime.state.startswith("degraded: best")
    assert rack.opened[1:9] == [(0, True)] * 8


def lose_and_take_back(runtime: Failover, waits: Waits) -> float:
    """Two frames, of which the second is the best rung's last; how long it was then waited before it came back."""
    infer(runtime, 1)
    infer(runtime, 2)
    assert runtime.device == "good"
    waited_s = waits.next()
    wait_until(lambda: returned(runtime))
    infer(runtime, 3)
    assert (runtime.device, runtime.state) == ("best", "ok")
    return waited_s


def test_a_rung_that_passes_its_proof_and_dies_again_comes_back_ever_later(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=2)
    runtime = open_()
    assert lose_and_take_back(runtime, waits) == 1
    rack.faults[0] = Faults(fail_at=3)
    assert [lose_and_take_back(runtime, waits) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]


def test_what_has_worked_for_a_minute_comes_back_soon_again(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=3)
    runtime = open_()
    infer(runtime, 0)
    assert [lose_and_take_back(runtime, waits) for _ in range(3)] == [1, 2, 4]
    waits.now += 59
    assert lose_and_take_back(runtime, waits) == 8
    waits.now += 60
    assert lose_and_take_back(runtime, waits) == 1


def test_a_rung_waits_for_itself_alone(open_, rack, waits):
    """One that comes and goes does not keep another, that was lost for the first time."""
    rack.faults = {0: Faults(fail_at=1), 1: Faults(fail_at=3)}
    rack.missing[0] = "still unplugged"
    runtime = open_()
    infer(runtime, 1)
    assert [waits.next() for _ in range(4)] == [1, 2, 4, 8]
    rack.faults.pop(1)
    infer(runtime, 2)
    infer(runtime, 3)
    assert runtime.device == "last"
    # The wait of 16 s was under way; where nobody stands for it, a loss ends it.
    waits.end_early()
    assert waits.next() == 1
    wait_until(lambda: returned(runtime))
    infer(runtime, 4)
    assert runtime.device == "good"


def test_a_loss_ends_the_wait_for_another(rack):
    rack.faults = {0: Faults(fail_at=1), 1: Faults(fail_at=2)}
    rack.missing[0] = "still unplugged"
    now = [0.0]
    runtime = Failover(DEVICES, 0, rack.make(0), rack, now_s=lambda: now[0])
    runtime._delays_s[0] = 30
    infer(runtime, 1)
    assert runtime.device == "good"
    rack.faults.pop(1)
    now[0] += 0.5
    infer(runtime, 2)
    assert runtime.device == "last"
    now[0] += 1
    runtime._stirred.set()
    wait_until(lambda: returned(runtime))
    assert rack.opened[-1] == (1, True)
    runtime.close()


def test_while_nothing_computes_what_flaps_is_asked_often(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=3)
    runtime = open_()
    infer(runtime, 0)
    assert [lose_and_take_back(runtime, waits) for _ in range(4)] == [1, 2, 4, 8]
    rack.missing = {1: "gone", 2: "gone"}
    infer(runtime, 1)
    with pytest.raises(RuntimeFailed):
        infer(runtime, 2)
    waits.next_of(1)
    wait_until(lambda: returned(runtime))
    infer(runtime, 3)
    assert (runtime.device, runtime.state) == ("best", "ok")


def test_losses_and_returns_are_told(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=3)
    told: list[str] = []
    runtime = open_()
    runtime.count_with(told.append)
    infer(runtime, 0)
    assert told == []
    lose_and_take_back(runtime, waits)
    lose_and_take_back(runtime, waits)
    assert told == ["device.lost", "device.back"] * 2


def test_a_device_that_saves_the_frame_is_told_as_back(open_, rack, waits):
    rack.faults = {0: Faults(fail_at=1), 1: Faults(fail_at=2)}
    told: list[str] = []
    runtime = open_(devices=DEVICES[:2])
    runtime.count_with(told.append)
    infer(runtime, 1)
    rack.faults.pop(0)
    runtime.input()[...] = 9
    waits.next()
    wait_until(lambda: returned(runtime))
    runtime.run()
    assert told == ["device.lost", "device.lost", "device.back"]


def test_a_device_that_hangs_while_it_is_closed_does_not_keep_the_frame(open_, rack):
    rack.faults[0] = Faults(fail_at=1)
    runtime = open_()
    let_go = threading.Event()
    original = rack.runtimes[0].close
    rack.runtimes[0].close = lambda: (let_go.wait(20), original())
    assert infer(runtime, 1) == [2] * 4
    assert not rack.runtimes[0]._closed.is_set()
    let_go.set()


# A known sample, now and then.

SAMPLE = Sample("sample", (np.array([[1, 2, 3, 4]], dtype=np.float32),))


def proven(rack: Rack, make_outputs: Callable[..., tuple[np.ndarray, ...]], *, run_s: float = 0.001) -> Proven:
    inner = FakeRuntime(rack.file, rack.faults.get(0), outputs=make_outputs)
    inner.device = "best"
    rack.runtimes.append(inner)
    return Proven(inner, rack.file, SAMPLE, (SAMPLE.inputs[0] * 2,), run_s=run_s)


def open_watched(rack: Rack, waits: Waits, runtime: Proven) -> Failover:
    return Failover(DEVICES, 0, runtime, rack, suspects=frozenset({0}), wait=waits, now_s=waits.now_s)


def test_a_sound_device_is_asked_every_ten_seconds_and_keeps_its_frame(rack, waits):
    runtime = open_watched(rack, waits, proven(rack, lambda inputs: (inputs[0] * 2,)))
    inner = rack.runtimes[0]
    runs = []
    for second in range(35):
        before = inner.runs
        assert infer(runtime, second) == [2 * second] * 4
        runs.append(inner.runs - before)
        waits.now += 1
    assert [second for second, count in enumerate(runs) if count == 2] == [10, 20, 30]
    assert runtime.state == "ok"
    runtime.close()


@pytest.mark.parametrize(("off", "is_found"), [(0.5, True), (0.001, False)])
def test_a_device_that_computes_something_else_than_at_its_proof_is_lost(rack, waits, off, is_found):
    is_wrong = threading.Event()
    watched = proven(rack, lambda inputs: (inputs[0] * 2 + off * is_wrong.is_set(),))
    runtime = open_watched(rack, waits, watched)
    is_wrong.set()
    assert infer(runtime, 7) == pytest.approx([14 + off] * 4), "nobody has asked yet"
    waits.now += 10
    assert infer(runtime, 8) == pytest.approx([16 + off * (not is_found)] * 4), "this frame is another device's"
    assert runtime.device == ("good" if is_found else "best")
    figure = "output 'y' is off by 0.22 standard deviations, at most 0.05 are allowed"
    reason = f"degraded: best computes something else than at its proof: {figure}"
    assert runtime.state == (reason if is_found else "ok")
    waits.end()
    runtime.close()


def test_a_device_that_fails_while_it_is_asked_costs_no_frame(rack, waits):
    rack.faults[0] = Faults(fail_at=2)
    runtime = open_watched(rack, waits, proven(rack, lambda inputs: (inputs[0] * 2,)))
    infer(runtime, 7)
    waits.now += 10
    assert infer(runtime, 8) == [16] * 4
    assert runtime.state == "degraded: best fake failed at run 2, as asked"
    waits.end()
    runtime.close()


def test_asking_takes_a_fiftieth_of_the_time_at_most(rack, waits):
    """A model of three seconds, which grows to four."""
    run_s = [3.0]

    def compute(inputs):
        waits.now += run_s[0]
        return (inputs[0] * 2,)

    runtime = open_watched(rack, waits, proven(rack, compute, run_s=3.0))
    inner = rack.runtimes[0]
    asked_s = []
    for _ in range(200):
        before, now = inner.runs, waits.now
        infer(runtime, 1)
        if inner.runs - before == 2:
            asked_s.append(now)
            run_s[0] = 4.0
    gaps = [later - sooner for sooner, later in pairwise(asked_s)]
    assert asked_s[0] - 100 >= 150
    assert gaps
    assert min(gaps) >= 150
    assert min(gaps[1:]) >= 200
    runtime.close()


# The next rung is proven beforehand.


class Rehearsed:
    """Proofs by rung, which pass unless they are in `refused`; each waits for `go` where that is given."""

    def __init__(self) -> None:
        self.refused: dict[int, str] = {}
        self.proven: list[int] = []
        self.go: threading.Event | None = None

    def __call__(self, index: int, crew: Crew) -> None:
        if self.go is not None:
            self.go.wait(20)
        self.proven.append(index)
        if index in self.refused:
            raise DeviceNotFound(self.refused[index])


def rehearsals() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "device standby"]


@pytest.fixture
def rehearsed() -> Rehearsed:
    return Rehearsed()


@pytest.fixture
def open_rehearsed(rack, waits, rehearsed) -> Iterator[Callable[..., Failover]]:
    opened: list[Failover] = []

    def open_failover(*, suspects: tuple[int, ...] = (0,)) -> Failover:
        more = {"suspects": frozenset(suspects), "standby": Standby(rehearsed)}
        opened.append(Failover(DEVICES, 0, rack.make(0), rack, wait=waits, now_s=waits.now_s, **more))
        return opened[-1]

    yield open_failover
    waits.end()
    for each in opened:
        each.close()
    wait_until(lambda: not rehearsals())


def test_the_next_rung_of_a_suspect_is_proven_in_the_background_and_no_more(open_rehearsed, rehearsed):
    open_rehearsed()
    wait_until(lambda: not rehearsals())
    assert rehearsed.proven == [1]


def test_what_cannot_hang_needs_no_next(open_rehearsed, rehearsed):
    open_rehearsed(suspects=())
    assert not rehearsals()
    assert rehearsed.proven == []


def test_a_suspect_that_takes_over_has_its_next_proven_too(open_rehearsed, rehearsed, rack):
    rack.faults[0] = Faults(fail_at=1)
    runtime = open_rehearsed(suspects=(0, 1))
    wait_until(lambda: not rehearsals())
    infer(runtime, 1)
    wait_until(lambda: not rehearsals())
    assert rehearsed.proven == [1, 2]


def test_what_was_refused_beforehand_is_tried_last_and_wanted_still(open_rehearsed, rehearsed, rack, waits):
    rehearsed.refused[1] = "good is unplugged"
    rack.faults[0] = Faults(fail_at=1)
    rack.missing[0] = "gone"
    runtime = open_rehearsed()
    wait_until(lambda: not rehearsals())
    assert rehearsed.proven == [1, 2]
    assert infer(runtime, 1) == [2] * 4
    assert runtime.device == "last"
    assert rack.opened == [(2, False)]
    assert runtime.state == "degraded: best fake failed at run 1, as asked; good is unplugged"
    waits.next()
    wait_until(lambda: returned(runtime))
    infer(runtime, 2)
    assert runtime.device == "good"


def test_where_all_were_refused_they_are_tried_nevertheless(open_rehearsed, rehearsed, rack):
    rehearsed.refused = {1: "busy", 2: "busy"}
    rack.faults[0] = Faults(fail_at=1)
    runtime = open_rehearsed()
    wait_until(lambda: not rehearsals())
    infer(runtime, 1)
    assert runtime.device == "good"


def test_a_proof_that_is_under_way_is_waited_for(open_rehearsed, rehearsed, rack):
    rehearsed.go = threading.Event()
    rack.faults[0] = Faults(fail_at=1)
    runtime = open_rehearsed()
    threading.Timer(0.05, rehearsed.go.set).start()
    infer(runtime, 1)
    assert rehearsed.proven == [1]
    assert rack.opened == [(1, False)]


def test_of_several_lost_rungs_a_better_one_is_taken_and_the_best_still_wanted(open_, rack, waits):
    rack.faults = {0: Faults(fail_at=1), 1: Faults(fail_at=1)}
    runtime = open_()
    infer(runtime, 1)
    assert runtime.device == "last"
    rack.faults.clear()
    rack.missing[0] = "still away"
    waits.next()
    wait_until(lambda: returned(runtime))
    infer(runtime, 2)
    assert runtime.device == "good"
    assert runtime.state == "degraded: best fake failed at run 1, as asked"
    rack.missing.clear()
    waits.next()
    wait_until(lambda: returned(runtime))
    infer(runtime, 3)
    assert (runtime.device, runtime.state) == ("best", "ok")


def test_a_rung_that_waits_to_be_taken_back_saves_the_frame(open_, rack, waits):
    """The present one fails just when a better one is ready: neither the frame nor the device is lost."""
    rack.faults = {0: Faults(fail_at=1), 1: Faults(fail_at=3)}
    runtime = open_(devices=DEVICES[:2])
    infer(runtime, 1)
    infer(runtime, 2)
    rack.faults.pop(0)
    runtime.input()[...] = 9
    waits.next()
    wait_until(lambda: returned(runtime))
    assert runtime.run()[0][0].tolist() == [18] * 4
    assert (runtime.device, runtime.state) == ("best", "ok")


def test_when_all_are_lost_it_is_down_says_so_and_recovers(open_, rack, waits, caplog):
    rack.faults[0] = Faults(fail_at=2)
    rack.missing = {1: "good is unplugged", 2: "last is on fire"}
    runtime = open_()
    infer(runtime, 1)
    reasons = "best fake failed at run 2, as asked; good is unplugged; last is on fire"
    with caplog.at_level(logging.INFO, "edgeinfer"):
        for _ in range(3):
            with pytest.raises(RuntimeFailed, match=f"^no device is left: down: {reasons}$"):
                infer(runtime, 2)
    assert runtime.state == f"down: {reasons}"
    assert len(caplog.records) == 1, "once, and not per frame"
    assert rack.runtimes[0].runs == 2, "nothing says that it is right again"
    rack.missing.pop(2)
    waits.next()
    wait_until(lambda: returned(runtime))
    # The one that failed can be opened again as well, and is better.
    assert rack.opened[-1] == (0, True)
    assert infer(runtime, 3) == [6] * 4
    assert (runtime.device, runtime.state) == ("best", "ok")


def test_from_down_the_first_that_answers_is_taken(open_, rack, waits):
    rack.faults[0] = Faults(fail_at=1)
    rack.missing = {0: "gone", 1: "gone", 2: "gone"}
    runtime = open_()
    with pytest.raises(RuntimeFailed):
        infer(runtime, 1)
    waits.next()
    waits.next()
    rack.missing.pop(2)
    waits.next()
    wait_until(lambda: returned(runtime))
    assert infer(runtime, 2) == [4] * 4
    assert runtime.device == "last"
    assert runtime.state == "degraded: best fake failed at run 1, as asked; good gone"


def test_closing_twice_and_the_rescuer_ends(rack):
    rack.faults[0] = Faults(fail_at=1)
    rack.missing[0] = "gone"
    runtime = Failover(DEVICES, 0, rack.make(0), rack)
    infer(runtime, 1)
    assert rescuers()
    began_s = time.monotonic()
    runtime.close()
    runtime.close()
    assert time.monotonic() - began_s < 1
    assert not rescuers()
    assert rack.is_all_closed()


def test_closing_during_a_rescue_closes_what_it_brings(rack, waits):
    rack.faults[0] = Faults(fail_at=1)
    rack.gate = threading.Event()
    runtime = Failover(DEVICES, 0, rack.make(0), rack, wait=waits, now_s=waits.now_s)
    infer(runtime, 1)
    waits.next()
    assert rack.at_gate.wait(20)
    closer = threading.Thread(target=runtime.close)
    closer.start()
    wait_until(runtime._closed.is_set)
    rack.gate.set()
    waits.end()
    closer.join(20)
    assert not rescuers()
    assert len(rack.runtimes) == 3
    assert rack.is_all_closed()


def test_closing_closes_a_device_that_waits_to_be_taken_back(rack, waits):
    rack.faults[0] = Faults(fail_at=1)
    runtime = Failover(DEVICES, 0, rack.make(0), rack, wait=waits, now_s=waits.now_s)
    infer(runtime, 1)
    rack.faults.clear()
    waits.next()
    wait_until(lambda: returned(runtime))
    waits.end()
    runtime.close()
    assert rack.is_all_closed()
    wait_until(lambda: not rescuers())


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ({"crash_at": "3"}, r"degraded: worker fake died \(SIGABRT\) while it ran "),
        ({"hang_at": "3"}, r"degraded: worker fake did not answer within 0\.3 s and was killed"),
        ({"fail_at": "3"}, r"degraded: worker fake failed at run 3, as asked"),
        ({"nan_at": "3"}, r"degraded: worker computes nonsense: output 'y' is 100% NaN or infinite"),
    ],
)
def test_a_worker_that_dies_costs_no_frame(file, driver, said):
    worker = Isolated(file, "fake", "", RuntimeOptions(driver=driver), deadline_s=5)
    worker.allow(0.3)

    def last(index: int, *, afresh: bool) -> FakeRuntime:
        if index == 0:
            raise DeviceNotFound("gone")
        return FakeRuntime(file, outputs=lambda inputs: (inputs[0] * 2,))

    runtime = Failover(("worker", "fake"), 0, worker, last, suspects=frozenset({0}))
    try:
        for number in range(6):
            runtime.input()[...] = number
            began_s = time.monotonic()
            (output,) = runtime.run()
            assert time.monotonic() - began_s < 2
            assert output[0].tolist() == [number * 2 if number >= 2 else 0] * 4
        assert re.match(said, runtime.state)
    finally:
        runtime.close()
    assert worker._worker.returncode is not None
