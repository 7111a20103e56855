"""Frame -> input tensor, and the way back for boxes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import ImageInput
from edgeinfer.errors import ModelError
from edgeinfer.frame import Pixels
from edgeinfer.tensor import TensorSpec, quantize


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the image lies inside the model's input; 0..1 of the input, beyond it where the image is cropped."""

    x: float
    y: float
    width: float
    height: float

    def to_source(self, boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Boxes (4, n) in 0..1 of the model's input -> 0..1 of the source image, clipped to it. A NaN stays one."""
        placed: npt.NDArray[np.float64] = boxes_xyxy - np.array([[self.x], [self.y], [self.x], [self.y]])
        placed /= np.array([[self.width], [self.height], [self.width], [self.height]])
        # Not `np.clip`: its way to the same two calls takes longer than they do.
        np.maximum(placed, 0.0, out=placed)
        return np.minimum(placed, 1.0, out=placed)

    def box_to_source(
        self, x_min: float, y_min: float, x_max: float, y_max: float
    ) -> tuple[float, float, float, float]:
        """The same for one box, which costs less than the calls into numpy where a frame has only some."""
        x, y, width, height = self.x, self.y, self.width, self.height
        return (
            min(max((x_min - x) / width, 0.0), 1.0),
            min(max((y_min - y) / height, 0.0), 1.0),
            min(max((x_max - x) / width, 0.0), 1.0),
            min(max((y_max - y) / height, 0.0), 1.0),
        )


WHOLE = Placement(0.0, 0.0, 1.0, 1.0)


class LaidOut(NamedTuple):
    """A picture as bytes in the input's size, layout and order of colours, and where it lies in there.

    Where the input has one byte for a number, they are the model's numbers.
    """

    ordered: npt.NDArray[np.uint8]
    where: Placement


_Area = tuple[slice, slice]
_ALL: _Area = slice(None), slice(None)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which part of a picture of that height and width goes to which part of the input, rows and columns of each.

    size: width and height of that part of the input.
    """

    shape: tuple[int, ...]
    part: _Area
    inner: _Area
    size: tuple[int, int]
    interpolation: int
    where: Placement


# A look-up only copies bits: any dtype passes as the one of its size that OpenCV knows.
_BITS: dict[int, type[np.generic]] = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}


class Fitter:
    """Scales, pads, orders and quantises pictures for one image input.

    Three steps, none of which takes memory anew for each picture: resize (and pad) as blue-green-red; put the colours
    into the model's order and layout; turn each byte into the model's number. That number is `quantize((pixel - mean) /
    std)`, a table of 256 entries per channel. A step that changes nothing is left out, and one-byte tensors are worked
    on in the model's own memory. Where a multiplication and an addition give the very numbers of the table, they take
    its place: they are computed for many pixels at once, a table is looked up for one by one.

    What needs none of the model's memory `lay_out` does ahead, in memory of its own and in another thread, while the
    model computes on the picture before; `place` does the rest.
    """

    def __init__(self, spec: TensorSpec, image: ImageInput) -> None:
        if image.channels not in (1, 3):
            raise ModelError(f"input {spec.name!r} has {image.channels} channels, an image has 1 or 3")
        if (image.channels == 1) != (image.colour == "gray"):
            raise ModelError(f"input {spec.name!r} has {image.channels} channels, which is not {image.colour}")
        self._image = image
        self._planar = image.layout == "nchw" and image.channels == 3
        self._canvas_is_ordered = image.colour == "bgr" and not self._planar
        self._shape = _picture_shape(image)
        tables = _pixel_tables(spec, image)
        self._dtype = spec.dtype
        self._is_one_byte = spec.dtype.itemsize == 1
        self._is_identity = spec.dtype == np.uint8 and _is_cast(tables)
        self._is_shift = spec.dtype == np.int8 and bool((tables == np.arange(256) - 128).all())
        self._is_cast = spec.dtype.kind == "f" and _is_cast(tables)
        self._line = _line(spec, image, tables)
        self._bits = _BITS[spec.dtype.itemsize]
        if bool((tables == tables[0]).all()):
            tables = tables[:1]
        self._tables = tables.view(self._bits)
        # cv2.LUT wants (1, 256, channels).
        self._table = np.ascontiguousarray(self._tables.T[None])
        self._canvas, self._canvas_ahead = (np.empty((image.height, image.width, 3), dtype=np.uint8) for _ in range(2))
        self._ordered = np.empty(self._shape, dtype=np.uint8)
        self._free: deque[npt.NDArray[np.uint8]] = deque()
        self._plan: _Plan | None = None

    def fit(self, pixels: Pixels, tensor: npt.NDArray[Any]) -> Placement:
        """Write the picture (height, width, 3) uint8 BGR into `tensor`, of the input's shape and dtype."""
        target = self._picture_in(tensor)
        ordered = target.view(np.uint8) if self._is_one_byte else self._ordered
        where = self._put_in_order(pixels, ordered, self._canvas)
        self._look_up(ordered, target)
        return where

    def lay_out(self, pixels: Pixels) -> LaidOut:
        """All of `fit` that needs none of the model's memory. To be placed once: its memory is used again then.

        One thread at a time may call it, beside another one that calls `place` and `fit`.
        """
        try:
            ordered = self._free.pop()
        except IndexError:
            ordered = np.empty(self._shape, dtype=np.uint8)
        where = self._put_in_order(pixels, ordered, self._canvas_ahead)
        if self._is_one_byte:
            self._look_up(ordered, ordered.view(self._dtype))
        return LaidOut(ordered, where)

    def place(self, laid_out: LaidOut, tensor: npt.NDArray[Any]) -> Placement:
        """Do the rest: the same numbers as by `fit`."""
        target = self._picture_in(tensor)
        ordered = laid_out.ordered
        if self._is_one_byte:
            np.copyto(target.view(np.uint8), ordered)
        else:
            self._look_up(ordered, target)
        self._free.append(ordered)
        return laid_out.where

    def _put_in_order(self, pixels: Pixels, ordered: npt.NDArray[np.uint8], canvas: npt.NDArray[np.uint8]) -> Placement:
        """The first two steps, the second by way of the canvas."""
        if self._canvas_is_ordered:
            return self._resize(pixels, ordered)
        where = self._resize(pixels, canvas)
        self._order(canvas, ordered)
        return where

    def _picture_in(self, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert tensor.flags.c_contiguous, "an input's memory is contiguous"
        return tensor.reshape(self._shape)

    def _resize(self, pixels: Pixels, canvas: npt.NDArray[np.uint8]) -> Placement:
        """Scale into the canvas and pad what is left over, or leave out what sticks out."""
        shape = pixels.shape[:2]
        plan = self._plan
        if plan is None or plan.shape != shape:
            self._plan = plan = _plan(self._image, shape)
        part, inner = pixels[plan.part], canvas[plan.inner]
        if part.shape == inner.shape:
            np.copyto(inner, part)
        else:
            _assert_in_place(cv2.resize(part, plan.size, dst=inner, interpolation=plan.interpolation), inner)
        if inner.shape != canvas.shape:
            # Each time anew: the memory may be the model's, which writes over it while it computes.
            rows, columns = plan.inner
            canvas[: rows.start] = self._image.pad
            canvas[rows.stop :] = self._image.pad
            canvas[:, : columns.start] = self._image.pad
            canvas[:, columns.stop :] = self._image.pad
        return plan.where

    def _order(self, canvas: npt.NDArray[np.uint8], ordered: npt.NDArray[np.uint8]) -> None:
        """Blue-green-red (height, width, 3) -> the model's colours and layout."""
        if self._planar:
            planes = list(ordered if self._image.colour == "bgr" else ordered[::-1])
            for written, plane in zip(cv2.split(canvas, planes), planes, strict=True):
                _assert_in_place(written, plane)
            return
        code = cv2.COLOR_BGR2GRAY if self._image.colour == "gray" else cv2.COLOR_BGR2RGB
        _assert_in_place(cv2.cvtColor(canvas, code, dst=ordered), ordered)

    def _look_up(self, ordered: npt.NDArray[np.uint8], target: npt.NDArray[Any]) -> None:
        if self._is_identity:
            return
        if self._is_shift:
            np.bitwise_xor(ordered, 0x80, out=ordered)
        elif self._is_cast:
            np.copyto(target, ordered)
        elif self._line is not None:
            _assert_in_place(cv2.convertScaleAbs(ordered, ordered, *self._line), ordered)
            if target.dtype == np.int8:
                np.bitwise_xor(ordered, 0x80, out=ordered)
        elif not self._planar:
            _table_into(ordered, self._table, target.view(self._bits))
        elif len(self._tables) == 1:
            # All planes as one tall picture.
            width = self._image.width
            _table_into(ordered.reshape(-1, width), self._table, target.view(self._bits).reshape(-1, width))
        else:
            for plane, table, out in zip(ordered, self._tables, target.view(self._bits), strict=True):
                _table_into(plane, table[None], out)


def _picture_shape(image: ImageInput) -> tuple[int, ...]:
    if image.channels == 1:
        return image.height, image.width
    if image.layout == "nchw":
        return image.channels, image.height, image.width
    return image.height, image.width, image.channels


def _pixel_tables(spec: TensorSpec, image: ImageInput) -> npt.NDArray[Any]:
    """(channels, 256): what each pixel value becomes in the input's dtype."""
    pixel = np.arange(256, dtype=np.float64)
    if image.raw_bytes:
        # The file says nothing of its real range; by convention the stored number is the pixel itself.
        table = pixel - 128 if spec.dtype == np.int8 else pixel
        return np.tile(table.astype(spec.dtype), (image.channels, 1))
    mean = np.asarray(image.mean, dtype=np.float64)
    std = np.asarray(image.std, dtype=np.float64)
    real = [(pixel - mean[c % mean.size]) / std[c % std.size] for c in range(image.channels)]
    return np.stack([quantize(channel, spec) for channel in real])


def _line(spec: TensorSpec, image: ImageInput, tables: npt.NDArray[Any]) -> tuple[float, float] | None:
    """slope, offset: `saturate(slope * pixel + offset)` is the stored byte, less 128 for int8; None where it is not."""
    if spec.dtype not in (np.uint8, np.int8) or spec.quantization is None or image.raw_bytes:
        return None
    steps = image.std[0] * spec.quantization.scale[0]
    slope = 1.0 / steps
    offset = spec.quantization.zero_point[0] - image.mean[0] / steps + (128 if spec.dtype == np.int8 else 0)
    found = cv2.convertScaleAbs(np.arange(256, dtype=np.uint8).reshape(16, 16), None, slope, offset).reshape(256)
    bytes_wanted = tables.view(np.uint8) ^ (0x80 if spec.dtype == np.int8 else 0)
    return (slope, offset) if bool((bytes_wanted == found).all()) else None


def _is_cast(tables: npt.NDArray[Any]) -> bool:
    return bool((tables == np.arange(256)).all())


def _plan(image: ImageInput, shape: tuple[int, ...]) -> _Plan:
    """For pictures of that height and width."""
    return _cropping(image, shape) if image.fit == "crop" else _filling(image, shape)


def _filling(image: ImageInput, shape: tuple[int, ...]) -> _Plan:
    """The whole picture, to as much of the input as it fills."""
    height, width = shape
    inner_width, inner_height = image.width, image.height
    if image.fit != "stretch":
        scale = min(image.width / width, image.height / height)
        inner_width = max(1, min(image.width, round(width * scale)))
        inner_height = max(1, min(image.height, round(height * scale)))
    left, top = (image.width - inner_width) // 2, (image.height - inner_height) // 2
    return _Plan(
        shape,
        part=_ALL,
        inner=(slice(top, top + inner_height), slice(left, left + inner_width)),
        size=(inner_width, inner_height),
        interpolation=cv2.INTER_LINEAR,
        where=Placement(left / image.width, top / image.height, inner_width / image.width, inner_height / image.height),
    )


def _cropping(image: ImageInput, shape: tuple[int, ...]) -> _Plan:
    """The largest centred part of the picture that has the shape of the input, to all of it."""
    height, width = shape
    scale = min(width / image.width, height / image.height)
    inner_width = max(1, min(width, round(image.width * scale)))
    inner_height = max(1, min(height, round(image.height * scale)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return _Plan(
        shape,
        part=(slice(top, top + inner_height), slice(left, left + inner_width)),
        inner=(slice(0, image.height), slice(0, image.width)),
        size=(image.width, image.height),
        # Bit for bit the same on every processor: the scores of a whole picture hang on each pixel.
        interpolation=cv2.INTER_LINEAR_EXACT,
        where=Placement(-left / inner_width, -top / inner_height, width / inner_width, height / inner_height),
    )


def _table_into(stored: npt.NDArray[Any], table: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    _assert_in_place(cv2.LUT(stored, table, dst=out), out)


def _assert_in_place(written: Any, out: npt.NDArray[Any]) -> None:
    # OpenCV quietly returns a new array where the given one does not fit.
    assert written is out or np.may_share_memory(written, out), "OpenCV did not write into the given memory"
