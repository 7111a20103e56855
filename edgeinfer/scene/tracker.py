"""Who is who from frame to frame: BYTE's association (Zhang et al. 2022) and constant velocities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeinfer.result import Detection
from edgeinfer.scene.assignment import best_pairs
from edgeinfer.scene.motion import Motion, Numbers

# What scores less is no object to follow; between this and the pipeline's own threshold it keeps a track alive.
SCORE_FLOOR = 0.1
# So long a track waits for its object to be seen again.
LOST_NS = 1_000_000_000
# The least overlap of where a track should be with what is seen: of what scores high, of what scores low, and of what
# was seen once only.
_IOU_HIGH, _IOU_LOW, _IOU_NEW = 0.2, 0.5, 0.3
# A track begins with what scores so much more than is needed to go on with it; what scores that high always does.
_MORE_TO_BEGIN, _CERTAIN = 0.1, 0.8
# Of a box that no track wants: how much of it may lie within that of an object already seen, or hold that, before it
# is another view of the same.
_WITHIN_MAX = 0.6
# A picture without a time of its own after the one before, as of a clock that stood still.
_LEAST_S = 1e-3
_Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Track:
    """One object that is followed. id: from 1, None before it was seen twice.

    box_xyxy: where it was seen last, or is thought to be while it is not seen. score: of the last time.
    seen_ns: when that was. best_score: of all times.
    """

    id: int | None
    label: str
    class_id: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    seen_ns: int
    best_score: float


class Tracker:
    """Follows the objects of one pipeline; called by one thread, in the order of time.

    Times are those of the scene in nanoseconds: where frames were dropped the objects are looked for further on.
    """

    def __init__(self) -> None:
        self._motion = Motion()
        self._tracks: list[Track] = []
        self._now_ns: int | None = None
        self._last_id = 0

    @property
    def tracks(self) -> tuple[Track, ...]:
        """All that are followed, those not seen at present included."""
        return tuple(self._tracks)

    def hold(self, now_ns: int) -> None:
        """Time passed, and nothing moved: who was in sight still is."""
        before_ns, self._now_ns = self._now_ns, now_ns
        self._tracks = [
            replace(track, seen_ns=now_ns) if track.seen_ns == before_ns else track for track in self._tracks
        ]

    def update(
        self, detections: Sequence[Detection], now_ns: int, *, score_min: float, aspect: float
    ) -> list[int | None]:
        """The track of each detection, None where it is not (yet) followed.

        detections: with those down to SCORE_FLOOR. score_min: from there on they count as seen. aspect: width of the
        picture by its height.
        """
        self._pass_time(now_ns)
        boxes_xyxy = np.array([each.box_xyxy for each in detections], dtype=np.float64).reshape(-1, 4)
        boxes_xyxy[:, ::2] *= aspect
        class_ids = np.array([each.class_id for each in detections], dtype=np.int64)
        scores = np.array([each.score for each in detections])
        high, low = np.flatnonzero(scores >= score_min), np.flatnonzero((scores < score_min) & (scores >= SCORE_FLOOR))
        known = np.array([index for index, track in enumerate(self._tracks) if track.id is not None], dtype=np.int64)
        new = np.array([index for index, track in enumerate(self._tracks) if track.id is None], dtype=np.int64)
        overlap = self._overlaps(boxes_xyxy, class_ids)

        seen, high_left, known_left = _matched(overlap, scores, known, high, _IOU_HIGH)
        # Who was lost before is not found again by what may be nothing.
        known_left = known_left[[self._tracks[index].seen_ns == self._before_ns for index in known_left]]
        seen_low, _, _ = _matched(overlap, scores, known_left, low, _IOU_LOW)
        seen_new, high_left, new_left = _matched(overlap, scores, new, high_left, _IOU_NEW)
        pairs = seen + seen_low + seen_new
        self._correct(pairs, boxes_xyxy, detections, now_ns, aspect)
        ids: list[int | None] = [None] * len(detections)
        for track, detection in pairs:
            ids[detection] = self._tracks[track].id
        gone = {*new_left.tolist()}
        gone |= {index for index, track in enumerate(self._tracks) if now_ns - track.seen_ns > LOST_NS}
        self._keep([index for index in range(len(self._tracks)) if index not in gone])
        certain = high_left[scores[high_left] >= min(score_min + _MORE_TO_BEGIN, _CERTAIN)]
        taken = [detection for _, detection in pairs]
        begun = []
        for index in certain.tolist():
            if not _is_another_view(index, np.array(taken, dtype=np.int64), boxes_xyxy, class_ids):
                begun.append(index)
                taken.append(index)
        self._begin(np.array(begun, dtype=np.int64), boxes_xyxy, detections, now_ns)
        return ids

    def _pass_time(self, now_ns: int) -> None:
        self._before_ns = self._now_ns
        if self._now_ns is not None:
            passed_s = min(max((now_ns - self._now_ns) / 1e9, _LEAST_S), LOST_NS / 1e9)
            self._motion.predict(passed_s)
        self._now_ns = now_ns

    def _overlaps(self, boxes_xyxy: Numbers, class_ids: _Index) -> Numbers:
        """(tracks, detections) intersection over union; 0 where the classes differ."""
        place = self._motion.place
        half = place[:, 2:] / 2
        mine_xyxy = np.concatenate((place[:, :2] - half, place[:, :2] + half), axis=1)[:, None]
        inner = np.minimum(mine_xyxy[..., 2:], boxes_xyxy[:, 2:]) - np.maximum(mine_xyxy[..., :2], boxes_xyxy[:, :2])
        shared = np.maximum(inner, 0).prod(axis=2)
        union = place[:, 2:].prod(axis=1)[:, None] + (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1) - shared
        same = np.array([track.class_id for track in self._tracks], dtype=np.int64)[:, None] == class_ids
        overlap: Numbers = same * shared / np.maximum(union, 1e-12)
        return overlap

    def _correct(
        self,
        pairs: Sequence[tuple[int, int]],
        boxes_xyxy: Numbers,
        detections: Sequence[Detection],
        now_ns: int,
        aspect: float,
    ) -> None:
        if pairs:
            rows, picked = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
            self._motion.correct(rows, _places(boxes_xyxy[picked]))
        for index, picked_one in pairs:
            track, found = self._tracks[index], detections[picked_one]
            if track.id is None:
                self._last_id += 1
            self._tracks[index] = Track(
                track.id or self._last_id,
                found.label,
                found.class_id,
                found.score,
                found.box_xyxy,
                now_ns,
                max(track.best_score, found.score),
            )
        seen = {index for index, _ in pairs}
        for index in range(len(self._tracks)):
            if index not in seen:
                self._tracks[index] = replace(self._tracks[index], box_xyxy=self._thought_box(index, aspect))

    def _thought_box(self, index: int, aspect: float) -> tuple[float, float, float, float]:
        x, y, width, height = self._motion.place[index].tolist()
        x_min, y_min, x_max, y_max = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return x_min / aspect, y_min, x_max / aspect, y_max

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self._tracks):
            self._tracks = [self._tracks[row] for row in rows]
            self._motion.keep(rows)

    def _begin(self, picked: _Index, boxes_xyxy: Numbers, detections: Sequence[Detection], now_ns: int) -> None:
        if not picked.size:
            return
        self._motion.add(_places(boxes_xyxy[picked]))
        for found in (detections[index] for index in picked):
            self._tracks.append(
                Track(None, found.label, found.class_id, found.score, found.box_xyxy, now_ns, found.score)
            )


def _matched(
    overlap: Numbers, scores: Numbers, tracks: _Index, picked: _Index, iou_min: float
) -> tuple[list[tuple[int, int]], _Index, _Index]:
    """(track, detection) pairs that overlap by that much; the detections and the tracks that are left.

    Of several boxes on an object that which scores best counts most, and not a stray one that lies a little nearer.
    """
    if not (tracks.size and picked.size):
        return [], picked, tracks
    pairs = best_pairs(np.maximum(overlap[np.ix_(tracks, picked)] - iou_min, 0) * scores[picked])
    detections_left, tracks_left = np.ones(picked.size, dtype=bool), np.ones(tracks.size, dtype=bool)
    for row, column in pairs:
        tracks_left[row] = detections_left[column] = False
    named = [(int(tracks[row]), int(picked[column])) for row, column in pairs]
    return named, picked[detections_left], tracks[tracks_left]


def _is_another_view(index: int, taken: _Index, boxes_xyxy: Numbers, class_ids: _Index) -> bool:
    """Whether that box lies within one of those that a track took, or the other way round."""
    taken = taken[class_ids[taken] == class_ids[index]]
    box, others = boxes_xyxy[index], boxes_xyxy[taken]
    inner = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
    shared = np.maximum(inner, 0).prod(axis=1)
    smaller = np.minimum((others[:, 2:] - others[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    return bool((shared > _WITHIN_MAX * smaller).any())


def _places(boxes_xyxy: Numbers) -> Numbers:
    """Corners -> centre and size."""
    return np.concatenate(((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)
