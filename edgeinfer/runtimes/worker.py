"""The worker's side of an isolated runtime: opens the model, then computes in shared memory when told to.

Messages are packets on one socket. The first from the parent is the job, the first from here says what was opened
and carries the descriptor of the shared memory; both are JSON. Then `run` is answered by `done`, or in JSON by an error
or by the shapes of the outputs, where these are not those of the specs.

A model leaves nothing of this code in the processor's caches. Each line between a question and its answer costs several
times what it costs in a loop of its own, and is paid for with every frame.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, EdgeInferError, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.tensor import Array, Quantization, TensorSpec

PACKET_BYTES = 1 << 17
"""The longest message; a socket of packets takes about 200 kB."""

RUN, CLOSE, DONE = b"run", b"close", b"done"

_ALIGNMENT = 64
# An output whose size the model leaves open gets room for this much; pages that nobody touches cost nothing.
_OPEN_OUTPUT_BYTES = 16 << 20
_SPARE_BYTES = 512 << 20
_LATE_S = 5.0
_QUESTION_BYTES = 16


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place in the shared memory. size_bytes: what is reserved for it."""

    spec: TensorSpec
    offset: int
    size_bytes: int

    def view(self, memory: mmap.mmap, shape: tuple[int, ...]) -> Array:
        count = math.prod(shape)
        return np.frombuffer(memory, dtype=self.spec.dtype, count=count, offset=self.offset).reshape(shape)


