"""Whether two models find the same, and whether one does as well as the other: against areas and counts by hand."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame
from edgeinfer.metrics import Tally
from edgeinfer.node.agreement import Agreement, iou
from edgeinfer.node.judge import Measure, Meter, fault_of, is_excused, took_ms
from edgeinfer.node.shadow import Shadow, in_words
from edgeinfer.result import Classification, Detection, Outcome

LEFT, RIGHT = (0.0, 0.0, 0.5, 0.5), (0.6, 0.5, 1.0, 1.0)


def objects(*found: tuple[str, tuple[float, float, float, float]]) -> Outcome:
    return Outcome(detections=tuple(Detection(label, 0, 0.9 - at / 100, box) for at, (label, box) in enumerate(found)))


def classes(*labels: str) -> Outcome:
    return Outcome(classes=tuple(Classification(label, 0, 0.9 - at / 100) for at, label in enumerate(labels)))


@pytest.mark.parametrize("seed", range(4))
def test_iou_is_that_of_counted_pixels(seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 101, (2, 2, 2)), axis=1)  # box, min or max, x or y
    masks = np.zeros((2, 100, 100), bool)
    for mask, ((left, top), (right, bottom)) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    one, other = (tuple(map(float, box.ravel() / 100)) for box in corners)
    assert iou(one, other) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_boxes_that_only_touch_or_have_no_area_share_nothing():
    assert iou((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)) == 0.0
    assert iou((0.2, 0.2, 0.2, 0.2), (0.2, 0.2, 0.2, 0.2)) == 0.0


@pytest.mark.parametrize(
    ("active", "candidate", "share", "by_class"),
    [
        pytest.param(objects(("dog", LEFT)), objects(("dog", LEFT)), 1.0, {"dog": 1.0}, id="the same"),
        pytest.param(objects(("dog", LEFT)), objects(("cat", LEFT)), 0.0, {"dog": 0.0, "cat": 0.0}, id="another label"),
        pytest.param(objects(("dog", LEFT)), objects(("dog", RIGHT)), 0.0, {"dog": 0.0}, id="elsewhere"),
        # A half of the one is the other, and a little less.
        pytest.param(objects(("dog", LEFT)), objects(("dog", (0.0, 0.0, 0.25, 0.5))), 1.0, {"dog": 1.0}, id="half"),
        pytest.param(objects(("dog", LEFT)), objects(("dog", (0.0, 0.0, 0.24, 0.5))), 0.0, {"dog": 0.0}, id="less"),
        pytest.param(objects(("dog", LEFT)), objects(("dog", LEFT), ("dog", LEFT)), 0.5, {"dog": 0.5}, id="each once"),
        pytest.param(objects(), objects(), None, {}, id="nothing"),
        pytest.param(classes("cat", "dog"), classes("cat", "cow"), 1.0, {"cat": 1.0}, id="the best class"),
        pytest.param(classes("cat"), classes("dog"), 0.0, {"cat": 0.0, "dog": 0.0}, id="another class"),
        pytest.param(classes(), classes("dog"), 0.0, {"dog": 0.0}, id="no class"),
    ],
)
def test_those_agree_that_bear_the_same_label_at_the_same_place(active, candidate, share, by_class):
    agreement = Agreement()
    agreement.add(active, candidate)
    assert agreement.share == share
    assert agreement.by_class() == by_class


BEFORE = Measure(answers=100, p95_ms=20.0, captured=100, dropped=10, lost=0)


@pytest.mark.parametrize(
    ("now", "before", "budget_ms", "why"),
    [
        (Measure(20, 30.0, 20, 0, 0), BEFORE, None, None),
        (Measure(20, 30.1, 20, 0, 0), BEFORE, None, "p95 is 30.1 ms, at most 30.0"),
        (Measure(19, 90.0, 20, 0, 0), BEFORE, None, None),
        (Measure(20, 0.9, 20, 0, 0), Measure(100, 0.3, 100, 0, 0), None, None),
        (Measure(20, 45.0, 20, 0, 0), BEFORE, 50.0, None),
        (Measure(20, 55.0, 20, 0, 0), BEFORE, 50.0, "at most 50.0"),
        (Measure(20, 500.0, 20, 0, 0), None, None, None),
        (Measure(20, 20.0, 100, 20, 0), BEFORE, None, None),
        (Measure(20, 20.0, 100, 21, 0), BEFORE, None, "21% of what comes is dropped, 10% was"),
        (Measure(0, 0.0, 49, 49, 0), BEFORE, None, None),
    ],
)
def test_what_is_worse_than_before_is_said(now, before, budget_ms, why):
    fault = fault_of(now, before, budget_ms)
    assert fault is None if why is None else why in fault


class Candidate:
    """Takes 10 ms of a virtual clock for each frame."""

    def __init__(self, outcome: Outcome) -> None:
        self.now_ns = 0
        self.outcome = outcome
        self.closed = False

    def answer(self, frame: Frame):
        begun_ns = self.now_ns
        self.now_ns += 10_000_000
        return Found(self.outcome, (begun_ns, begun_ns, self.now_ns, self.now_ns))

    def close(self) -> None:
        self.closed = True


class Found:
    def __init__(self, outcome: Outcome, stages_ns: tuple[int, int, int, int], prepared_ns: int = 0) -> None:
        self.outcome, self.stages_ns, self.prepared_ns = outcome, stages_ns, prepared_ns


def test_what_was_done_ahead_counts_as_what_a_frame_took():
    assert took_ms(Found(objects(), (1_000_000, 2_000_000, 3_000_000, 5_000_000), prepared_ns=500_000)) == 4.5


@pytest.mark.parametrize(
    ("others", "before", "is_so"),
    [(0.25, 0.1, False), (0.26, 0.1, True), (0.75, 0.7, False), (0.76, 0.9, True), (0.1, 0.6, False)],
)
def test_slowness_is_excused_where_others_take_more_than_before_or_most_of_it(others, before, is_so):
    assert is_excused(others, before) is is_so


@pytest.mark.parametrize(
    ("took_ms", "keeps_up"),
    [([20, 20, 900, 20], True), ([29, 29, 20, 29], True), ([31, 31, 20, 31], False), ([], True), ([900], True)],
)
def test_who_keeps_up_is_told_by_most_frames_of_a_camera_of_25_fps(took_ms, keeps_up):
    meter = Meter(Idle())
    for seq, each_ms in enumerate(took_ms):
        frame = Frame(FRAME.pixels, 2 * seq, 2 * seq * 40_000_000, 0, "test:")  # Every second one is dropped.
        meter.look(frame, Found(objects(), (0, 0, 0, each_ms * 1_000_000)))
    assert meter.keeps_up() is keeps_up


class Idle:
    """A pipeline that counts nothing."""

    tally = Tally()


FRAME = Frame(np.zeros((4, 4, 3), np.uint8), 0, 0, 0, "test:")


def test_a_shadow_keeps_to_its_share_and_to_a_tenth_of_the_time():
    candidate, rested_s = Candidate(objects()), []
    compared = threading.Semaphore(0)

    def rest(seconds: float) -> bool:
        rested_s.append(seconds)
        compared.release()
        return False

    shadow = Shadow(candidate, 0.05, clock=Clock(monotonic_ns=lambda: candidate.now_ns), wait=rest)
    usual = Found(objects(("dog", LEFT)), (0, 0, 4_000_000, 4_000_000))
    try:
        for number in range(1, 601):
            shadow.look(FRAME, usual)
            if number % 20 == 0:
                assert compared.acquire(timeout=30)
                while shadow._is_resting:
                    pass
        report = shadow.report()
    finally:
        shadow.close()
    assert (report.frames, report.skipped, report.agreement) == (30, 0, 0.0)
    assert (report.p95_ms, report.active_p95_ms) == (10.0, 4.0)
    assert rested_s == [pytest.approx(0.09)] * 30
    assert "finds nothing where the active model found 30" in shadow.fault
    assert in_words(report) == "agrees in 0% over 30 answers (least: dog 0%); p95 10.0 ms, the active model 4.0 ms"
    assert candidate.closed
