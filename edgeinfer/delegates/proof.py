"""Whether a device computes what the reference kernels compute, on inputs that are the same for everyone.

How far apart two correct devices lie was measured with LiteRT 2.3 on 22 models, XNNPACK against the built-in
kernels: the root mean square of the difference, in standard deviations of the reference output, was at most 0.012
for float models and 0.37 for quantised ones, whose rounding errors add up layer by layer: in some models 0.007, so
that a device which adds a constant to one operator (0.36 there) is only seen by a limit of the model's own. Single
elements say nothing: near a tie, a class or a box changes place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import DETECTION_POSTPROCESS
from edgeinfer.runtimes import Runtime
from edgeinfer.runtimes.shapes import one_of_each
from edgeinfer.tensor import Array, TensorSpec, dequantize, quantize

FLOAT_LIMIT = 0.05
"""For models without quantised tensors; room for devices that compute in 16 bits."""
QUANTISED_LIMIT = 0.5
CLOSEST_LIMIT = 0.05

_SEEDS = (0, 1)
_BLOTCHES = 8
_MANY = 16

Outputs = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """error: the worst output's difference, see above; limit: what is allowed. reason: why it failed, else None."""

    error: float
    limit: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One input for each of the model's inputs, as it stores them. name: what it is called in messages.

    outputs: what the model is known to give for it, where somebody said so. sha256: of all these tensors.
    """

    name: str
    inputs: tuple[Array, ...]
    outputs: Outputs | None = None
    sha256: str = ""


def made_up(specs: tuple[TensorSpec, ...]) -> Iterator[Sample]:
    """Samples for a model that nothing is known of, the same everywhere."""
    for seed in _SEEDS:
        yield Sample(f"sample {seed}", tuple(made_up_input(spec, seed) for spec in specs))


def run_sample(runtime: Runtime, sample: Sample) -> Outputs:
    """The outputs, copied. Raises RuntimeFailed."""
    for index, tensor in enumerate(sample.inputs):
        runtime.input(index)[...] = tensor
    return tuple(np.array(output) for output in runtime.run())


def nonsense(outputs: Outputs, specs: tuple[TensorSpec, ...]) -> str | None:
    """What no correct device gives, in words: NaN or infinity, or integers with every bit set, which is what a bus
    without an answer reads as; None where there is nothing of it."""
    for output, spec in zip(outputs, specs, strict=True):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            share = 1 - float(np.isfinite(output).mean())
            return f"output {spec.name!r} is {share:.0%} NaN or infinite"
        if output.dtype.kind in "iu" and output.size >= _MANY and (output == _all_ones(output)).all():
            return f"every bit of output {spec.name!r} is set"
    return None


def _all_ones(output: Array) -> int:
    return -1 if output.dtype.kind == "i" else int(np.iinfo(output.dtype).max)


def usual_limit(file: ModelFile) -> float:
    """How far a device may lie from the reference where nothing more is known of the model."""
    return QUANTISED_LIMIT if file.is_quantised else FLOAT_LIMIT


def limit_by(error: float, file: ModelFile) -> float:
    """The same, where two devices that are right lie `error` apart with this model: three times as far."""
    return min(usual_limit(file), max(CLOSEST_LIMIT, 3 * error))


def compare(
    file: ModelFile,
    found: list[Outputs],
    expected: list[Outputs],
    specs: tuple[TensorSpec, ...],
    limit: float | None = None,
) -> Proof:
    """Judge the outputs of a device by those of the reference kernels for the same samples."""
    limit = usual_limit(file) if limit is None else limit
    worst, where = 0.0, ""
    for ours, theirs in zip(found, expected, strict=True):
        for index, spec in enumerate(specs):
            if ours[index].shape != theirs[index].shape:
                reason = f"output {spec.name!r} came as {list(ours[index].shape)}, not {list(theirs[index].shape)}"
                return Proof(np.inf, limit, reason)
            error = _difference(ours[index], theirs[index], spec, ranked=DETECTION_POSTPROCESS in file.ops)
            if error > worst:
                worst, where = error, spec.name
    if worst <= limit:
        return Proof(worst, limit)
    reason = f"output {where!r} is off by {worst:.2g} standard deviations, at most {limit:g} are allowed"
    return Proof(worst, limit, reason)


def made_up_input(spec: TensorSpec, seed: int) -> Array:
    """An input of that form: noise for an even seed, soft blotches for an odd one; the same everywhere."""
    shape = one_of_each(spec).shape
    if spec.dtype.kind in "iub" and spec.dtype.itemsize > 1 and spec.quantization is None:
        # Plain integers may be indices or sizes: only 0 and 1 are likely to be in range.
        return np.random.default_rng(seed).integers(0, 2, shape).astype(spec.dtype)
    share = _blotches(shape, seed) if seed % 2 and len(shape) == 4 else np.random.default_rng(seed).random(shape)
    if spec.dtype.itemsize == 1 and spec.dtype != np.bool_:
        ends = np.iinfo(spec.dtype)
        stored: Array = np.rint(ends.min + share * (int(ends.max) - int(ends.min))).astype(spec.dtype)
        return stored
    return quantize(share, spec)


def _blotches(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float64]:
    """0..1, smooth along height and width, as a picture is; NHWC or NCHW by where few channels are."""
    is_nchw = shape[1] <= 4 < shape[3]
    channels, height, width = (shape[1], *shape[2:]) if is_nchw else (shape[3], *shape[1:3])
    coarse = np.random.default_rng(seed).random((channels, _BLOTCHES, _BLOTCHES))
    planes = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in coarse])
    picture = planes if is_nchw else planes.transpose(1, 2, 0)
    return np.broadcast_to(picture, shape).astype(np.float64)


def _difference(ours: Array, theirs: Array, spec: TensorSpec, *, ranked: bool) -> float:
    """Root mean square of the difference in standard deviations of the reference; infinite for a NaN.

    Where the reference itself gives no number, nothing can be compared.
    """
    found = dequantize(ours, spec.quantization).astype(np.float64).ravel()
    expected = dequantize(theirs, spec.quantization).astype(np.float64).ravel()
    known = np.isfinite(expected)
    found, expected = found[known], expected[known]
    if not expected.size:
        return 0.0
    if ranked:
        # After non-maximum suppression near ties change places, with box and class: only the scores can be compared.
        if not _are_scores(expected):
            return 0.0
        found, expected = np.sort(found), np.sort(expected)
    difference = float(np.sqrt(np.mean((found - expected) ** 2)))
    if not np.isfinite(difference):
        return float("inf")
    spread = float(expected.std()) or float(np.abs(expected).max()) or 1.0
    return difference / spread


def _are_scores(values: npt.NDArray[np.float64]) -> bool:
    is_falling = values.size > 1 and bool((np.diff(values) <= 0).all())
    return is_falling and values[-1] >= 0 and values[0] <= 1 and not bool((values == np.rint(values)).all())
