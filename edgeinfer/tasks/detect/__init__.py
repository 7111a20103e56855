"""Objects with boxes: one file per layout of a detector's outputs."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.bundle import Bundle
from edgeinfer.errors import UsageError
from edgeinfer.tasks import MakeTask, Task
from edgeinfer.tasks.detect.nanodet import Nanodet
from edgeinfer.tasks.detect.ssd import Ssd
from edgeinfer.tasks.detect.ultraface import Ultraface
from edgeinfer.tasks.detect.yolov5 import Yolov5
from edgeinfer.tasks.detect.yolov8 import Yolov8
from edgeinfer.tasks.detect.yolox import Yolox
from edgeinfer.tasks.detect.yunet import Yunet
from edgeinfer.tensor import TensorSpec
from edgeinfer.words import unknown

DECODERS: Mapping[str, MakeTask] = {
    "nanodet": Nanodet,
    "ssd": Ssd,
    "ultraface": Ultraface,
    "yolov5": Yolov5,
    "yolov8": Yolov8,
    "yolox": Yolox,
    "yunet": Yunet,
}


def make_detect(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> Task:
    """The decoder that the bundle names. Raises ModelError where the outputs do not fit it, UsageError for its name."""
    decoder = bundle.decode.decoder
    if decoder not in DECODERS:
        raise UsageError(unknown("decoder", decoder, DECODERS))
    return DECODERS[decoder](bundle, specs)
