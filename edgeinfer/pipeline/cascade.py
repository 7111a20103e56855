"""Second models that look at what a detector has found: each box is cut out of the picture and shown to them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from edgeinfer.frame import Frame, Input
from edgeinfer.model import Answer, Model
from edgeinfer.result import Box, Detection, Inner, Keypoint, Outcome, Segment

_SIDE_MIN = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """One of these models. classes: of the detections that it sees, all where none is named. score_min: theirs.

    margin: by which share of its sides a box is widened on each side. crops_max: of a picture, the best scores first.
    """

    name: str
    model: Model
    classes: frozenset[str] = field(default_factory=frozenset)
    score_min: float = 0.0
    margin: float = 0.1
    crops_max: int = 8

    def wants(self, detection: Detection, score_min: float) -> bool:
        is_named = not self.classes or detection.label in self.classes
        return is_named and detection.score >= max(self.score_min, score_min)


class Cascade:
    """The stages of a pipeline, one after the other, by its thread. It owns their models.

    count is told of `crops.NAME`, how many a stage has seen, and of `crops_left_out.NAME`.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        # No crop goes on from the one before it, which is mostly of another object.
        self._stretches = itertools.count(1)

    @property
    def state(self) -> str:
        """The worst of its models'."""
        return worst_of([stage.model.state for stage in self._stages])

    def deepen(self, answer: Answer, frame: Input, score_min: float, count: Callable[[str, int], None]) -> None:
        """Put what the stages find into the answer's detections. Raises RuntimeFailed."""
        assert isinstance(frame, Frame), "stages look at pictures"
        detections = list(answer.outcome.detections or ())
        found: dict[int, list[Inner]] = {}
        for stage in self._stages:
            wanted = [index for index, each in enumerate(detections) if stage.wants(each, score_min)]
            for index in wanted[: stage.crops_max]:
                found.setdefault(index, []).append(self._look(stage, frame, detections[index].box_xyxy))
            count(f"crops.{stage.name}", min(len(wanted), stage.crops_max))
            count(f"crops_left_out.{stage.name}", max(len(wanted) - stage.crops_max, 0))
        for index, inner in found.items():
            detections[index] = replace(detections[index], inner=tuple(inner))
        answer.deepen(replace(answer.outcome, detections=tuple(detections)))

    def _look(self, stage: Stage, frame: Frame, box_xyxy: Box) -> Inner:
        height, width = frame.pixels.shape[:2]
        left, top, right, bottom = _widened(box_xyxy, stage.margin, width, height)
        pixels = np.ascontiguousarray(frame.pixels[top:bottom, left:right])
        crop = dataclasses.replace(frame, pixels=pixels, full_size=None, stretch=next(self._stretches))
        place = left / width, top / height, (right - left) / width, (bottom - top) / height
        return _placed(stage, stage.model.answer(crop).outcome, place)

    def close(self) -> None:
        with ExitStack() as all_of_them:
            for stage in self._stages:
                all_of_them.callback(stage.model.close)


def worst_of(states: Sequence[str]) -> str:
    """The first state of a model that is down, else the first that is degraded, else `ok`."""
    return min(states, key=lambda state: (not state.startswith("down"), state == "ok"))


def _widened(box_xyxy: Box, margin: float, width: int, height: int) -> tuple[int, int, int, int]:
    """In pixels, within the picture, and never empty."""
    x_min, y_min, x_max, y_max = box_xyxy
    more_x, more_y = margin * (x_max - x_min), margin * (y_max - y_min)
    left = min(max(math.floor((x_min - more_x) * width), 0), width - _SIDE_MIN)
    top = min(max(math.floor((y_min - more_y) * height), 0), height - _SIDE_MIN)
    right = max(min(math.ceil((x_max + more_x) * width), width), left + _SIDE_MIN)
    bottom = max(min(math.ceil((y_max + more_y) * height), height), top + _SIDE_MIN)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _placed(stage: Stage, outcome: Outcome, place: tuple[float, float, float, float]) -> Inner:
    """From 0..1 of the crop to 0..1 of the picture. place: left, top, width and height of the crop in the picture."""
    left, top, width, height = place

    def point(found: Keypoint) -> Keypoint:
        return round(left + found[0] * width, 6), round(top + found[1] * height, 6), found[2]

    def box(found_xyxy: Box) -> Box:
        x_min, y_min, x_max, y_max = found_xyxy
        placed = (left + x_min * width, top + y_min * height, left + x_max * width, top + y_max * height)
        return round(placed[0], 6), round(placed[1], 6), round(placed[2], 6), round(placed[3], 6)

    def detection(found: Detection) -> Detection:
        inner_points = None if found.keypoints is None else tuple(map(point, found.keypoints))
        return replace(found, box_xyxy=box(found.box_xyxy), keypoints=inner_points)

    def segment(found: Segment) -> Segment:
        placed = None if found.box_xyxy is None else box(found.box_xyxy)
        return replace(found, area=round(found.area * width * height, 6), box_xyxy=placed)

    return Inner(
        stage=stage.name,
        model=stage.model.info,
        device=stage.model.device,
        detections=None if outcome.detections is None else tuple(map(detection, outcome.detections)),
        classes=outcome.classes,
        keypoints=None if outcome.keypoints is None else tuple(map(point, outcome.keypoints)),
        segments=None if outcome.segments is None else tuple(map(segment, outcome.segments)),
        crop_xyxy=None if outcome.segments is None else box((0.0, 0.0, 1.0, 1.0)),
    )
