"""YOLOv8 and 11 for masks: a cell is a box, a score for each class, and how much of each prototype is its mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.layouts import MASK_COEFFICIENTS
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome, Segment
from edgeinfer.tasks.detect.found import Found, by_score, without_doubles
from edgeinfer.tasks.detect.head import Head, cells_reaching, corners, find_head
from edgeinfer.tasks.detect.units import UnitsWatch
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.segment.mask import Raster, run_lengths
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_BOX = 4
_FORM = (
    f"[1, 4 + classes + {MASK_COEFFICIENTS}, cells], or that turned round, "
    f"and prototypes [1, {MASK_COEFFICIENTS}, height, width] or [1, height, width, {MASK_COEFFICIENTS}]"
)
_NOTHING = Outcome(segments=())


class Yolov8Seg:
    """A segment for each object, with its box, the best first.

    After Ultralytics' documented export: a cell of the mask is inside where the coefficients times the prototypes are
    more than 0 (a probability of more than a half), and within the box.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._head, self._prototypes = _outputs(bundle, specs)
        self._classes = self._head.features - _BOX - MASK_COEFFICIENTS
        check_label_count(bundle, self._classes)
        self._least = stored_threshold(bundle.decode.score_min, self._head.spec)
        self._units = UnitsWatch(bundle)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = self._head.view(raw)
        prototypes = self._prototypes_of(raw)
        scores = stored[_BOX : _BOX + self._classes]
        if self._least is None:
            return _NOTHING
        cells, best = cells_reaching(scores, self._least)
        if not cells.size:
            return _NOTHING
        real_scores = self._head.real(best)
        order = by_score(real_scores)
        cells = cells[order]
        found = Found(
            corners(self._head.real(stored[:_BOX].take(cells, axis=1)), self._units.width, self._units.height),
            real_scores[order],
            scores.take(cells, axis=1).argmax(axis=0),
            # The coefficients go where the boxes go.
            self._head.real(stored[_BOX + self._classes :].take(cells, axis=1)).T[:, :, None],
        )
        self._units.look_at(found.boxes_xyxy)
        staying = without_doubles(found, self._bundle.decode.iou_max)
        return Outcome(segments=tuple(self._segments(staying, prototypes, where)))

    def _segments(self, found: Found, prototypes: Array, where: Placement) -> Iterator[Segment]:
        assert found.points is not None, "the coefficients"
        decode = self._bundle.decode
        raster = Raster(where, prototypes.shape[2], prototypes.shape[1])
        left = decode.max_results
        for box, score, class_id, coefficients in zip(
            found.boxes_xyxy.T.tolist(), found.scores.tolist(), found.class_ids.tolist(), found.points, strict=True
        ):
            x_min, y_min, x_max, y_max = (round(side, 6) for side in where.box_to_source(*box))
            if not (x_min < x_max and y_min < y_max):
                continue
            mask = raster.to_source(self._mask(box, coefficients[:, 0], prototypes), 0)
            yield Segment(
                self._bundle.label(class_id),
                class_id,
                round(np.count_nonzero(mask) / mask.size, 6),
                score=round(min(max(score, 0.0), 1.0), 5),
                box_xyxy=(x_min, y_min, x_max, y_max),
                mask=run_lengths(mask) if decode.masks else None,
            )
            left -= 1
            if not left:
                return

    def _mask(
        self, box_xyxy: list[float], coefficients: npt.NDArray[np.float32], prototypes: Array
    ) -> npt.NDArray[np.bool_]:
        """(height, width) of the prototypes: what is inside. box_xyxy: 0..1 of the input."""
        _, height, width = prototypes.shape
        left, right = (round(min(max(side, 0.0), 1.0) * width) for side in box_xyxy[::2])
        top, bottom = (round(min(max(side, 0.0), 1.0) * height) for side in box_xyxy[1::2])
        mask = np.zeros((height, width), dtype=np.bool_)
        part = prototypes[:, top:bottom, left:right].astype(np.float32)
        quantization = self._prototypes.quantization
        zero_point = quantization.zero_point[0] if quantization is not None else 0
        # As stored: a scale changes no sign. What is no number is not inside.
        with np.errstate(invalid="ignore", over="ignore"):
            mask[top:bottom, left:right] = np.tensordot(coefficients, part - zero_point, axes=1) > 0
        return mask

    def _prototypes_of(self, raw: tuple[Array, ...]) -> Array:
        """(prototypes, height, width), not copied."""
        stored = raw[1 - self._head.index]
        spec = self._prototypes
        if stored.ndim != 4 or any(
            size not in (-1, found) for size, found in zip(spec.shape[1:], stored.shape[1:], strict=True)
        ):
            raise ModelError(f"output {spec.name!r} came as {list(stored.shape)}, not as {spec.describe()}")
        return stored[0] if spec.shape[1] == MASK_COEFFICIENTS else np.moveaxis(stored[0], -1, 0)


def _outputs(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> tuple[Head, TensorSpec]:
    """The head, and the prototypes."""
    heads = [index for index, spec in enumerate(specs) if len(spec.shape) == 3]
    if len(specs) != 2 or len(heads) != 1 or not _are_prototypes(specs[1 - heads[0]]):
        found = ", ".join(spec.describe() for spec in specs)
        raise ModelError(f"{len(specs)} outputs ({found}), expected {_FORM}")
    features = _BOX + len(bundle.labels) + MASK_COEFFICIENTS if bundle.labels else None
    least = _BOX + 1 + MASK_COEFFICIENTS
    head = find_head(heads[0], specs[heads[0]], bundle.picture, features=features, least=least, form=_FORM)
    return head, specs[1 - heads[0]]


def _are_prototypes(spec: TensorSpec) -> bool:
    is_single = spec.quantization is None or spec.quantization.axis is None
    return (
        len(spec.shape) == 4
        and spec.shape[0] in (1, -1)
        and MASK_COEFFICIENTS in (spec.shape[1], spec.shape[3])
        and spec.dtype.kind in "iuf"
        and is_single
    )
