"""Proof that a device computes: a bundle's model, run on it in a child process."""

from __future__ import annotations

from edgeinfer.bundle.load import find_bundle, read_model_file
from edgeinfer.bundle.manifest import read_manifest
from edgeinfer.delegates.trial import Candidate, Reference, Refused, try_model
from edgeinfer.errors import EdgeInferError
from edgeinfer.runtimes import RuntimeOptions

_BUNDLE = "blood-cells"
_TIMEOUT_S = 30.0


def run_a_model(word: str) -> str | None:
    """Run the bundled model on the device of that word; the reason where that failed."""
    runtime, _, unit = word.partition(":")
    try:
        folder = find_bundle(_BUNDLE)
        weights = read_manifest(folder).weights
        name = weights.onnx if runtime == "onnx" else weights.tflite
        if name is None:
            return f"the bundle {_BUNDLE} holds no model for {runtime} to try"
        file = read_model_file(folder / name)
    except EdgeInferError as missing:
        return f"there is no model to try: {missing}"
    try:
        candidate = Candidate(runtime, unit, RuntimeOptions(threads=1))
        try_model(file, candidate, Reference(file, timeout_s=_TIMEOUT_S), timeout_s=_TIMEOUT_S)
    except Refused as refused:
        return str(refused)
    return None
