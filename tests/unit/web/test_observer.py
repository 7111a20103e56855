"""What a page shows of a pipeline costs a picture only while somebody watches, or something happens."""

from __future__ import annotations

import asyncio
import dataclasses

import cv2
import numpy as np
import pytest

from edgeinfer.web.observer import Observer
from edgeinfer.web.screen import Screen


@pytest.fixture
def told() -> list:
    return []


@pytest.fixture
def observer(now, told) -> Observer:
    return Observer("door", fps=10, on_event=lambda event, picture: told.append((event, picture)), clock=now.clock)


def decoded(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_unwatched_no_frame_is_wanted(now, observer, result_at):
    wanted = []
    for _ in range(100):
        now.s += 0.1
        wanted.append(observer.wants_this())
        observer.write(result_at(), None)
    assert wanted == [False] * 100


def test_watched_so_many_frames_a_second_are_wanted_and_shown_annotated(now, observer, result_at, frame):
    async def watch() -> tuple[int, bytes | None]:
        with observer.screen.watch() as viewer:
            wanted = 0
            for _ in range(90):
                now.s += 1 / 30
                if observer.wants_this():
                    wanted += 1
                    observer.write(result_at(person=1), frame)
            return wanted, await viewer.next(5)

    wanted, picture = asyncio.run(watch())
    assert 29 <= wanted <= 31
    shown = decoded(picture)
    assert shown.shape == (48, 64, 3)
    # The frame is gray all over: where there is colour, something was drawn.
    assert np.ptp(shown.astype(int), axis=2).max() > 60
    assert not np.any(frame.pixels != 200)
    assert observer.screen.viewers == 0


def test_a_large_picture_is_made_smaller_and_keeps_its_shape(observer, now, result_at, frame):
    large = dataclasses.replace(frame, pixels=np.full((720, 1280, 3), 200, np.uint8))

    async def watch() -> bytes | None:
        with observer.screen.watch() as viewer:
            observer.write(result_at(), large)
            return await viewer.next(5)

    assert decoded(asyncio.run(watch())).shape == (360, 640, 3)


def test_no_picture_comes_where_none_is_made(observer):
    async def watch() -> bytes | None:
        with observer.screen.watch() as viewer:
            return await viewer.next(0.01)

    assert asyncio.run(watch()) is None


def test_a_viewer_whose_loop_has_ended_holds_up_nobody(now):
    async def leave_without_a_word(screen: Screen) -> None:
        screen.watch().__enter__()

    screen = Screen(10, now.clock.monotonic_ns)
    asyncio.run(leave_without_a_word(screen))
    screen.show(b"picture")


def test_an_event_comes_with_a_picture_of_it_though_nobody_watches(now, told, observer, result_at, frame):
    observer.write(result_at(person=1), None)
    for _ in range(8):
        now.s += 0.1
        observer.write(result_at(person=1), frame if observer.wants_this() else None)
    ((event, picture),) = told
    assert (event.kind, event.label, event.count) == ("appeared", "person", 1)
    assert decoded(picture).shape == (48, 64, 3)
    assert not observer.wants_this()


def test_what_flickers_is_no_event_and_holds_no_frame(now, told, observer, result_at, frame):
    observer.write(result_at(person=1), None)
    now.s += 0.1
    assert observer.wants_this()
    observer.write(result_at(person=1), frame)
    now.s += 0.1
    observer.write(result_at(), None)
    assert told == []
    assert not observer.wants_this()


def test_while_undecided_a_frame_is_wanted_five_times_a_second_at_most(now, observer, result_at, frame):
    wanted = 0
    for number in range(100):
        observer.write(result_at(person=number % 2 + 1), None)
        now.s += 0.01
        wanted += observer.wants_this()
    assert wanted <= 5


def test_of_a_reused_result_only_its_age_is_measured(observer, result_at):
    observer.write(result_at(), None)
    observer.write(result_at(reused=True), None)
    counts = {stage: each.distribution().cumulative[-1] for stage, each in observer.durations.items()}
    assert counts == {"age": 2, "wait": 2, "preprocess": 1, "infer": 1, "decode": 1}
