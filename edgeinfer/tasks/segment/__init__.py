"""What each part of the picture belongs to: one file per layout of a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.bundle import Bundle
from edgeinfer.errors import UsageError
from edgeinfer.tasks import MakeTask, Task
from edgeinfer.tasks.segment.deeplab import Deeplab
from edgeinfer.tasks.segment.yolov8_seg import Yolov8Seg
from edgeinfer.tensor import TensorSpec
from edgeinfer.words import unknown

DECODERS: Mapping[str, MakeTask] = {"deeplab": Deeplab, "yolov8-seg": Yolov8Seg}


def make_segment(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> Task:
    """The decoder that the bundle names. Raises ModelError where the outputs do not fit it, UsageError for its name."""
    decoder = bundle.decode.decoder
    if decoder not in DECODERS:
        raise UsageError(unknown("decoder", decoder, DECODERS))
    return DECODERS[decoder](bundle, specs)
