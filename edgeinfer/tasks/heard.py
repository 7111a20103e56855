"""Sound and windows of sensors -> classes."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE
from edgeinfer.result import Classification, Outcome
from edgeinfer.tasks import Fitted, WindowTask
from edgeinfer.tasks.classify import Classify
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tensor import Array, TensorSpec, dequantize


def make_classes(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> WindowTask:
    """One score for each class, or the only one of a detector of one thing. Raises ModelError."""
    if len(specs) == 1 and all(size in (1, -1) for size in specs[0].shape):
        return OneScore(bundle, specs[0])
    return Classes(bundle, specs)


class Classes:
    """The classes that reach `score_min`, best first, at most `max_results`."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._classify = Classify(bundle, specs)

    def decode(self, raw: tuple[Array, ...], fitted: Fitted) -> Outcome:
        return self._classify.decode(raw, WHOLE)


class OneScore:
    """Whether the one thing that the model knows is there, such as speech."""

    def __init__(self, bundle: Bundle, spec: TensorSpec) -> None:
        check_label_count(bundle, 1)
        self._spec = spec
        self._label = bundle.label(0)
        self._least = bundle.decode.score_min
        self._is_logit = bundle.decode.output_is == "logits"

    def decode(self, raw: tuple[Array, ...], fitted: Fitted) -> Outcome:
        if raw[0].size != 1:
            raise ModelError(f"output {self._spec.name!r} came with {raw[0].size} numbers, expected one")
        score = float(dequantize(raw[0].reshape(1), self._spec.quantization)[0])
        if self._is_logit:
            score = float(0.5 * (1 + np.tanh(0.5 * score)))
        # Not a number reaches no threshold.
        if not score >= self._least:
            return Outcome(classes=())
        return Outcome(classes=(Classification(self._label, 0, round(min(max(score, 0.0), 1.0), 5)),))
