"""Frame -> input tensor, and the way back for boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import ImageInput
from edgeinfer.errors import ModelError
from edgeinfer.frame import Pixels
from edgeinfer.tensor import TensorSpec, quantize


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the image lies inside the model's input; 0..1 of the input."""

    x: float
    y: float
    width: float
    height: float

    def to_source(self, boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (n, 4) in 0..1 of the model's input -> 0..1 of the source image, clipped."""
        offset = np.array([self.x, self.y, self.x, self.y], dtype=np.float32)
        extent = np.array([self.width, self.height, self.width, self.height], dtype=np.float32)
        boxes: npt.NDArray[np.float32] = (boxes_xyxy - offset) / extent
        return np.clip(boxes, np.float32(0.0), np.float32(1.0))


WHOLE = Placement(0.0, 0.0, 1.0, 1.0)


class Fitter:
    """Scales, pads, orders and quantises pictures for one image input.

    Every pixel value goes through one table of 256 entries per channel, `quantize((pixel - mean) / std)`, so
    that any input dtype costs one look-up. Where the table changes nothing, the resize writes straight into
    the model's memory.
    """

    def __init__(self, spec: TensorSpec, image: ImageInput) -> None:
        if image.channels not in (1, 3):
            raise ModelError(f"input {spec.name!r} has {image.channels} channels, an image has 1 or 3")
        self._spec = spec
        self._image = image
        self._tables = _pixel_tables(spec, image)
        self._same_table = bool((self._tables == self._tables[0]).all())
        pixel = np.arange(256)
        self._is_identity = spec.dtype == np.uint8 and bool((self._tables == pixel).all())
        self._is_shift = spec.dtype == np.int8 and bool((self._tables == pixel - 128).all())
        # cv2.LUT wants (1, 256, channels), and knows these depths; the rest goes through numpy.
        self._has_cv_table = spec.dtype in (np.uint8, np.int8, np.int16, np.int32, np.float32)
        self._cv_table = np.ascontiguousarray(self._tables.T[None])
        self._canvas = np.empty((image.height, image.width, image.channels), dtype=np.uint8)

    def fit(self, pixels: Pixels, tensor: npt.NDArray[Any]) -> Placement:
        """Write the picture (height, width, 3) uint8 BGR into `tensor`, of the input's shape and dtype."""
        target = _as_picture(tensor, self._image)
        in_place = target.dtype == np.uint8 and self._image.layout != "nchw"
        canvas = target if in_place else self._canvas
        where = self._resize(pixels, canvas)
        if self._is_identity and in_place:
            return where
        if self._is_shift and self._image.layout != "nchw":
            np.bitwise_xor(canvas, 0x80, out=target.view(np.uint8))
            return where
        self._look_up(canvas, target)
        return where

    def _resize(self, pixels: Pixels, canvas: npt.NDArray[np.uint8]) -> Placement:
        """Scale into the canvas, pad what is left over, and put the colours into the model's order."""
        height, width = canvas.shape[:2]
        left, top, inner_width, inner_height = _inner_box(
            self._image.fit, (pixels.shape[1], pixels.shape[0]), (width, height)
        )
        picture: npt.NDArray[Any] = pixels
        if self._image.colour == "gray":
            # One channel is a third of the work to resize.
            picture = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
            canvas = canvas[:, :, 0]
        inner = canvas[top : top + inner_height, left : left + inner_width]
        _resize_into(picture, inner)
        if self._image.colour == "rgb":
            cv2.cvtColor(inner, cv2.COLOR_BGR2RGB, dst=inner)
        if inner.shape[:2] != (height, width):
            canvas[:top] = self._image.pad
            canvas[top + inner_height :] = self._image.pad
            canvas[:, :left] = self._image.pad
            canvas[:, left + inner_width :] = self._image.pad
        return Placement(left / width, top / height, inner_width / width, inner_height / height)

    def _look_up(self, canvas: npt.NDArray[np.uint8], target: npt.NDArray[Any]) -> None:
        if self._image.layout == "nchw":
            for channel in range(self._image.channels):
                self._look_up_channel(canvas[:, :, channel], channel, target[channel])
            return
        if self._has_cv_table:
            flat = self._cv_table[:, :, :1] if self._same_table else self._cv_table
            out = cv2.LUT(canvas, np.ascontiguousarray(flat), dst=target)
            if out is not target:
                np.copyto(target, np.asarray(out).reshape(target.shape))
            return
        for channel in range(self._image.channels):
            self._look_up_channel(canvas[:, :, channel], channel, target[:, :, channel])

    def _look_up_channel(self, plane: npt.NDArray[np.uint8], channel: int, out: npt.NDArray[Any]) -> None:
        np.copyto(out, self._tables[channel][plane])


def _as_picture(tensor: npt.NDArray[Any], image: ImageInput) -> npt.NDArray[Any]:
    """The tensor's one picture: (height, width, channels), or (channels, height, width) for nchw."""
    if image.layout == "nchw":
        return tensor.reshape(image.channels, image.height, image.width)
    return tensor.reshape(image.height, image.width, image.channels)


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


def _inner_box(fit: str, size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, width, height in input pixels of a picture of `size` put into `room` (both width, height)."""
    if fit == "stretch":
        return 0, 0, *room
    scale = min(room[0] / size[0], room[1] / size[1])
    width = max(1, min(room[0], round(size[0] * scale)))
    height = max(1, min(room[1], round(size[1] * scale)))
    return (room[0] - width) // 2, (room[1] - height) // 2, width, height


def _resize_into(pixels: npt.NDArray[Any], out: npt.NDArray[np.uint8]) -> None:
    height, width = out.shape[:2]
    if pixels.shape[:2] == (height, width):
        np.copyto(out, pixels)
        return
    resized = cv2.resize(pixels, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    # OpenCV quietly returns a new array where the given one does not fit.
    assert np.shares_memory(resized, out), "resize did not write into the given memory"
