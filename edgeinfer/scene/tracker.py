"""Who is who from frame to frame: BYTE's association (Zhang et al. 2022) and constant velocities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec
import numpy as np
from msgspec.structs import replace

from edgeinfer.result import Detection
from edgeinfer.scene.assignment import Pair, best_pairs
from edgeinfer.scene.motion import Motion, Numbers

# What scores less is no object to follow; between this and the pipeline's own threshold it keeps a track alive.
SCORE_FLOOR = 0.1
# So long a track waits for its object to be seen again.
LOST_NS = 1_000_000_000
# The least overlap of where a track should be with what is seen: of what scores high, of what scores low, and of what
# was seen once only.
_IOU_HIGH, _IOU_LOW, _IOU_NEW = 0.2, 0.5, 0.3
_IOU_LEAST = min(_IOU_HIGH, _IOU_LOW, _IOU_NEW)
# A track begins with what scores so much more than is needed to go on with it; what scores that high always does.
_MORE_TO_BEGIN, _CERTAIN = 0.1, 0.8
# Of a box that no track wants: how much of it may lie within that of an object already seen, or hold that, before it
# is another view of the same.
_WITHIN_MAX = 0.6
# A picture without a time of its own after the one before, as of a clock that stood still.
_LEAST_S = 1e-3
# Corners -> centre and size, and back: one call into numpy each.
_PLACE = np.array(((0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5), (-1, 0, 1, 0), (0, -1, 0, 1)))
_CORNERS = np.array(((1, 0, -0.5, 0), (0, 1, 0, -0.5), (1, 0, 0.5, 0), (0, 1, 0, 0.5)))


class Track(msgspec.Struct, frozen=True, gc=False):
    """One object that is followed. id: from 1, None before it was seen twice.

    box_xyxy: where it was seen last, or is thought to be while it is not seen. score: of the last time.
    seen_ns: when that was. best_score: of all times. One is made for each object of each frame, so it is no work for
    the garbage collector: it cannot refer to itself.
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
        boxes_xyxy = _corners(detections, aspect)
        places = np.dot(_PLACE, boxes_xyxy)
        overlap = self._overlaps(boxes_xyxy, places, detections)
        high = {index for index, each in enumerate(detections) if score_min <= each.score > 0}
        low = {index for index, each in enumerate(detections) if SCORE_FLOOR <= each.score < score_min}
        known = {index for index, track in enumerate(self._tracks) if track.id is not None}
        new = {index for index, track in enumerate(self._tracks) if track.id is None}

        pairs = _matched(overlap, detections, known, high, _IOU_HIGH)
        # Who was lost before is not found again by what may be nothing.
        known = {index for index in known if self._tracks[index].seen_ns == self._before_ns}
        pairs += _matched(overlap, detections, known, low, _IOU_LOW)
        pairs += _matched(overlap, detections, new, high, _IOU_NEW)
        pairs.sort()  # In the order of the tracks, which is that of the motions.
        self._correct(pairs, places, detections, now_ns, aspect)
        ids: list[int | None] = [None] * len(detections)
        for track, detection in pairs:
            ids[detection] = self._tracks[track].id
        gone = new | {index for index, track in enumerate(self._tracks) if now_ns - track.seen_ns > LOST_NS}
        if gone:
            self._keep([index for index in range(len(self._tracks)) if index not in gone])
        begin_at = min(score_min + _MORE_TO_BEGIN, _CERTAIN)
        taken = [detection for _, detection in pairs]
        begun = []
        for index in sorted(high):
            if detections[index].score >= begin_at and not _is_another_view(index, taken, boxes_xyxy, detections):
                begun.append(index)
                taken.append(index)
        if begun:
            self._begin(begun, places, detections, now_ns)
        return ids

    def _pass_time(self, now_ns: int) -> None:
        self._before_ns = self._now_ns
        if self._now_ns is not None:
            passed_s = min(max((now_ns - self._now_ns) / 1e9, _LEAST_S), LOST_NS / 1e9)
            self._motion.predict(passed_s)
        self._now_ns = now_ns

    def _overlaps(self, boxes_xyxy: Numbers, places: Numbers, detections: Sequence[Detection]) -> dict[Pair, float]:
        """Intersection over union of tracks and detections of one class, of those that overlap enough to be matched."""
        place = self._motion.place
        corners = np.dot(_CORNERS, place)[:, :, None]
        inner = np.minimum(corners[2:], boxes_xyxy[2:, None]) - np.maximum(corners[:2], boxes_xyxy[:2, None])
        width, height = np.maximum(inner, 0, out=inner)
        shared = width * height
        both = (place[2] * place[3])[:, None] + places[2] * places[3]
        # Of their sum, which holds what they share twice.
        rows, columns = (shared > _IOU_LEAST / (1 + _IOU_LEAST) * both).nonzero()
        enough = shared[rows, columns]
        overlaps = (enough / (both[rows, columns] - enough)).tolist()
        tracks = self._tracks
        return {
            (row, column): overlap
            for row, column, overlap in zip(rows.tolist(), columns.tolist(), overlaps, strict=True)
            if tracks[row].class_id == detections[column].class_id
        }

    def _correct(
        self,
        pairs: Sequence[Pair],
        places: Numbers,
        detections: Sequence[Detection],
        now_ns: int,
        aspect: float,
    ) -> None:
        if pairs:
            columns, picked = map(list, zip(*pairs, strict=True))
            self._motion.correct(columns, places.take(picked, axis=1))
        tracks = self._tracks
        for index, picked_one in pairs:
            track, found = tracks[index], detections[picked_one]
            if track.id is None:
                self._last_id += 1
            tracks[index] = Track(
                track.id or self._last_id,
                found.label,
                found.class_id,
                found.score,
                found.box_xyxy,
                now_ns,
                max(track.best_score, found.score),
            )
        if len(pairs) < len(tracks):
            for index in set(range(len(tracks))).difference(index for index, _ in pairs):
                tracks[index] = replace(tracks[index], box_xyxy=self._thought_box(index, aspect))

    def _thought_box(self, index: int, aspect: float) -> tuple[float, float, float, float]:
        x, y, width, height = self._motion.place[:, index].tolist()
        x_min, y_min, x_max, y_max = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return x_min / aspect, y_min, x_max / aspect, y_max

    def _keep(self, indices: list[int]) -> None:
        self._tracks = [self._tracks[index] for index in indices]
        self._motion.keep(indices)

    def _begin(self, picked: list[int], places: Numbers, detections: Sequence[Detection], now_ns: int) -> None:
        self._motion.add(places.take(picked, axis=1))
        for found in (detections[index] for index in picked):
            self._tracks.append(
                Track(None, found.label, found.class_id, found.score, found.box_xyxy, now_ns, found.score)
            )


