"""Which version of a runtime is installed here."""

from __future__ import annotations

from edgeinfer.packages import installed_version
from edgeinfer.runtimes import RUNTIMES

_PACKAGES = {
    "litert": ("ai-edge-litert",),
    "tflite": ("tflite-runtime",),
    "onnx": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu"),
    "openvino": ("openvino",),
}


def runtime_version(runtime: str) -> str | None:
    """As in `ai-edge-litert 2.3.0`; None where it is not installed."""
    packages = _PACKAGES.get(runtime, ())
    found = [f"{package} {known}" for package in packages if (known := installed_version(package)) is not None]
    # Several may have left their metadata where only one holds the module.
    return ", ".join(found) if found else RUNTIMES.package(runtime)


def runtime_versions() -> dict[str, str]:
    """The versions of our own runtimes, by the runtime's name; those that are not installed are left out."""
    return {name: found for name in _PACKAGES if (found := runtime_version(name)) is not None}
