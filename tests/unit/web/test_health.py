"""What a probe is told."""

from __future__ import annotations

from edgeinfer.web.health import Pulse, Vital, health_of


def vital(state="ok", *, name="door", error=None, has_begun=True, stalled_s=0.0) -> Vital:
    return Vital(name, state, error, has_begun, stalled_s)


def test_all_is_well():
    found = health_of([vital()], "ok")
    assert (found.condition, found.alive, found.ready, found.reasons) == ("ok", True, True, ())


def test_before_the_first_result_it_is_starting():
    found = health_of([vital(), vital(name="hall", has_begun=False)], None)
    assert (found.condition, found.ready) == ("starting", False)


def test_whoever_says_why_it_has_no_result_is_ready():
    found = health_of([vital("degraded: source lost", has_begun=False)], None)
    assert (found.condition, found.ready, found.reasons) == ("degraded", True, ("door degraded: source lost",))


def test_a_paused_pipeline_and_one_that_has_ended_are_no_trouble():
    found = health_of([vital("paused", has_begun=False), vital("stopped", name="film")], None)
    assert (found.condition, found.ready, found.reasons) == ("ok", True, ())


def test_without_a_broker_it_is_degraded_and_ready():
    found = health_of([vital()], "degraded: not connected yet")
    assert (found.condition, found.ready) == ("degraded", True)
    assert found.reasons == ("uplink degraded: not connected yet",)


def test_one_of_two_that_is_down_degrades_and_both_take_it_down():
    one = health_of([vital("down: edgetpu gone"), vital(name="hall")], None)
    both = health_of([vital("down: edgetpu gone"), vital("stopped", name="hall", error="no camera")], None)
    assert (one.condition, one.ready) == ("degraded", True)
    assert (both.condition, both.ready) == ("down", False)
    assert both.reasons == ("door down: edgetpu gone", "hall failed: no camera")


def test_one_that_hangs_is_not_alive():
    found = health_of([vital(stalled_s=42.0), vital(name="hall")], None)
    assert (found.condition, found.alive) == ("degraded", False)
    assert found.reasons == ("door hangs: nothing taken up for 42 s",)


def looks(pulse: Pulse, seconds: int, begin_s: float = 0.0, *, captured, taken_up, may_rest=False) -> float:
    for second in range(seconds):
        pulse.look(captured=captured(second), taken_up=taken_up(second), may_rest=may_rest, now_s=begin_s + second)
    return pulse.stalled_s


def test_frames_that_come_and_are_not_taken_up_are_a_stall():
    assert looks(Pulse(), 30, captured=lambda s: s, taken_up=lambda s: 7) == 0
    assert looks(Pulse(), 40, captured=lambda s: s, taken_up=lambda s: 7) >= 30


def test_a_source_that_gives_nothing_is_none():
    assert looks(Pulse(), 1000, captured=lambda s: 5, taken_up=lambda s: 5) == 0


def test_a_pause_is_none_and_a_stall_ends_with_the_next_frame():
    assert looks(Pulse(), 1000, captured=lambda s: s, taken_up=lambda s: 7, may_rest=True) == 0
    pulse = Pulse()
    assert looks(pulse, 100, captured=lambda s: s, taken_up=lambda s: 7) > 0
    assert looks(pulse, 1, 100, captured=lambda s: 101, taken_up=lambda s: 8) == 0


def test_a_stall_stays_one_when_the_source_falls_silent_behind_it():
    pulse = Pulse()
    looks(pulse, 100, captured=lambda s: s, taken_up=lambda s: 7)
    assert looks(pulse, 100, 100, captured=lambda s: 99, taken_up=lambda s: 7) > 100


def test_a_slow_rate_is_given_three_periods():
    assert looks(Pulse(0.01), 250, captured=lambda s: s, taken_up=lambda s: 7) == 0
    assert looks(Pulse(0.01), 350, captured=lambda s: s, taken_up=lambda s: 7) >= 300
