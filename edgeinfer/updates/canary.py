"""`python -m edgeinfer.updates.canary NUMBER`: a model is run in this process, and what it does is told on that socket.

Whoever starts it (`cage.py`) sends the job and waits for the answer; this process may crash, hang or eat all memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeinfer.updates.manifest import GoldenEntry, TensorDecl
from edgeinfer.updates.measured import Measured

if TYPE_CHECKING:
    from edgeinfer.bundle import Bundle
    from edgeinfer.delegates.proof import Outputs
    from edgeinfer.frame import Input
    from edgeinfer.model import Model
    from edgeinfer.runtimes import Runtime
    from edgeinfer.tensor import TensorSpec

JOB_BYTES_MAX = 1 << 17

_NICE = 15
_ROUNDS = 3
_RUNS = 20
_ROUND_S = 4.0
_RUNS_MIN = 5
_PICTURES_MAX = 16
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1


class Job(msgspec.Struct, frozen=True):
    """bundle: its folder. device: the word that the node would use. data_max_bytes: what it may allocate.

    pictures: files that are shown to it. inputs, outputs, golden: what was signed, empty for an active model.
    """

    bundle: str
    device: str
    data_max_bytes: int
    pictures: tuple[str, ...] = ()
    inputs: tuple[TensorDecl, ...] = ()
    outputs: tuple[TensorDecl, ...] = ()
    golden: tuple[GoldenEntry, ...] = ()


class Faulty(Exception):
    """What is wrong with the model, in words."""


def main(words: list[str]) -> int:
    """Ends with 0 once it has answered."""
    peer = socket.socket(fileno=int(words[1]))
    peer.set_inheritable(False)
    job = msgspec.json.decode(peer.recv(JOB_BYTES_MAX), type=Job)
    network = _confine(job.data_max_bytes)
    peer.send(msgspec.json.encode(_measured(job, network)))
    return 0


def _measured(job: Job, network: str) -> Measured:
    from edgeinfer.errors import DeviceNotFound, EdgeInferError, RuntimeFailed

    try:
        return _run(job, network)
    except Faulty as faulty:
        return Measured(fault=str(faulty)[:2000])
    except MemoryError:
        return Measured(fault="it needs more memory than there is for it")
    except EdgeInferError as refused:
        is_ours = isinstance(refused, DeviceNotFound) and not isinstance(refused, RuntimeFailed)
        return Measured(fault=str(refused).replace(f"{job.bundle}/", "")[:2000], is_ours=is_ours)


def _confine(data_max_bytes: int) -> str:
    """Give way to everything else, end with the parent, allocate no more than that, and reach no network.

    Before any library starts a thread. Returns whether the network is cut off, in words.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (data_max_bytes, data_max_bytes))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    owner = os.getuid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return "cut off"
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return f"not cut off: {os.strerror(ctypes.get_errno())}"
    with contextlib.suppress(OSError):
        Path("/proc/self/uid_map").write_text(f"{owner} {owner} 1")
    return "cut off"


def _run(job: Job, network: str) -> Measured:
    """Raises Faulty, EdgeInferError."""
    import time

    from edgeinfer.bundle import load_bundle
    from edgeinfer.delegates import load_golden, open_device
    from edgeinfer.model import Model, format_for

    bundle = load_bundle(job.bundle, prefer=format_for(job.device))
    _check_declared(job, bundle)
    golden = load_golden(bundle)
    # Once for the proof, which is remembered, as that of the node's next start will be.
    open_device(bundle.file, job.device, golden=golden).close()
    before_mb = _resident_mb("VmRSS")
    _forget_peak()
    began_s = time.monotonic()
    runtime = open_device(bundle.file, job.device, golden=golden)
    with Model(bundle, runtime) as model:
        load_s = time.monotonic() - began_s
        _check_golden(job, bundle, runtime)
        shown = _shown(bundle, job.pictures)
        found = _found(model, shown)
        p95_ms = _p95_ms(model, shown)
        memory_mb = max(0.0, _resident_mb("VmHWM") - before_mb) + sum(_resident_mb("VmHWM", pid) for pid in _children())
        return Measured(
            device=model.device,
            p95_ms=p95_ms,
            memory_mb=memory_mb,
            load_s=load_s,
            pictures=len(shown),
            found=found,
            network=network,
        )


def _check_declared(job: Job, bundle: Bundle) -> None:
    for what, declared, specs in (
        ("input", job.inputs, bundle.file.inputs),
        ("output", job.outputs, bundle.file.outputs),
    ):
        if not declared:
            continue
        found = tuple(TensorDecl(spec.name, tuple(spec.shape), spec.dtype.name) for spec in specs)
        if found != declared:
            raise Faulty(f"its {what}s are {_in_words(found)}, the manifest says {_in_words(declared)}")


