"""A camera's pictures at a half, a quarter or an eighth of their size, where a model needs no more.

Decoding and converting cost by the pixel, and most cameras give several times as many as a model takes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.frame import Pixels
from edgeinfer.sources.picture import BadPicture

Raw = npt.NDArray[np.uint8]

_FACTORS = (8, 4, 2)


def factor_for(width: int, height: int, enough: tuple[int, int]) -> int:
    """By how much a picture can be reduced so that both sides stay `enough` (width, height): 1, 2, 4 or 8."""
    return next(
        (factor for factor in _FACTORS if width // factor >= enough[0] and height // factor >= enough[1]),
        1,
    )


def from_nv12(raw: Raw, width: int, height: int, factor: int) -> Pixels:
    """An NV12 picture -> blue-green-red, (height // factor, width // factor, 3). Raises BadPicture."""
    if raw.size != width * height * 3 // 2:
        raise BadPicture(f"came with {raw.size} bytes, not {width * height * 3 // 2}")
    planes = raw.reshape(-1, width)
    colour = planes[height:].reshape(height // 2, width // 2, 2)
    width, light, height = width // factor, planes[:height], height // factor
    small = np.empty((height * 3 // 2, width), np.uint8)
    cv2.resize(light, (width, height), dst=small[:height], interpolation=cv2.INTER_AREA)
    # By area it would take ten times as long: OpenCV has no fast path for two channels there.
    pairs = small[height:].reshape(height // 2, width // 2, 2)
    cv2.resize(colour, (width // 2, height // 2), dst=pairs, interpolation=cv2.INTER_LINEAR)
    pixels: Pixels = cv2.cvtColor(small, cv2.COLOR_YUV2BGR_NV12)  # type: ignore[assignment]
    return pixels


# By V4L2 code. YUYV is none of them: its light lies between its colours, and to take them apart costs more (2.5 ms at
# 1280 x 720) than to convert the whole picture (1.0 ms).
FROM_RAW: Mapping[str, Callable[[Raw, int, int, int], Pixels]] = {"NV12": from_nv12}


def can_be_reduced(pixel_format: str, width: int, height: int, factor: int) -> bool:
    """Whether FROM_RAW knows the format, and the sides go without a remainder."""
    return pixel_format in FROM_RAW and width % (2 * factor) == 0 and height % (2 * factor) == 0
