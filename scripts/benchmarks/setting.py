"""Where the models and videos are, and how long to measure."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST_DATA = ROOT.parent / "shared" / "testdata"
MODELS = TEST_DATA / "models"
VIDEOS = {"432p": "one-by-one-person-detection.mp4", "1080p": "traffic_hd_short.mp4"}

HD_FRAMES = 800
HD_CODEC = "mp4v"


@dataclass
class Setting:
    """quick: only see that it works; the figures mean little. minutes: how long the live scenario looks."""

    quick: bool = False
    minutes: float = 1.0


SETTING = Setting()


def model(name: str) -> Path:
    """A model of the test data."""
    return _there(MODELS / name)


@cache
def scratch() -> Path:
    """A folder for this run; the state folder lies in it, so that each model is proven once."""
    return Path(tempfile.mkdtemp(prefix="edgeinfer-bench-"))


@cache
def video(size: str) -> Path:
    """768x432 H.264 as it is. The 1080p clip has 20 frames: they are played to and fro, encoded anew."""
    path = _there(TEST_DATA / "media/video" / VIDEOS[size])
    return _looped(path, scratch() / "1080p.mp4") if size == "1080p" else path


@cache
def threads(model: Path) -> int:
    """How many threads edgeinfer lets a CPU have for it on this board; 0 where it leaves that to the runtime."""
    from edgeinfer.board import recognise_board
    from edgeinfer.bundle.load import read_model_file
    from edgeinfer.delegates import threads_for

    return threads_for(read_model_file(model), recognise_board()) or 0


def tidy() -> None:
    """Remove the folder, and all that lies in it."""
    shutil.rmtree(scratch(), ignore_errors=True)
    scratch.cache_clear()
    video.cache_clear()


def describe_videos() -> str:
    return (
        f"768x432: {VIDEOS['432p']}, H.264; 1080p: the 20 frames of {VIDEOS['1080p']} to and fro, "
        f"{HD_FRAMES} frames encoded by OpenCV as {HD_CODEC}"
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"scripts/bench: {path} is not here; the test data belong at {TEST_DATA}")
    return path


def _looped(clip: Path, longer: Path) -> Path:
    import cv2

    capture = cv2.VideoCapture(str(clip))
    there = []
    while (frame := capture.read())[0]:
        there.append(frame[1])
    to_and_fro = there + there[-2:0:-1]
    height, width = there[0].shape[:2]
    writer = cv2.VideoWriter(str(longer), cv2.VideoWriter.fourcc(*HD_CODEC), 30, (width, height))
    if not writer.isOpened():
        raise SystemExit(f"scripts/bench: this OpenCV cannot write {HD_CODEC} video")
    for index in range(HD_FRAMES + 20):
        writer.write(to_and_fro[index % len(to_and_fro)])
    writer.release()
    return longer
