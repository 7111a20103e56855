"""Run machine-learning models on the device that holds the camera or the sensor.

import edgeinfer
model = edgeinfer.load("blood-cells")
print(model(image).detections)          # image: (height, width, 3) uint8, blue-green-red

import edgeinfer
for result in edgeinfer.run("blood-cells", "/dev/video0"):
    print(result.detections)
"""

from __future__ import annotations

from importlib import import_module

from edgeinfer.errors import (
    AmbiguousModel,
    ConfigError,
    DeviceNotFound,
    EdgeInferError,
    ModelError,
    OutputError,
    SourceError,
    UsageError,
)

# As in `typing`, which takes longer to load than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from edgeinfer.api import load, run
    from edgeinfer.model import Model
    from edgeinfer.result import Classification, Detection, Result
    from edgeinfer.uplink.consumer import Consumer

__version__ = "0.1.0"

__all__ = [
    "AmbiguousModel",
    "Classification",
    "ConfigError",
    "Consumer",
    "Detection",
    "DeviceNotFound",
    "EdgeInferError",
    "Model",
    "ModelError",
    "OutputError",
    "Result",
    "SourceError",
    "UsageError",
    "load",
    "run",
]

# Imported when first asked for, so that `import edgeinfer` costs no numpy, no OpenCV and no runtime.
_LAZY = {
    "Classification": "edgeinfer.result",
    "Consumer": "edgeinfer.uplink.consumer",
    "Detection": "edgeinfer.result",
    "Model": "edgeinfer.model",
    "Result": "edgeinfer.result",
    "load": "edgeinfer.api",
    "run": "edgeinfer.api",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
