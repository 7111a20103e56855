"""A device that has passed its proof, and can be asked later whether it still gives what it gave there."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.proof import Outputs, Sample, compare, limit_by, run_sample
from edgeinfer.runtimes import Runtime
from edgeinfer.tensor import Array


class Proven:
    """See Runtime. expected: what `runtime` gave for `sample` at its proof. run_s: how long a run took there."""

    def __init__(self, runtime: Runtime, file: ModelFile, sample: Sample, expected: Outputs, *, run_s: float) -> None:
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs
        self.run_s = run_s
        self._runtime = runtime
        self._file = file
        self._sample = sample
        self._expected = expected

    @property
    def device(self) -> str:
        return self._runtime.device

    def input(self, index: int = 0) -> Array:
        return self._runtime.input(index)

    def run(self) -> tuple[Array, ...]:
        return self._runtime.run()

    def close(self) -> None:
        self._runtime.close()

    def recheck(self) -> str | None:
        """Run the sample again: how what comes out differs from the proof, None where it does not.

        What stands in the inputs is kept, also where the run fails. Raises RuntimeFailed.
        """
        saved = [np.array(self._runtime.input(index)) for index in range(len(self.inputs))]
        try:
            found = run_sample(self._runtime, self._sample)
        finally:
            for index, tensor in enumerate(saved):
                self._runtime.input(index)[...] = tensor
        # Against itself a device may only lie as far as one that rounds alike.
        return compare(self._file, [found], [self._expected], self.outputs, limit_by(0.0, self._file)).reason
