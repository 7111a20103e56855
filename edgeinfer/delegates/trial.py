"""A model's first run on a device, in a child process that may crash, hang or eat all memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.memory import Memory
from edgeinfer.errors import DeviceNotFound, EdgeInferError, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.tensor import Array, TensorSpec, quantize

TIMEOUT_S = 60.0

Blame = Literal["model", "device"]

# What the parent can import, the child can: isolated mode alone would lose an editable checkout's PYTHONPATH.
_BOOT = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job['sys_path']; "
    "from edgeinfer.delegates.trial import answer; answer(job)"
)
_MARK = "edgeinfer-trial "
_SPARE_BYTES = 512 << 20
_TAIL_BYTES = 4096
_MAX_ANSWER_BYTES = 1 << 20
_SEED = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """How it went. reason: None where it passed. blame: whether the model or the device is at fault.

    remembered: an earlier trial of the same bytes in the same runtime passed, none was made now.
    """

    reason: str | None = None
    blame: Blame = "model"
    remembered: bool = False

    @property
    def passed(self) -> bool:
        return self.reason is None


def try_model(
    file: ModelFile,
    runtime: str,
    unit: str,
    options: RuntimeOptions,
    *,
    timeout_s: float = TIMEOUT_S,
    memory: Memory | None = None,
) -> Trial:
    """Load the model in a child process and run it twice, unless `memory` knows that it passed before.

    Takes at most `timeout_s`; whatever the child does, this process stays whole. Raises nothing.
    """
    job = _job(file, runtime, unit, options)
    if memory is not None and memory.has(job):
        return Trial(remembered=True)
    trial = _try_in_child(job, f"{runtime}:{unit}" if unit else runtime, timeout_s)
    if trial.passed and memory is not None:
        memory.add(job)
    return trial


def _job(file: ModelFile, runtime: str, unit: str, options: RuntimeOptions) -> dict[str, Any]:
    return {
        "path": str(file.path.absolute()),
        "sha256": file.sha256,
        # Somebody may have settled sizes that the file leaves free.
        "shapes": [list(spec.shape) for spec in file.inputs],
        "runtime": runtime,
        "unit": unit,
        "threads": options.threads,
        "driver": dict(options.driver),
    }


def _try_in_child(job: dict[str, Any], device: str, timeout_s: float) -> Trial:
    if not sys.executable:
        return Trial(f"{device} was not tried: this program does not know its Python interpreter", "device")
    task = {**job, "sys_path": [entry for entry in sys.path if isinstance(entry, str)], "timeout_s": timeout_s}
    chatter = os.memfd_create("edgeinfer-trial", os.MFD_CLOEXEC)
    with open(chatter, "w+b") as stderr:  # noqa: PTH123 -- a descriptor, not a path.
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as refused:
            return Trial(f"{device} was not tried: no child process ({refused.strerror})", "device")
        with child:
            try:
                stdout, _ = child.communicate(json.dumps(task).encode(), timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return Trial(f"{device} did not answer within {timeout_s:g} s")
            finally:
                if child.poll() is None:
                    _kill(child)
        return _verdict(device, child.returncode, stdout, _tail(stderr))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child, which was not waited for yet, and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _tail(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    lines = [line.strip() for line in stderr.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _verdict(device: str, status: int, stdout: bytes, last_words: str) -> Trial:
    line = stdout[-_MAX_ANSWER_BYTES:].decode(errors="replace").rpartition(_MARK)[2]
    try:
        said = json.loads(line)
        reason, blame = said["reason"], said["blame"]
    except (ValueError, KeyError, TypeError):
        said = None
    if status < 0:
        # Also after an answer: what crashes while it lets go of a model would take this process along.
        return Trial(f"{device} crashed with it ({_signal_name(-status)})")
    if said is None:
        return Trial(f"{device} ended without an answer (exit {status}{': ' if last_words else ''}{last_words})")
    return Trial(reason, "device" if blame == "device" else "model")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# What follows runs in the child.


def answer(job: dict[str, Any]) -> None:
    """Do the job that the parent wrote, and print one line of JSON."""
    answers = _own_stdout()
    _bound_this_process(float(job["timeout_s"]))
    reason, blame = _try(job)
    answers.write(f"{_MARK}{json.dumps({'reason': reason, 'blame': blame})}\n")
    answers.flush()


def _own_stdout() -> IO[str]:
    """The pipe to the parent, to ourselves: what libraries print goes to stderr."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(pipe, "w")


def _bound_this_process(timeout_s: float) -> None:
    # Ends the child by itself where the parent was killed meanwhile.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        limit = _available_bytes() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123 -- not a file.
        score.write("1000")


def _available_bytes() -> int:
    with open("/proc/meminfo") as lines:  # noqa: PTH123 -- not a file.
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 30


def _try(job: dict[str, Any]) -> tuple[str | None, Blame]:
    # Not at the top: the parent, too, imports this module.
    from pathlib import Path

    from edgeinfer.bundle.load import read_model_file

    try:
        file = read_model_file(Path(job["path"]))
        if file.sha256 != job["sha256"]:
            raise ModelError(f"{file.path} has changed since it was checked", hint="load it again")
        inputs = tuple(
            replace(spec, shape=tuple(shape)) for spec, shape in zip(file.inputs, job["shapes"], strict=True)
        )
        options = RuntimeOptions(threads=job["threads"], driver=job["driver"])
        runtime = RUNTIMES.get(job["runtime"], error=DeviceNotFound)(replace(file, inputs=inputs), job["unit"], options)
        _run_twice(runtime)
        runtime.close()
    except MemoryError:
        return f"{file.path} needs more memory than there is", "model"
    except RuntimeFailed as failed:
        return str(failed), "model"
    except DeviceNotFound as missing:
        return str(missing), "device"
    except EdgeInferError as refused:
        return str(refused), "model"
    return None, "model"


def _run_twice(runtime: Runtime) -> None:
    """Once on real zeros and once on seeded noise: some kernels fail only on the second run or on values."""
    noise = np.random.default_rng(_SEED)
    for index, spec in enumerate(runtime.inputs):
        runtime.input(index)[...] = _zero(spec)
    runtime.run()
    for index, spec in enumerate(runtime.inputs):
        runtime.input(index)[...] = _noise(spec, noise)
    runtime.run()


def _zero(spec: TensorSpec) -> Array:
    per_channel = spec.quantization is not None and spec.quantization.axis is not None
    return quantize(np.zeros(spec.shape if per_channel else ()), spec)


def _noise(spec: TensorSpec, noise: np.random.Generator) -> Array:
    if spec.dtype.kind in "iu" and (spec.quantization is not None or spec.dtype.itemsize == 1):
        ends = np.iinfo(spec.dtype)
        return noise.integers(ends.min, ends.max, spec.shape, dtype=spec.dtype, endpoint=True)
    # Plain integers may be indices or sizes: only 0 and 1 are likely to be in range.
    values: Array = (
        noise.random(spec.shape, dtype=np.float32)
        if spec.dtype.kind == "f"
        else noise.integers(0, 2, spec.shape, dtype=np.uint8)
    )
    return values.astype(spec.dtype, copy=False)
