"""Bodies as keypoints: one file per layout of a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.bundle import Bundle
from edgeinfer.errors import UsageError
from edgeinfer.tasks import MakeTask, Task
from edgeinfer.tasks.pose.movenet import Movenet
from edgeinfer.tasks.pose.yolov8_pose import Yolov8Pose
from edgeinfer.tensor import TensorSpec
from edgeinfer.words import unknown

DECODERS: Mapping[str, MakeTask] = {"movenet": Movenet, "yolov8-pose": Yolov8Pose}


def make_pose(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> Task:
    """The decoder that the bundle names. Raises ModelError where the outputs do not fit it, UsageError for its name."""
    decoder = bundle.decode.decoder
    if decoder not in DECODERS:
        raise UsageError(unknown("decoder", decoder, DECODERS))
    return DECODERS[decoder](bundle, specs)