def _in_words(declared: tuple[TensorDecl, ...]) -> str:
    return ", ".join(f"{each.name} {each.dtype}{list(each.shape)}" for each in declared)


def _check_golden(job: Job, bundle: Bundle, runtime: Runtime) -> None:
    """Its samples give finite numbers, and those within the tolerance. Without any, made-up ones give finite numbers.

    That they are what the reference kernels give, and near the known outputs, `open_device` has seen.
    """
    from edgeinfer.delegates import load_golden
    from edgeinfer.delegates.proof import compare, made_up, nonsense, run_sample

    signed = {(each.input, each.outputs): each for each in job.golden}
    samples = load_golden(bundle)
    for sample in samples or tuple(made_up(runtime.inputs)):
        outputs = run_sample(runtime, sample)
        rubbish = nonsense(outputs, runtime.outputs)
        if rubbish is not None:
            raise Faulty(f"it computes nonsense of {sample.name}: {rubbish}")
    for files, sample in zip(bundle.golden, samples, strict=True):
        entry = None if files.outputs is None else signed.get((files.input.name, files.outputs.name))
        if entry is not None and sample.outputs is not None:
            outputs = run_sample(runtime, sample)
            unlike = compare(bundle.file, [outputs], [sample.outputs], runtime.outputs).reason
            if entry.max_abs is not None:
                unlike = _too_far(outputs, sample.outputs, runtime.outputs, entry.max_abs)
            if unlike is not None:
                raise Faulty(f"it computes something else of {sample.name} than was signed: {unlike}")


def _too_far(found: Outputs, expected: Outputs, specs: tuple[TensorSpec, ...], max_abs: float) -> str | None:
    import numpy as np

    from edgeinfer.tensor import dequantize

    for ours, theirs, spec in zip(found, expected, specs, strict=True):
        if ours.shape != theirs.shape:
            return f"output {spec.name!r} came as {list(ours.shape)}, not {list(theirs.shape)}"
        apart = np.abs(dequantize(ours, spec.quantization) - dequantize(theirs, spec.quantization))
        if apart.size and not apart.max() <= max_abs:  # Nor is a NaN.
            return f"output {spec.name!r} is off by {apart.max():.3g}, at most {max_abs:g} are allowed"
    return None


def _shown(bundle: Bundle, pictures: tuple[str, ...]) -> list[Input]:
    """Those pictures; without any, noise of the size that it takes in, and to a model of samples a window of noise."""
    import numpy as np

    from edgeinfer.frame import Frame, Window
    from edgeinfer.sources.picture import BadPicture, decode

    noise = np.random.default_rng(0)
    if bundle.window is not None:
        channels = bundle.window.channels or ("noise",)
        values = noise.normal(0.0, 0.1, (bundle.window.length, len(channels))).astype(np.float32)
        return [Window(values, 0, 0, 0, "memory:", bundle.window.rate_hz, channels)]
    found: list[Input] = []
    for path in pictures[:_PICTURES_MAX]:
        with contextlib.suppress(BadPicture, OSError):
            found.append(Frame(decode(Path(path).read_bytes()), len(found), 0, 0, "memory:"))
    image = bundle.picture
    return found or [Frame(noise.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8), 0, 0, 0, "memory:")]


def _found(model: Model, shown: list[Input]) -> int | None:
    results = [model.infer(each).detections for each in shown]
    return None if any(each is None for each in results) else sum(len(each or ()) for each in results)


def _p95_ms(model: Model, shown: list[Input]) -> float:
    """Of the best round: what else runs on the board makes others slower, and none quicker."""
    return min(_round_p95_ms(model, shown) for _ in range(_ROUNDS))


def _round_p95_ms(model: Model, shown: list[Input]) -> float:
    import math
    import time

    took_ms: list[float] = []
    began_s = time.monotonic()
    while len(took_ms) < _RUNS:
        if len(took_ms) >= _RUNS_MIN and time.monotonic() - began_s > _ROUND_S:
            break
        took = model.infer(shown[len(took_ms) % len(shown)]).timing_ms
        took_ms.append(took.preprocess + took.infer + took.decode)
    return sorted(took_ms)[math.ceil(0.95 * len(took_ms)) - 1]


def _resident_mb(name: str, pid: int | str = "self") -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    """The peak counts from now on, where the kernel can do that; else it is that of the proof, which is no less."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _children() -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for each in Path("/proc/self/task").glob("*/children"):
            found += map(int, each.read_text().split())
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
