"""The files of events, as they lie in the folder."""

from __future__ import annotations

import cv2
import numpy as np
from sightings import result

from edgeinfer.config import EventsConfig
from edgeinfer.event import Happening
from edgeinfer.frame import Frame
from edgeinfer.result import Detection
from edgeinfer.scene.files import EventFiles


def event(number, seq):
    at = "2026-11-26T12:00:00.000000Z"
    words = {"node": "n", "pipeline": "p", "occurred_at": at, "label": "person", "result": "0" * 26, "seq": seq}
    return Happening(id=f"{number:026d}", kind="enter", rule="r", start=at, end=at, track=1, **words)


def film(folder, *, events_at, seconds=10.0, **words):
    """Ten pictures a second, each as bright as its number; the object scores best in number 20."""
    files = EventFiles(EventsConfig(folder=str(folder), **words))
    for number in range(round(seconds * 10)):
        pixels = np.full((64, 96, 3), number, dtype=np.uint8)
        score = 0.9 - abs(number - 20) / 200
        seen = result(number, detections=[Detection("person", 0, score, (0.1, 0.1, 0.4, 0.9), track_id=1)])
        frame = Frame(pixels, number, 0, 0, "film", position_s=number / 10)
        files.write(seen, frame)
        if number in events_at:
            files.write_events([event(events_at.index(number) + 1, number)], seen, frame)
    files.close()
    return sorted(path.name for path in folder.iterdir())


def test_the_best_picture_is_kept_and_a_film_from_before_to_after(tmp_path):
    names = film(tmp_path, events_at=[30], before_s=2.0, after_s=1.0)
    assert names == [f"{1:026d}.jpg", f"{1:026d}.mp4"]
    # Of the two seconds before, that in which the object scored best.
    assert abs(int(cv2.imread(str(tmp_path / names[0])).mean()) - 20) <= 2
    clip = cv2.VideoCapture(str(tmp_path / names[1]))
    means = []
    while (read := clip.read())[0]:
        means.append(read[1].mean())
    clip.release()
    assert len(means) == 16  # Three seconds of five pictures, both ends included.
    assert abs(means[0] - 10) < 4
    assert abs(means[-1] - 40) < 4


def test_the_folder_stays_within_its_bytes_and_the_oldest_go(tmp_path):
    (tmp_path / "notes.txt").write_text("not ours" * 1000)
    names = film(tmp_path, events_at=list(range(10, 90, 10)), max_bytes="8kB")
    kept = [name for name in names if name != "notes.txt"]
    assert sum((tmp_path / name).stat().st_size for name in kept) <= 8000
    assert "notes.txt" in names
    assert f"{8:026d}.mp4" in kept
    assert f"{1:026d}.mp4" not in kept
