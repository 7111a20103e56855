"""To follow objects from frame to frame: what the tracker takes of each frame.

python -m scripts.benchmarks.tracking OBJECTS      one measurement
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from statistics import median

from scripts.benchmarks.contest import OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import tell

TITLE = "Tracking, of objects that walk about and pass each other"
MAX_MS = 0.3
FRAMES = 600
_CASES = {"20 objects": 20, "100 objects": 100}
_JUDGED = "20 objects"


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for case, objects in _CASES.items():
        rows += take_turns(rounds, case, {OURS: lambda objects=objects: fresh("tracking", objects)})
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    return [
        Line(case, "update", of(rows, case, OURS, "ms"), unit="ms", at_most=MAX_MS if case == _JUDGED else None)
        for case in cases(rows)
    ]


def run(objects: int) -> dict[str, float]:
    """The median over the frames, in milliseconds; how many tracks there are at the end."""
    from edgeinfer.scene.tracker import Tracker

    frames = _walks(objects)
    tracker, took_s = Tracker(), []
    for number, detections in enumerate(frames):
        begin_s = time.perf_counter()
        tracker.update(detections, number * 33_333_333, score_min=0.5, aspect=16 / 9)
        took_s.append(time.perf_counter() - begin_s)
    return {"ms": 1e3 * median(took_s), "tracks": float(len(tracker.tracks))}


def _walks(objects: int) -> list[list[object]]:
    from edgeinfer.result import Detection

    chance = random.Random(20)
    people = [(chance.random(), chance.random(), chance.uniform(-0.1, 0.1)) for _ in range(objects)]
    frames: list[list[object]] = []
    for number in range(FRAMES):
        detections: list[object] = []
        for x, y, speed in people:
            # There and back again, and one box in ten scores low.
            place = abs((x + speed * number / 30) % 2 - 1) * 0.9
            off, score = chance.gauss(0, 0.002), 0.3 if chance.random() < 0.1 else 0.9
            box = (place + off, y * 0.8, place + off + 0.06, y * 0.8 + 0.2)
            detections.append(Detection("person", 0, score, box))
        frames.append(detections)
    return frames


if __name__ == "__main__":
    tell(run(int(sys.argv[1])))
