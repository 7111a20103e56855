"""Raw tensors -> results: one file per decoder. A task never learns where its tensors were computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.preprocess import Placement
from edgeinfer.registry import Registry
from edgeinfer.result import Outcome
from edgeinfer.tensor import Array, TensorSpec


class Task(Protocol):
    """Decodes the outputs of one model; pure, and quick."""

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        """Outputs as the runtime gave them, in the model's order and dtypes -> results in source coordinates."""
        ...


Fitted = npt.NDArray[np.float64]
"""A window as the model sees it before quantisation: (samples, channels), or (frames, bands) of a front end."""


class WindowTask(Protocol):
    """Decodes the outputs of one model that takes windows; pure, and quick."""

    def decode(self, raw: tuple[Array, ...], fitted: Fitted) -> Outcome:
        """Outputs as the runtime gave them, but for states, and what they were made from -> results."""
        ...


MakeTask = Callable[[Bundle, tuple[TensorSpec, ...]], Task]
"""(bundle, output specs) -> a task; raises ModelError where the outputs do not fit the decoder."""

TASKS: Registry[MakeTask] = Registry(
    "task",
    {
        "classify": "edgeinfer.tasks.classify:Classify",
        "detect": "edgeinfer.tasks.detect:make_detect",
        "pose": "edgeinfer.tasks.pose:make_pose",
        "segment": "edgeinfer.tasks.segment:make_segment",
    },
)

MakeWindowTask = Callable[[Bundle, tuple[TensorSpec, ...]], WindowTask]
"""The same for what takes windows."""

WINDOW_TASKS: Registry[MakeWindowTask] = Registry(
    "window_task",
    {
        "anomaly": "edgeinfer.tasks.anomaly:AnomalyOf",
        "audio": "edgeinfer.tasks.heard:make_classes",
        "vector": "edgeinfer.tasks.vector:make_vector",
    },
)
