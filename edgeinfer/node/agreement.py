"""Whether two models find the same things in the same picture, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from edgeinfer.result import Detection, Outcome

Box = tuple[float, float, float, float]

_SAME_IOU = 0.5


class Agreement:
    """Adds up, over pictures, how far a candidate agrees with the active model.

    Of detections those agree that bear the same label and overlap by an IoU of at least 0.5, each at most once, the
    best scores first; of classes the best of each. found, found_active: how many things the two found.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.found = 0
        self.found_active = 0
        self._agreed: Counter[str] = Counter()
        self._either: Counter[str] = Counter()

    def add(self, active: Outcome, candidate: Outcome) -> None:
        self.pictures += 1
        if active.detections is not None or candidate.detections is not None:
            self._add_detections(active.detections or (), candidate.detections or ())
        else:
            self._add_classes(_best(active), _best(candidate))

    @property
    def share(self) -> float | None:
        """Of all that either found, how much both did; None where neither found anything."""
        total = sum(self._either.values())
        return sum(self._agreed.values()) / total if total else None

    def by_class(self) -> Mapping[str, float]:
        """The same for each label, the most frequent first."""
        return {label: self._agreed[label] / count for label, count in self._either.most_common()}

    def _add_detections(self, active: Sequence[Detection], candidate: Sequence[Detection]) -> None:
        self.found_active += len(active)
        self.found += len(candidate)
        left = sorted(active, key=lambda each: -each.score)
        for each in sorted(candidate, key=lambda each: -each.score):
            same = [other for other in left if other.label == each.label]
            match = max(same, key=lambda other: iou(each.box_xyxy, other.box_xyxy), default=None)
            self._either[each.label] += 1
            if match is not None and iou(each.box_xyxy, match.box_xyxy) >= _SAME_IOU:
                left.remove(match)
                self._agreed[each.label] += 1
        self._either.update(each.label for each in left)

    def _add_classes(self, active: str | None, candidate: str | None) -> None:
        self.found_active += active is not None
        self.found += candidate is not None
        for label in {active, candidate} - {None}:
            assert label is not None
            self._either[label] += 1
            self._agreed[label] += active == candidate


def iou(one_xyxy: Box, other_xyxy: Box) -> float:
    """The area of both over the area of either, 0..1."""
    width = min(one_xyxy[2], other_xyxy[2]) - max(one_xyxy[0], other_xyxy[0])
    height = min(one_xyxy[3], other_xyxy[3]) - max(one_xyxy[1], other_xyxy[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(one_xyxy) + _area(other_xyxy) - both)


def _area(box_xyxy: Box) -> float:
    return (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])


def _best(outcome: Outcome) -> str | None:
    return outcome.classes[0].label if outcome.classes else None
