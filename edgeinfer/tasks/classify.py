"""What the whole picture shows: one output with a number for each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Classification, Outcome
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec, dequantize

_NOTHING = Outcome(classes=())
_NO_CLASS, _NO_SCORE = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)

_FORM = "[1, classes] with at least 2 classes"


class Classify:
    """The classes that reach `score_min`, best first, at most `max_results`. Logits go through a softmax."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._index = _class_output(bundle, specs)
        self._spec = specs[self._index]
        self._classes = _class_count(self._spec)
        check_label_count(bundle, self._classes)
        self._are_logits = bundle.decode.output_is == "logits"
        self._least = None if self._are_logits else stored_threshold(bundle.decode.score_min, self._spec)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = raw[self._index].reshape(-1)
        if stored.size != self._classes:
            raise ModelError(
                f"output {self._spec.name!r} came with {stored.size} numbers, not as {self._spec.describe()}"
            )
        class_ids, scores = self._from_logits(stored) if self._are_logits else self._from_probabilities(stored)
        if not class_ids.size:
            return _NOTHING
        # Plain numbers: few classes reach the threshold, and each call into numpy costs as much as they do.
        best = sorted(zip((-scores).tolist(), class_ids.tolist(), strict=True))[: self._bundle.decode.max_results]
        return Outcome(
            classes=tuple(
                Classification(self._bundle.label(class_id), class_id, round(min(max(-negated, 0.0), 1.0), 5))
                for negated, class_id in best
            )
        )

    def _from_probabilities(self, stored: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Compared as stored: only what reaches the threshold becomes a real number."""
        if self._least is None:
            return _NO_CLASS, _NO_SCORE
        class_ids = np.flatnonzero(stored >= self._least)
        if not class_ids.size:
            return _NO_CLASS, _NO_SCORE
        return class_ids, dequantize(stored[class_ids], self._spec.quantization)

    def _from_logits(self, stored: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        logits = dequantize(stored, self._spec.quantization)
        # A logit that is no number makes every score one: then nothing reaches the threshold.
        with np.errstate(invalid="ignore"):
            exponents = np.exp(logits - logits.max())
            scores = (exponents / exponents.sum()).astype(np.float32)
        class_ids = np.flatnonzero(scores >= np.float32(self._bundle.decode.score_min))
        return class_ids, scores[class_ids]


def _class_output(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> int:
    """The output with the classes: the only one of that form, or the one with as many as there are labels."""
    fits = [index for index, spec in enumerate(specs) if _class_count(spec) >= 2]
    if len(fits) > 1 and bundle.labels:
        fits = [index for index in fits if _class_count(specs[index]) == len(bundle.labels)]
    if len(fits) != 1:
        found = ", ".join(f"{spec.name!r} {spec.describe()}" for spec in specs)
        raise ModelError(f"outputs {found}, expected one of the form {_FORM}")
    return fits[0]


def _class_count(spec: TensorSpec) -> int:
    """How many numbers an output of the form [1, ..., classes, ...] holds; 0 for any other form."""
    if spec.dtype.kind not in "iuf" or not spec.shape:
        return 0
    shape = spec.shape[1:] if spec.shape[0] in (1, -1) and len(spec.shape) > 1 else spec.shape
    sizes = [size for size in shape if size != 1]
    return sizes[0] if len(sizes) == 1 else 0
