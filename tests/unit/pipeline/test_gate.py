"""A pipeline with a gate: what is reused, for how long, and how it is marked."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig
from edgeinfer.errors import RuntimeFailed, UsageError
from edgeinfer.frame import Frame
from edgeinfer.pipeline import Limits, Pipeline
from edgeinfer.pipeline.assemble import open_pipeline
from edgeinfer.pipeline.gate import GATES, Reuse
from edgeinfer.pipeline.motion import MotionGate
from edgeinfer.sinks.memory import MemorySink

GRAY = np.full((48, 64, 3), 90, np.uint8)
LIGHT = np.full((48, 64, 3), 190, np.uint8)


class Reel:
    """A source that shows these pictures at these seconds; live where the seconds are of a clock."""

    uri = "reel:"
    fps = None
    skipped: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *shots, live=False):
        self.live = live
        self._shots = list(enumerate(shots))
        self.taken = threading.Semaphore(1)

    def read(self):
        if self.live:
            self.taken.acquire()
        if not self._shots:
            return None
        seq, (pixels, at_s) = self._shots.pop(0)
        captured_ns = round(at_s * 1e9) if self.live else 5
        return Frame(pixels, seq, captured_ns, 7, self.uri, None if self.live else at_s)

    def close(self):
        self.taken.release()


def run(model, *shots, keyframe_s=2.0, **limits):
    sink = MemorySink()
    limits = Limits(keyframe_s=keyframe_s, **limits)
    report = Pipeline(model, Reel(*shots), [sink], limits=limits, gate=MotionGate()).run()
    return list(sink), report


def test_a_reused_result_says_so_and_from_which_frame_it_is(make_model):
    model, runtime = make_model()
    (first, second, third), report = run(model, (GRAY, 0.0), (GRAY, 0.1), (LIGHT, 0.2))
    assert runtime.runs == 2
    assert (second.reused, second.inferred_seq, second.inferred_age_ms) == (True, 0, 100.0)
    assert (second.seq, second.position_s, second.classes) == (1, 0.1, first.classes)
    assert second.id not in (first.id, third.id)
    assert (second.timing_ms.preprocess, second.timing_ms.infer, second.timing_ms.decode) == (0, 0, 0)
    assert second.timing_ms.age >= second.timing_ms.wait >= 0
    for fresh in (first, third):
        assert not {"reused", "inferred_seq", "inferred_age_ms"} & msgspec.json.decode(fresh.to_json()).keys()
    written = msgspec.json.decode(second.to_json())
    assert (written["reused"], written["inferred_seq"], written["inferred_age_ms"]) == (True, 0, 100.0)
    assert (report.frames, report.gated, report.results) == (2, 1, 3)


def test_a_keyframe_is_inferred_though_nothing_moves(make_model):
    results, report = run(make_model()[0], *((GRAY, index / 10) for index in range(50)), keyframe_s=1.0)
    assert [result.seq for result in results if not result.reused] == [0, 10, 20, 30, 40]
    assert max(result.inferred_age_ms or 0 for result in results) == 900.0
    assert report.counts["captured"] == report.frames + report.gated == 50


def test_the_age_of_a_chain_of_reused_results_is_that_of_the_inference(make_model):
    results, _ = run(make_model()[0], *((GRAY, index / 10) for index in range(5)))
    assert [result.inferred_seq for result in results] == [None, 0, 0, 0, 0]
    assert [result.inferred_age_ms for result in results[1:]] == pytest.approx([100, 200, 300, 400])


def test_time_that_goes_back_is_a_new_scene(make_model):
    results, _ = run(make_model()[0], (GRAY, 5.0), (GRAY, 5.1), (GRAY, 0.0), (GRAY, 0.1))
    assert [result.reused for result in results] == [False, True, False, True]


def test_a_frame_that_failed_is_not_what_later_ones_are_compared_with(make_model):
    model, runtime = make_model()
    gate = MotionGate()
    reuse = Reuse(gate)
    frames = [Frame(pixels, seq, seq, 0, "test:") for seq, pixels in enumerate((GRAY, LIGHT, LIGHT, LIGHT))]
    assert reuse.for_frame(frames[0]) is None
    reuse.inferred(frames[0], model.infer(frames[0]))
    assert reuse.for_frame(frames[1]) is None
    runtime.close()
    with pytest.raises(RuntimeFailed):
        model.infer(frames[1])
    # The second never was inferred, so nothing may be said of the third by it.
    assert reuse.for_frame(frames[2]) is None


def test_frames_counts_what_the_gate_answered(make_model):
    results, report = run(make_model()[0], *((GRAY, index / 10) for index in range(50)), frames=7)
    assert (len(results), report.frames, report.gated) == (7, 1, 6)


def test_a_live_camera_is_gated_by_the_clock(make_model):
    now_ns = [0]
    clock = Clock(monotonic_ns=lambda: now_ns[0], unix_ns=lambda: 0)
    model, _ = make_model(clock=clock)
    source, sink = Reel(*((GRAY, index) for index in range(5)), live=True), MemorySink()
    pipeline = Pipeline(model, source, [sink], limits=Limits(keyframe_s=3), gate=MotionGate(), clock=clock)
    pipeline.start()
    results = []
    for result in sink:
        results.append(result)
        source.taken.release()
    assert [result.reused for result in results] == [False, True, True, False, True]
    assert results[2].inferred_age_ms == 2000.0
    assert pipeline.wait(5)


def test_without_a_gate_a_keyframe_is_refused_and_a_misspelt_gate_is_said():
    words = {"model": "blood-cells", "source": "synthetic://noise?frames=1"}
    with pytest.raises(UsageError, match="keyframe is for a gate"):
        open_pipeline(PipelineConfig(**words, keyframe=1.0))
    with pytest.raises(UsageError, match="did you mean 'motion'"):
        open_pipeline(PipelineConfig(**words, gate="moton"))


@pytest.mark.parametrize("name", GATES.names())
def test_every_gate_keeps_the_contract(name):
    gate = GATES.get(name)()
    still = Frame(GRAY, 0, 0, 0, "test:")
    assert not gate.is_still(still)
    assert not gate.is_still(still), "nothing was kept yet"
    gate.keep()
    assert gate.is_still(still)
    assert not gate.is_still(Frame(np.full((96, 128, 3), 90, np.uint8), 0, 0, 0, "test:")), "another size"
    assert not gate.is_still(still), "what was kept went with its size"