def _matched(
    overlap: Mapping[Pair, float], detections: Sequence[Detection], tracks: set[int], picked: set[int], iou_min: float
) -> list[Pair]:
    """(track, detection) pairs that overlap by that much; they are taken out of both sets.

    Of several boxes on an object that which scores best counts most, and not a stray one that lies a little nearer.
    """
    weights = {
        (track, detection): (iou - iou_min) * detections[detection].score
        for (track, detection), iou in overlap.items()
        if iou > iou_min and track in tracks and detection in picked
    }
    pairs = best_pairs(weights)
    tracks.difference_update(track for track, _ in pairs)
    picked.difference_update(detection for _, detection in pairs)
    return pairs


def _is_another_view(index: int, taken: Sequence[int], boxes_xyxy: Numbers, detections: Sequence[Detection]) -> bool:
    """Whether that box lies within one of those that a track took, or the other way round."""
    alike = [each for each in taken if detections[each].class_id == detections[index].class_id]
    box, others = boxes_xyxy[:, index, None], boxes_xyxy[:, alike]
    inner = np.minimum(others[2:], box[2:]) - np.maximum(others[:2], box[:2])
    shared = np.maximum(inner, 0).prod(axis=0)
    smaller = np.minimum((others[2:] - others[:2]).prod(axis=0), (box[2:] - box[:2]).prod())
    return bool((shared > _WITHIN_MAX * smaller).any())


def _corners(detections: Sequence[Detection], aspect: float) -> Numbers:
    """(4, n), in heights of the picture."""
    numbers = chain.from_iterable([each.box_xyxy for each in detections])
    boxes_xyxy = np.fromiter(numbers, float, 4 * len(detections)).reshape(-1, 4)
    boxes_xyxy[:, ::2] *= aspect
    return boxes_xyxy.T
