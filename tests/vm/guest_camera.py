"""Runs as root inside the machine of test_camera_vm.py: the camera driver on real V4L2 devices, one line per check.

/dev/video0 is vivid, the kernel's virtual camera, whose controls inject faults; a software USB webcam under the
real uvcvideo driver can be unplugged and made to cut its pictures off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.frame import Frame
from edgeinfer.sources import Source, SourceOptions, open_source
from edgeinfer.sources.v4l2 import modes

VIVID = "/dev/video0"
VIVID_DRIVER = Path("/sys/bus/platform/drivers/vivid")
UVC_CONTROL = Path("/run/cam.ctl")
LOST_WITHIN_S = 5.0

said: list[str] = []
checks: list[Callable[[], None]] = []


class Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def check(function: Callable[[], None]) -> Callable[[], None]:
    checks.append(function)
    return function


def vivid(control: str, value: int = 1) -> None:
    subprocess.run(["v4l2-ctl", "-d", VIVID, "-c", f"{control}={value}"], check=True)


def uvc(command: str) -> None:
    UVC_CONTROL.write_text(command + "\n")


def settle() -> None:
    subprocess.run(["udevadm", "settle"], check=True)


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@contextlib.contextmanager
def opened(word: str, **options: object) -> Iterator[Source]:
    source = open_source(word, SourceOptions(**options))  # type: ignore[arg-type]
    try:
        yield source
    finally:
        source.close()


def take(source: Source, count: int) -> list[Frame]:
    frames = [frame for frame in (source.read() for _ in range(count)) if frame]
    assert len(frames) == count
    return frames


def refused(word: str) -> str:
    try:
        open_source(word).close()
    except SourceError as error:
        return str(error)
    raise AssertionError(f"{word} opened")


def lost(source: Source) -> tuple[str, float]:
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < 30:
            assert source.read() is not None
    except SourceLost as error:
        return str(error), time.monotonic() - begun
    raise AssertionError("not lost within 30 s")


@check
def size_rate_and_format_are_taken() -> None:
    with opened("camera://0?width=640&height=360&fps=15&format=YUYV") as source:
        frames = take(source, 16)
    assert frames[0].pixels.shape == (360, 640, 3), frames[0].pixels.shape
    assert [frame.seq for frame in frames] == list(range(16))
    assert source.fps == 15, source.fps
    assert source.live
    took_s = (frames[-1].captured_ns - frames[0].captured_ns) / 1e9
    assert took_s > 0.8, took_s  # A slow machine may take longer than 1 s; vivid's own 25 per second would take 0.6.
    assert not any("was asked for" in line for line in said), said
    with opened(VIVID, width=320, height=180) as source:
        assert take(source, 1)[0].pixels.shape == (180, 320, 3)


@check
def what_a_camera_offers_is_listed_as_v4l2_ctl_does() -> None:
    # The webcam's second node gives metadata and lists no picture.
    for node in (VIVID, os.path.realpath(next(Path("/dev/v4l/by-id").glob("*-video-index0")))):
        listed = subprocess.run(
            ["v4l2-ctl", "-d", node, "--list-formats-ext"], check=True, capture_output=True, text=True
        )
        sizes = set()
        for line in listed.stdout.splitlines():
            if found := re.match(r"\s*\[\d+\]: '(.{4}(?:-BE)?)'", line):
                name = found[1].rstrip()
            elif found := re.match(r"\s*Size: Discrete (\d+)x(\d+)", line):
                sizes.add((name, int(found[1]), int(found[2])))
        offered = modes(Path(node))
        assert sizes, listed.stdout
        ours = {(each.pixel_format, each.width, each.height) for each in offered}
        assert ours == sizes, f"only ours {ours - sizes}, only v4l2-ctl's {sizes - ours}"
        assert all(each.fps for each in offered), offered


@check
def what_cannot_be_had_is_logged() -> None:
    said.clear()
    with opened(VIVID, width=640, height=3600, pixel_format="MJPG") as source:
        take(source, 1)
    assert len(said) == 1, said
    assert "was asked for 640x3600 MJPG, took 640x" in said[0], said


@check
def a_camera_in_use_is_refused() -> None:
    with opened(VIVID) as source:
        take(source, 1)
        assert "fuser" in refused(VIVID)
        take(source, 3)


@check
def an_absent_camera_is_refused() -> None:
    message = refused("/dev/video7")
    assert "there is no /dev/video7; here are /dev/video0" in message, message


@check
def a_camera_without_permission_names_the_group() -> None:
    program = f"from edgeinfer.sources import open_source\nopen_source({VIVID!r})"
    ran = subprocess.run([sys.executable, "-c", program], user=65534, group=65534, capture_output=True, text=True)
    assert "no permission for /dev/video0; join the group video" in ran.stderr, ran.stderr


@check
def a_camera_slow_to_start_is_waited_for() -> None:
    with opened(VIVID, read_timeout_s=15.0) as source:
        vivid("percentage_of_dropped_buffers", 100)
        threading.Timer(3.0, vivid, ("percentage_of_dropped_buffers", 0)).start()
        begun = time.monotonic()
        take(source, 5)
    assert time.monotonic() - begun > 2.5


@check
def a_camera_that_falls_silent_is_lost_after_the_read_timeout() -> None:
    with opened(VIVID, read_timeout_s=2.0) as source:
        take(source, 3)
        vivid("percentage_of_dropped_buffers", 100)
        message, seconds = lost(source)
        vivid("percentage_of_dropped_buffers", 0)
    assert "gave no frame for" in message, message
    assert 2 <= seconds < LOST_WITHIN_S, seconds


@check
def closing_ends_the_read_of_another_thread() -> None:
    with opened(VIVID, read_timeout_s=30.0) as source:
        take(source, 2)
        vivid("percentage_of_dropped_buffers", 100)
        ends: list[object] = []
        reader = threading.Thread(target=lambda: ends.extend(iter(source.read, None)))
        reader.start()
        time.sleep(0.7)
        begun = time.monotonic()
        source.close()
        assert time.monotonic() - begun < 0.5
        reader.join(LOST_WITHIN_S)
        assert not reader.is_alive()
    vivid("percentage_of_dropped_buffers", 0)
    with opened(VIVID) as source:  # The device was let go of, by the reader.
        take(source, 1)


@check
def a_disconnect_is_lost_and_a_new_open_works() -> None:
    source = open_source(VIVID)
    take(source, 3)
    vivid("disconnect")
    message, seconds = lost(source)
    assert seconds < LOST_WITHIN_S, (message, seconds)
    source.close()
    with opened(VIVID) as again:
        take(again, 3)


@check
def a_fatal_streaming_error_is_lost_and_a_new_open_works() -> None:
    source = open_source(VIVID)
    take(source, 3)
    vivid("inject_fatal_streaming_error")
    _, seconds = lost(source)
    assert seconds < LOST_WITHIN_S, seconds
    source.close()
    with opened(VIVID) as again:
        take(again, 3)


@check
def a_driver_unbound_while_read_is_lost_and_works_when_bound_again() -> None:
    source = open_source(VIVID)
    take(source, 3)
    threading.Timer(0.5, (VIVID_DRIVER / "unbind").write_text, ("vivid.0",)).start()
    message, seconds = lost(source)
    assert "is gone after" in message, message
    assert seconds < LOST_WITHIN_S, seconds
    source.close()
    assert "there is no /dev/video0" in refused(VIVID)
    (VIVID_DRIVER / "bind").write_text("vivid.0")
    settle()
    with opened(VIVID) as again:
        take(again, 3)


def reduced_and_whole(word: str, **options: object) -> tuple[Frame, Frame]:
    """A picture of half its size, and one as it is; of the same scene, not of the same moment."""
    with opened(word, **options) as source:
        whole = take(source, 3)[-1]
    with opened(word, **options) as source:
        source.suffice(whole.width // 2, whole.height // 2)  # type: ignore[attr-defined]
        reduced = take(source, 3)[-1]
    assert reduced.full_size == (whole.width, whole.height), reduced.full_size
    assert reduced.pixels.shape == (whole.height // 2, whole.width // 2, 3), reduced.pixels.shape
    return reduced, whole


def difference(reduced: Frame, whole: Frame) -> float:
    smaller = cv2.resize(whole.pixels, reduced.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    return float(np.median(np.abs(smaller.astype(int) - reduced.pixels)))


@check
def pictures_in_nv12_are_reduced_before_they_are_converted() -> None:
    reduced, whole = reduced_and_whole(VIVID, width=640, height=360, pixel_format="NV12")
    assert difference(reduced, whole) < 4, difference(reduced, whole)


def webcam() -> Path:
    (link,) = Path("/dev/v4l/by-id").glob("*-video-index0")
    return link.resolve()


@check
def a_webcam_node_without_pictures_is_refused() -> None:
    (link,) = Path("/dev/v4l/by-id").glob("*-video-index1")
    assert "gives no pictures" in refused(str(link))


@check
def a_webcams_pictures_are_decoded_smaller() -> None:
    reduced, whole = reduced_and_whole(str(webcam()), pixel_format="MJPG")
    assert difference(reduced, whole) < 4, difference(reduced, whole)


@check
def pictures_cut_off_are_counted_and_never_passed_on() -> None:
    with opened(str(webcam()), pixel_format="MJPG") as source:
        take(source, 5)
        uvc("truncate 0.5")
        frames = take(source, 10)
        uvc("run")
        take(source, 3)
        skipped = dict(source.skipped)
    assert "cut off" in skipped["damaged pictures"], skipped
    # The test picture is bright everywhere; what is cut off would end in flat gray.
    assert all(frame.pixels[-40:].std() > 5 for frame in frames)


@check
def a_webcam_back_under_another_number_is_found_by_the_old_word() -> None:
    word = str(webcam())
    source = open_source(word, SourceOptions(pixel_format="MJPG"))
    take(source, 3)
    uvc("unplug")
    message, seconds = lost(source)
    assert "is gone after" in message, message
    assert seconds < LOST_WITHIN_S, seconds
    wait_for(lambda: not Path(word).exists())
    uvc("plug")  # The old handle is still open, so the number is taken.
    wait_for(lambda: any(Path("/dev/v4l/by-id").glob("*-video-index0")) if Path("/dev/v4l/by-id").exists() else False)
    settle()
    source.close()
    assert str(webcam()) != word
    with opened(word, pixel_format="MJPG") as again:
        assert take(again, 3)[0].uri == word
    assert any(line.endswith(f"is {webcam()} now") for line in said), said


def main() -> int:
    logging.basicConfig(level=logging.INFO, handlers=[Listener()])
    os.environ.pop("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", None)
    failures = 0
    for function in checks:
        begun = time.monotonic()
        try:
            function()
            result = "PASS"
        except Exception:  # noqa: BLE001 - the edge of a check: reported, and the next one runs
            failures += 1
            result = "FAIL " + " | ".join(traceback.format_exc().splitlines()[-4:])
        print(f"CHECK {function.__name__} {time.monotonic() - begun:.1f} {result}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
