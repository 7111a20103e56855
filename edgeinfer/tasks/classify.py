"""What the whole picture shows: one output with a number for each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Classification, Outcome
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec, dequantize

_NOTHING = Outcome(classes=())

Found = tuple[list[int], list[float]]
"""Class ids and their scores; plain numbers, since few reach the threshold and each call into numpy costs as much."""

# One search each; beyond that many numpy is quicker.
_FEW = 32

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
        self._bytes = (
            _ByteScores(self._least, self._spec)
            if self._least is not None and self._spec.dtype in (np.uint8, np.int8)
            else None
        )

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = raw[self._index].reshape(-1)
        if stored.size != self._classes:
            raise ModelError(
                f"output {self._spec.name!r} came with {stored.size} numbers, not as {self._spec.describe()}"
            )
        class_ids, scores = self._from_logits(stored) if self._are_logits else self._from_probabilities(stored)
        if not class_ids:
            return _NOTHING
        best = sorted(zip([-score for score in scores], class_ids, strict=True))[: self._bundle.decode.max_results]
        return Outcome(
            classes=tuple(
                [
                    Classification(self._bundle.label(class_id), class_id, round(min(max(-negated, 0.0), 1.0), 5))
                    for negated, class_id in best
                ]
            )
        )

    def _from_probabilities(self, stored: Array) -> Found:
        """Compared as stored: only what reaches the threshold becomes a real number."""
        if self._least is None:
            return [], []
        found = None if self._bytes is None else self._bytes.found_in(stored)
        if found is not None:
            return found
        class_ids = np.flatnonzero(stored >= self._least)
        return class_ids.tolist(), dequantize(stored[class_ids], self._spec.quantization).tolist()

    def _from_logits(self, stored: Array) -> Found:
        logits = dequantize(stored, self._spec.quantization)
        # A logit that is no number makes every score one: then nothing reaches the threshold.
        with np.errstate(invalid="ignore"):
            exponents = np.exp(logits - logits.max())
            scores = (exponents / exponents.sum()).astype(np.float32)
        class_ids = np.flatnonzero(scores >= np.float32(self._bundle.decode.score_min))
        return class_ids.tolist(), scores[class_ids].tolist()


class _ByteScores:
    """Finds what reaches the threshold among scores of one byte each.

    By `bytes` and not by numpy, whose first call after the model has run takes as long as all of this: its code is
    no longer in the processor's caches.
    """

    def __init__(self, least: np.generic[Any], spec: TensorSpec) -> None:
        stored = np.arange(256, dtype=np.uint8).view(spec.dtype)
        self._below = np.flatnonzero(stored < least).astype(np.uint8).tobytes()
        self._score_of: list[float] = dequantize(stored, spec.quantization).tolist()

    def found_in(self, stored: Array) -> Found | None:
        """None where so many reach it that numpy is quicker after all."""
        content = stored.tobytes()
        reaching = content.translate(None, self._below)
        if len(reaching) > _FEW:
            return None
        class_ids: list[int] = []
        scores: list[float] = []
        for byte in set(reaching):
            class_id = content.find(byte)
            while class_id >= 0:
                class_ids.append(class_id)
                scores.append(self._score_of[byte])
                class_id = content.find(byte, class_id + 1)
        return class_ids, scores


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
