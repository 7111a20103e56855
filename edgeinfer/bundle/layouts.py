"""Outputs that tell by their shapes alone what a model looks for: faces, bodies, masks, objects of a NanoDet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

Shape = tuple[int, ...]
Fit = tuple[str, str, str]
"""task, decoder, and why it fits."""

# Strides of a head that comes as outputs of their own, one set for each grid.
LEVEL_STRIDES = (8, 16, 32)
# NanoDet gives each of a box's four distances as a distribution over 0 to 7 strides.
DISTANCE_BINS = 8
_FACE_LANDMARKS = 5
_ULTRAFACE_PRIORS = ((8, 3), (16, 2), (32, 2), (64, 3))
COCO_KEYPOINTS = 17
# Coefficients of a YOLO's mask, and as many prototypes.
MASK_COEFFICIENTS = 32


def layout_fits(
    width: int,
    height: int,
    outputs: Sequence[tuple[Shape, str]],
    *,
    keypoint_shape: tuple[int, int] | None,
    classes: int | None,
) -> Iterator[Fit]:
    """All that the outputs, (shape, dtype's kind) each, of a model with that picture fit.

    keypoint_shape: how many keypoints the file's metadata name, and numbers of each; classes: how many they name; None
    where they name none.
    """
    shapes = [shape for shape, _ in outputs]
    if any(not shape or shape[0] not in (1, -1) for shape in shapes):
        return
    if _is_levels(shapes, width, height, (1, 1, 4, 2 * _FACE_LANDMARKS)):
        yield "detect", "yunet", "for each of three grids a class, an object, a box and five landmarks"
    elif len(shapes) == 6:
        yield from _nanodet_fits(shapes, width, height)
    elif len(shapes) == 2:
        yield from _ultraface_fits(shapes, width, height)
        yield from _yolov8_seg_fits(shapes, width, height, classes)
    elif len(shapes) == 1:
        yield from _single_fits(shapes[0], outputs[0][1], width, height, keypoint_shape, classes)


def level_cells(width: int, height: int) -> tuple[int, ...]:
    """How many cells the grid of each of the three strides has."""
    return tuple((width // stride) * (height // stride) for stride in LEVEL_STRIDES)


def _is_levels(shapes: Sequence[Shape], width: int, height: int, features: Sequence[int]) -> bool:
    """Whether there is, for each grid, one output [1, cells, n] for each n of `features`; -1: a free size."""
    if len(shapes) != 3 * len(features) or any(len(shape) != 3 for shape in shapes):
        return False
    cells = level_cells(width, height)
    expected = sorted((count, feature) for count in cells for feature in features)
    if sorted((shape[1], shape[2]) for shape in shapes) == expected:
        return True
    free = all(shape[1] == -1 for shape in shapes)
    return free and sorted(shape[2] for shape in shapes) == sorted(tuple(features) * 3)


def _nanodet_fits(shapes: Sequence[Shape], width: int, height: int) -> Iterator[Fit]:
    distances = 4 * DISTANCE_BINS
    classes = {shape[2] for shape in shapes if len(shape) == 3} - {distances}
    if len(classes) == 1 and _is_levels(shapes, width, height, (count := classes.pop(), distances)):
        yield "detect", "nanodet", f"for each of three grids {count} classes and 4 x {DISTANCE_BINS} distances"


def _ultraface_fits(shapes: Sequence[Shape], width: int, height: int) -> Iterator[Fit]:
    priors = sum(math.ceil(width / stride) * math.ceil(height / stride) * boxes for stride, boxes in _ULTRAFACE_PRIORS)
    if sorted(shapes) == [(shapes[0][0], priors, 2), (shapes[0][0], priors, 4)]:
        yield "detect", "ultraface", f"{priors} boxes with the scores of background and face"


def _yolov8_seg_fits(shapes: Sequence[Shape], width: int, height: int, classes: int | None) -> Iterator[Fit]:
    heads = [shape for shape in shapes if len(shape) == 3]
    prototypes = [shape for shape in shapes if len(shape) == 4]
    if len(heads) != 1 or len(prototypes) != 1 or MASK_COEFFICIENTS not in (prototypes[0][1], prototypes[0][3]):
        return
    found = _features(heads[0], sum(level_cells(width, height)))
    if found is not None and _counts(found - 4 - MASK_COEFFICIENTS, classes):
        yield "segment", "yolov8-seg", f"{found - 4 - MASK_COEFFICIENTS} classes, each box with a mask of prototypes"


def _single_fits(
    shape: Shape, kind: str, width: int, height: int, keypoint_shape: tuple[int, int] | None, classes: int | None
) -> Iterator[Fit]:
    if shape[1:] == (1, COCO_KEYPOINTS, 3):
        yield "pose", "movenet", f"one body of {COCO_KEYPOINTS} keypoints"
    elif len(shape) == 3 and kind in "iu" and shape[1:] == (height, width):
        yield "segment", "deeplab", "the class of each pixel"
    elif len(shape) == 4 and (channels := _map_channels(shape, width, height)):
        yield "segment", "deeplab", f"{channels} class scores for each pixel"
    elif len(shape) == 3:
        found = _features(shape, sum(level_cells(width, height)))
        count, numbers = keypoint_shape or (COCO_KEYPOINTS, 3)
        if found is not None and _counts(found - 4 - count * numbers, classes or 1):
            yield "pose", "yolov8-pose", f"a box, class scores and {count} keypoints for each cell"


def _features(shape: Shape, cells: int) -> int | None:
    """Numbers of a cell in a head of so many cells, whichever way round."""
    sizes = shape[1:]
    return sum(sizes) - cells if cells in sizes else None


def _counts(found: int, named: int | None) -> bool:
    return found >= 1 if named is None else found == named


def _map_channels(shape: Shape, width: int, height: int) -> int:
    """Classes of a map of scores with the picture's proportions, [1, h, w, classes] or [1, classes, h, w]; else 0."""
    for rows, columns, channels in ((shape[1], shape[2], shape[3]), (shape[2], shape[3], shape[1])):
        is_map = 1 < rows <= height and 1 < columns <= width and abs(rows * width - columns * height) <= width + height
        # Of three channels it may as well be a picture.
        if is_map and channels >= 2 and channels != 3 and rows >= 16:
            return channels
    return 0
