"""Which version of a runtime is installed here."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, entry_points, version

from edgeinfer.runtimes import RUNTIMES

_PACKAGES = {
    "litert": ("ai-edge-litert",),
    "tflite": ("tflite-runtime",),
    "onnx": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu"),
    "openvino": ("openvino",),
}


def runtime_version(runtime: str) -> str | None:
    """As in `ai-edge-litert 2.3.0`; None where it is not installed."""
    found = []
    for package in _PACKAGES.get(runtime, ()):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    if found:
        # Several may have left their metadata where only one holds the module.
        return ", ".join(found)
    for point in entry_points(group=RUNTIMES.group, name=runtime):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None


def runtime_versions() -> dict[str, str]:
    """The versions of our own runtimes, by the runtime's name; those that are not installed are left out."""
    return {name: found for name in _PACKAGES if (found := runtime_version(name)) is not None}