class SharedTensors:
    """A runtime's inputs and outputs in memory that two processes have in common.

    outputs: in the shapes of their specs, a size that a spec leaves free being 0.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], descriptor: int) -> None:
        """Grows the file to what is needed."""
        taken, end = _lay_out(inputs, 0)
        self._given, end = _lay_out(outputs, end)
        os.ftruncate(descriptor, max(end, 1))
        self._memory = mmap.mmap(descriptor, max(end, 1))
        self.inputs = tuple(slot.view(self._memory, slot.spec.shape) for slot in taken)
        self.outputs = tuple(
            slot.view(self._memory, tuple(max(size, 0) for size in slot.spec.shape)) for slot in self._given
        )

    def output(self, index: int, shape: tuple[int, ...]) -> Array:
        """An output in a shape of its own. Raises RuntimeFailed where there is no room for it."""
        slot = self._given[index]
        size_bytes = math.prod(shape) * slot.spec.dtype.itemsize
        if size_bytes > slot.size_bytes:
            raise RuntimeFailed(f"output {slot.spec.name!r} takes {size_bytes} bytes, not {slot.size_bytes}")
        return slot.view(self._memory, shape)


def _lay_out(specs: tuple[TensorSpec, ...], start: int) -> tuple[tuple[Slot, ...], int]:
    """Places for tensors one behind the other from `start`, and where the last one ends."""
    slots = []
    for spec in specs:
        size_bytes = math.prod(spec.shape) * spec.dtype.itemsize if spec.is_static else _OPEN_OUTPUT_BYTES
        slots.append(Slot(spec, start, size_bytes))
        start += -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
    return tuple(slots), start


def spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    quantization = spec.quantization
    return {
        "name": spec.name,
        "shape": spec.shape,
        "dtype": spec.dtype.str,
        "quantization": quantization and [quantization.scale, quantization.zero_point, quantization.axis],
    }


def spec_from_json(said: Mapping[str, Any]) -> TensorSpec:
    quantization = said["quantization"]
    return TensorSpec(
        name=said["name"],
        shape=tuple(said["shape"]),
        dtype=np.dtype(said["dtype"]),
        quantization=quantization and Quantization(tuple(quantization[0]), tuple(quantization[1]), quantization[2]),
    )


def work(descriptor: int, job: Mapping[str, Any]) -> None:
    """Do what the parent at the other end of the socket says, until it closes."""
    # What the device's library starts must not keep our end of the socket open when we are gone.
    os.set_inheritable(descriptor, False)
    _bound_this_process()
    with socket.socket(fileno=descriptor) as parent:
        try:
            _set_alarm(job["open_timeout_s"])
            runtime = _open(job)
            _end_alarm()
        except EdgeInferError as refused:
            parent.send(_refusal(refused))
            return
        except MemoryError:
            parent.send(_refusal(ModelError(f"{job['path']} needs more memory than there is")))
            return
        try:
            _serve(parent, runtime, job["deadline_s"])
        finally:
            # Not taken back: what hangs while it lets go of a model must not outlive the parent.
            signal.setitimer(signal.ITIMER_REAL, _LATE_S)
            runtime.close()


def _open(job: Mapping[str, Any]) -> Runtime:
    file = read_model_file(Path(job["path"]))
    if file.sha256 != job["sha256"]:
        raise ModelError(f"{file.path} has changed since it was checked", hint="load it again")
    # Somebody may have settled sizes that the file leaves free.
    inputs = tuple(replace(spec, shape=tuple(shape)) for spec, shape in zip(file.inputs, job["shapes"], strict=True))
    options = RuntimeOptions(threads=job["threads"], paced=job["paced"], driver=job["driver"])
    open_runtime = RUNTIMES.get(job["runtime"], error=DeviceNotFound)
    return open_runtime(replace(file, inputs=inputs), job["unit"], options)


def _set_alarm(seconds: float) -> None:
    """Ends this process when what follows hangs and the parent, which would kill it, has died meanwhile."""
    signal.setitimer(signal.ITIMER_REAL, seconds + _LATE_S)


def _end_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def _serve(parent: socket.socket, runtime: Runtime, deadline_s: float) -> None:
    shared = os.memfd_create("edgeinfer-tensors", os.MFD_CLOEXEC)
    tensors = SharedTensors(runtime.inputs, runtime.outputs, shared)
    opened = {
        "device": runtime.device,
        "inputs": [spec_to_json(spec) for spec in runtime.inputs],
        "outputs": [spec_to_json(spec) for spec in runtime.outputs],
    }
    socket.send_fds(parent, [json.dumps(opened).encode()], [shared])
    os.close(shared)
    # A buffer as large as a packet would be mapped and unmapped at every call.
    while parent.recv(_QUESTION_BYTES) == RUN:
        _set_alarm(deadline_s)
        parent.send(_run(runtime, tensors))
        _end_alarm()


def _run(runtime: Runtime, tensors: SharedTensors) -> bytes:
    try:
        for index, tensor in enumerate(tensors.inputs):
            runtime.input(index)[...] = tensor
        return _hand_over(runtime.run(), tensors)
    except MemoryError:
        return _refusal(RuntimeFailed(f"{runtime.device} ran out of memory"))
    except EdgeInferError as failed:
        return _refusal(failed)


def _hand_over(outputs: tuple[Array, ...], tensors: SharedTensors) -> bytes:
    is_usual = True
    for index, (output, place) in enumerate(zip(outputs, tensors.outputs, strict=True)):
        if place.shape == output.shape:
            place[...] = output
        else:
            is_usual = False
            tensors.output(index, output.shape)[...] = output
    return DONE if is_usual else json.dumps({"shapes": [output.shape for output in outputs]}).encode()


def _refusal(error: EdgeInferError) -> bytes:
    kind = "device" if isinstance(error, DeviceNotFound) and not isinstance(error, RuntimeFailed) else "model"
    kind = "run" if isinstance(error, RuntimeFailed) else kind
    return json.dumps({"error": str(error)[: PACKET_BYTES // 8], "kind": kind}).encode()


def _bound_this_process() -> None:
    """Be the first to go when memory runs out, leave no core file, and keep off the parent's stdout."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        limit = _available_bytes() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # What native libraries print would spoil JSON lines on stdout.
    os.dup2(2, 1)


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 30
