"""SSD with TFLite_Detection_PostProcess: boxes, classes, scores and a count, already without doubles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Detection, Outcome
from edgeinfer.tasks.detect.found import NOTHING
from edgeinfer.tensor import Array, TensorSpec, dequantize

_FORM = "boxes [1, n, 4], classes [1, n], scores [1, n] and a count [1]"
# Label files of the original training list the background first, which the operator does not count.
_BACKGROUND = ("???", "background")


@dataclass(frozen=True, slots=True)
class _Order:
    """Which output is which."""

    boxes: int
    classes: int
    scores: int
    count: int


# As the operator gives them, and as TensorFlow 2 sorts them.
_BY_OPERATOR = _Order(boxes=0, classes=1, scores=2, count=3)
_BY_TENSORFLOW_2 = _Order(boxes=1, classes=3, scores=0, count=2)


class Ssd:
    """Boxes are y_min, x_min, y_max, x_max in 0..1 of the input.

    Most files leave the shapes of the outputs open, so that their order is settled on the first frame, at
    the latest on the first with an object.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        if len(specs) != 4:
            raise ModelError(f"{len(specs)} outputs, expected 4: {_FORM}")
        self._bundle = bundle
        self._specs = specs
        self._order = _order_by_name(specs)
        self._first_label = 1 if bundle.labels[:1] and bundle.labels[0] in _BACKGROUND else 0
        _check_labels(bundle, len(bundle.labels) - self._first_label)
        if all(spec.shape and spec.is_static for spec in specs):
            _check_forms(specs, [spec.shape for spec in specs])

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        real = [_real(stored, spec) for stored, spec in zip(raw, self._specs, strict=True)]
        if self._order is None:
            self._order = _order_by_value(self._specs, real)
        objects = _objects(real, self._order, self._bundle.decode.score_min)
        return Outcome(detections=tuple(self._detections(objects, where))) if objects else NOTHING

    def _detections(self, objects: Sequence[_Object], where: Placement) -> Iterator[Detection]:
        left = self._bundle.decode.max_results
        for score, class_id, box_xyxy in objects:
            x_min, y_min, x_max, y_max = (round(side, 6) for side in where.box_to_source(*box_xyxy))
            if left and x_min < x_max and y_min < y_max:
                left -= 1
                yield Detection(
                    self._label(class_id), class_id, round(min(score, 1.0), 5), (x_min, y_min, x_max, y_max)
                )

    def _label(self, class_id: int) -> str:
        named = class_id + self._first_label
        # The number that stands for a missing name is that of the class, not of its line.
        return self._bundle.labels[named] if named < len(self._bundle.labels) else str(class_id)


def _check_labels(bundle: Bundle, named: int) -> None:
    """Raises ModelError where classes are left without a name. Names to spare are usual: the list is that of COCO."""
    classes = bundle.file.detection_classes
    if bundle.labels and classes is not None and named < classes:
        raise ModelError(
            f"{named} labels for the {classes} classes of {bundle.name}",
            hint="give --labels a file with one line for each class",
        )


def _real(stored: Array, spec: TensorSpec) -> npt.NDArray[np.float32]:
    return stored if stored.dtype == np.float32 else dequantize(stored, spec.quantization)


_Object = tuple[float, int, tuple[float, float, float, float]]
"""score, class id, box x_min, y_min, x_max, y_max in 0..1 of the model's input."""


def _objects(real: Sequence[npt.NDArray[np.float32]], order: _Order, score_min: float) -> list[_Object]:
    """The objects that reach the threshold, best first, without boxes that are none."""
    # As plain numbers: most frames have a handful, and each call into numpy costs as much as one of them.
    scores: list[float] = real[order.scores].reshape(-1).tolist()
    class_ids: list[float] = real[order.classes].reshape(-1).tolist()
    boxes_yxyx = real[order.boxes].reshape(-1, 4)
    count = _count(real[order.count], min(len(boxes_yxyx), len(scores), len(class_ids)))
    least = float(np.float32(score_min))
    objects: list[_Object] = []
    for index in range(count):
        # A NaN compares false.
        if scores[index] >= least and 0 <= class_ids[index] < inf:
            y_min, x_min, y_max, x_max = boxes_yxyx[index].tolist()
            if 0 < x_max - x_min < inf and 0 < y_max - y_min < inf:
                objects.append((scores[index], round(class_ids[index]), (x_min, y_min, x_max, y_max)))
    objects.sort(key=lambda each: -each[0])
    return objects


def _count(stored: npt.NDArray[np.float32], most: int) -> int:
    """How many of the rows are objects; the rest is what an earlier frame left there."""
    if stored.size != 1 or not isfinite(count := stored.item()):
        return 0
    return max(0, min(round(count), most))


def _order_by_name(specs: tuple[TensorSpec, ...]) -> _Order | None:
    """The order where the names say it: the operator's own, or words."""
    names = [spec.name.lower() for spec in specs]
    own = "tflite_detection_postprocess"
    ends = ("", ":1", ":2", ":3")
    found = [[index for index, name in enumerate(names) if name == own + end] for end in ends]
    if not all(len(indices) == 1 for indices in found):
        words = (("box", "location"), ("class", "categor"), ("score",), ("count", "num"))
        found = [[index for index, name in enumerate(names) if any(word in name for word in kind)] for kind in words]
        # As in num_detections and detection_classes: one meaning each, or it is not said.
    if all(len(indices) == 1 for indices in found) and len({indices[0] for indices in found}) == 4:
        return _Order(*(indices[0] for indices in found))
    return None


def _order_by_value(specs: tuple[TensorSpec, ...], real: Sequence[npt.NDArray[np.float32]]) -> _Order:
    """The order by what the arrays look like: scores are fractions, classes are whole numbers."""
    _check_forms(specs, [array.shape for array in real])
    boxes = next(index for index, array in enumerate(real) if array.ndim == 3)
    single = [index for index, array in enumerate(real) if index != boxes and array.ndim < 2]
    if len(single) != 1:
        single = [index for index, array in enumerate(real) if index != boxes and array.size == 1]
    count = single[0] if len(single) == 1 else (_BY_OPERATOR if boxes == 0 else _BY_TENSORFLOW_2).count
    first, second = (index for index in range(4) if index not in (boxes, count))
    first_is_score, second_is_score = _is_score(real[first]), _is_score(real[second])
    if first_is_score != second_is_score:
        scores = first if first_is_score else second
    else:
        usual = _BY_OPERATOR if boxes == 0 else _BY_TENSORFLOW_2
        scores = usual.scores if usual.scores in (first, second) else second
    return _Order(boxes, first + second - scores, scores, count)


def _is_score(array: npt.NDArray[np.float32]) -> bool:
    finite = array[np.isfinite(array)]
    return bool((finite != np.rint(finite)).any()) and bool(((finite >= 0) & (finite <= 1)).all())


def _check_forms(specs: tuple[TensorSpec, ...], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises ModelError where no output can be the boxes."""
    boxes = [shape for shape in shapes if len(shape) == 3 and shape[2] == 4]
    if len(boxes) != 1:
        found = ", ".join(f"{spec.name!r} {list(shape)}" for spec, shape in zip(specs, shapes, strict=True))
        raise ModelError(f"outputs {found}, expected {_FORM}")
