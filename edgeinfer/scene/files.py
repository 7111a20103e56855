"""A picture and a film of each event, in a folder that holds so many bytes at most."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeinfer.config import EventsConfig
from edgeinfer.durable import replace_file, sync_folder
from edgeinfer.errors import ConfigError, OutputError
from edgeinfer.event import Happening
from edgeinfer.frame import Frame
from edgeinfer.quantity import parse_bytes
from edgeinfer.result import Result

_FPS = 5
_WIDTH_MAX = 1280
_QUALITY = 85
_OPEN_MAX = 32
# Ours alone are counted and deleted: ids of events sort by their time.
_NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}\.(jpg|mp4)")


@dataclass(frozen=True, slots=True)
class _Picture:
    """jpeg: as it is written; scores: of the tracks in it."""

    at_ns: int
    jpeg: bytes
    scores: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Film:
    id: str
    until_ns: int
    pictures: list[_Picture]


class EventFiles:
    """A sink; see Sink. Of a film five pictures a second are kept, as JPEG, so that what waits takes little memory.

    Raises ConfigError where the folder cannot be made.
    """

    wants_pixels = True

    def __init__(self, config: EventsConfig) -> None:
        self.uri = f"events:{config.folder}"
        self._folder = Path(config.folder)
        self._bytes_max = parse_bytes(config.max_bytes)
        self._after_ns = round(config.after_s * 1e9)
        self._before_ns = round(config.before_s * 1e9)
        self._recent: deque[_Picture] = deque()
        self._films: list[_Film] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as refused:
            raise ConfigError(f"events.folder: cannot make {self._folder}: {refused.strerror}") from refused

    def write(self, result: Result, frame: Frame | None) -> None:
        if frame is None:  # Of a window of samples there is no picture.
            return
        now_ns = _time_ns(frame)
        if self._recent and 0 <= now_ns - self._recent[-1].at_ns < 1e9 / _FPS:
            return
        picture = _picture(result, frame)
        self._recent.append(picture)
        while now_ns - self._recent[0].at_ns > self._before_ns and len(self._recent) > 1:
            self._recent.popleft()
        for film in self._films:
            film.pictures.append(picture)
        for film in [film for film in self._films if now_ns >= film.until_ns]:
            self._finish(film)

    def write_events(self, events: Sequence[Happening], result: Result, frame: Frame | None) -> None:
        if frame is None:
            return
        for event in events:
            if event.id is None or (event.end is not None and event.end != event.start):
                continue
            best = self._best_of(event) or _picture(result, frame)
            self._keep(f"{event.id}.jpg", best.jpeg)
            if len(self._films) >= _OPEN_MAX:
                self._finish(self._films[0])
            self._films.append(_Film(event.id, _time_ns(frame) + self._after_ns, list(self._recent)))

    def close(self) -> None:
        for film in tuple(self._films):
            self._finish(film)

    def _best_of(self, event: Happening) -> _Picture | None:
        """Of its object the picture in which it scores best."""
        seen = [picture for picture in self._recent if event.track in picture.scores]
        return max(seen, key=lambda picture: picture.scores[event.track or 0], default=None)

    def _keep(self, name: str, content: bytes) -> None:
        self._make_room(len(content))
        try:
            replace_file(self._folder / name, content)
        except OSError as failed:
            raise OutputError(f"cannot write {self._folder / name}: {failed.strerror}") from failed

    def _finish(self, film: _Film) -> None:
        self._films.remove(film)
        if not film.pictures:
            return
        beside = self._folder / f".{film.id}.new.mp4"
        try:
            _write_film(beside, film.pictures)
            self._make_room(beside.stat().st_size)
            beside.replace(self._folder / f"{film.id}.mp4")
            sync_folder(self._folder)
        except (OSError, cv2.error) as failed:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise OutputError(f"cannot write {self._folder / film.id}.mp4: {failed}") from failed

    def _make_room(self, needed: int) -> None:
        """Delete the oldest until there is room."""
        try:
            sizes = sorted(
                (each.name, each.stat().st_size) for each in os.scandir(self._folder) if _NAME.fullmatch(each.name)
            )
            total = sum(size for _, size in sizes) + needed
            for name, size in sizes:
                if total <= self._bytes_max:
                    return
                (self._folder / name).unlink(missing_ok=True)
                total -= size
        except OSError as failed:
            raise OutputError(f"cannot make room in {self._folder}: {failed.strerror}") from failed


def _time_ns(frame: Frame) -> int:
    return frame.captured_ns if frame.position_s is None else round(frame.position_s * 1e9)


def _picture(result: Result, frame: Frame) -> _Picture:
    height, width = frame.pixels.shape[:2]
    share = min(1.0, _WIDTH_MAX / width)
    size = round(width * share), max(1, round(height * share))
    try:
        pixels = frame.pixels if share == 1.0 else cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA)
        is_done, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    except cv2.error as refused:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG: {refused}") from refused
    if not is_done:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG")
    scores = {each.track_id: each.score for each in result.detections or () if each.track_id is not None}
    return _Picture(_time_ns(frame), encoded.tobytes(), scores)


def _write_film(path: Path, pictures: Sequence[_Picture]) -> None:
    """Durably. Raises OSError where it cannot be written."""
    writer: cv2.VideoWriter | None = None
    try:
        for picture in pictures:
            pixels = cv2.imdecode(np.frombuffer(picture.jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None, "it was encoded here"
            if writer is None:
                size = max(pixels.shape[1] & ~1, 16), max(pixels.shape[0] & ~1, 16)
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(path.absolute()), cv2.CAP_FFMPEG, codec, _FPS, size)
                if not writer.isOpened():
                    raise OSError("the video encoder did not start")
            writer.write(cv2.resize(pixels, size) if pixels.shape[1::-1] != size else pixels)
    finally:
        if writer is not None:
            writer.release()
    with path.open("rb") as written:
        os.fsync(written.fileno())
