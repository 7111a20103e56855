"""A canary in its cage: started, watched and ended, whatever the model in it does."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgeinfer.errors import UpdateError
from edgeinfer.updates.canary import JOB_BYTES_MAX, Job
from edgeinfer.updates.manifest import Manifest
from edgeinfer.updates.measured import Measured

log = logging.getLogger(__name__)

LIMIT_S = 180.0
"""For a canary from beginning to end, where nobody says otherwise."""

_ANSWER_BYTES_MAX = 64 << 10
_LOOK_S = 0.1
_DIE_S = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Left to the node. What Python and its libraries take, the worker's included, is no fault of the model.
_SPARED_BYTES = 64 << 20
_PROGRAM_BYTES = 512 << 20
_MEMORY_MIN_BYTES = 128 << 20
# Threads' stacks and arenas are reserved in the address space and never touched.
_RESERVED_BYTES = 1 << 30
# What this process can import, the canary can; see runtimes/isolated.py.
_BOOT = (
    "import os, sys; sys.path[:] = sys.argv.pop().split(os.pathsep); "
    "from edgeinfer.updates.canary import main; sys.exit(main(sys.argv))"
)


def run_candidate(
    bundle: Path,
    manifest: Manifest,
    *,
    device: str = "auto",
    pictures: Sequence[Path] = (),
    limit_s: float = LIMIT_S,
    memory_max_bytes: int | None = None,
) -> Measured:
    """Run a release as its manifest says. memory_max_bytes: of all its processes, what is free on the board where None.

    Raises UpdateError where no canary can be started, which is not the model's fault.
    """
    most = memory_max_bytes or _memory_for(manifest.budget.memory_mb)
    job = Job(
        str(bundle),
        device,
        most + _RESERVED_BYTES,
        tuple(map(str, pictures)),
        manifest.inputs,
        manifest.outputs,
        manifest.golden,
    )
    return _run(job, most, limit_s)


def run_active(
    bundle: Path, *, device: str = "auto", pictures: Sequence[Path] = (), limit_s: float = LIMIT_S
) -> Measured:
    """The same with the model in use, to be compared with. Raises UpdateError."""
    most = _memory_for(None)
    job = Job(str(bundle), device, most + _RESERVED_BYTES, tuple(map(str, pictures)))
    return _run(job, most, limit_s)


def _run(job: Job, memory_max_bytes: int, limit_s: float) -> Measured:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = _start(theirs)
        try:
            packet = msgspec.json.encode(job)
            if len(packet) > JOB_BYTES_MAX:
                raise UpdateError("the manifest declares more tensors than a canary can be told of")
            with contextlib.suppress(OSError):  # It has died already, and its end says more.
                ours.send(packet)
            return _watch(process, ours, memory_max_bytes, limit_s)
        finally:
            _end(process)


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno())]
    path = os.pathsep.join(each for each in sys.path if isinstance(each, str))
    try:
        return subprocess.Popen(
            [*words, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as refused:
        raise UpdateError(f"no canary can be started: {refused.strerror}") from refused


def _watch(process: subprocess.Popen[bytes], peer: socket.socket, memory_max_bytes: int, limit_s: float) -> Measured:
    deadline_s = time.monotonic() + limit_s
    peer.settimeout(_LOOK_S)
    while True:
        with contextlib.suppress(TimeoutError):
            return _answer(process, peer)
        if time.monotonic() > deadline_s:
            return Measured(fault=f"its canary did not end within {limit_s:g} s")
        taken = sum(_resident_bytes(pid) for pid in _family(process.pid))
        if taken > memory_max_bytes:
            allowed_mb = memory_max_bytes >> 20
            return Measured(fault=f"its canary took {taken >> 20} MB of memory, at most {allowed_mb} MB are allowed")


def _answer(process: subprocess.Popen[bytes], peer: socket.socket) -> Measured:
    """Raises TimeoutError where there is none yet."""
    try:
        packet = peer.recv(_ANSWER_BYTES_MAX)
    except TimeoutError:
        raise
    except OSError:
        packet = b""
    if packet:
        try:
            return msgspec.json.decode(packet, type=Measured)
        except msgspec.MsgspecError as odd:
            return Measured(fault=f"its canary gave no answer that makes sense: {odd}"[:2000])
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_DIE_S)
    code = process.returncode
    if code is None:
        return Measured(fault="its canary fell silent")
    return Measured(fault=f"its canary died ({_signal_name(-code)})" if code < 0 else f"its canary ended (exit {code})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, and the workers that it started, which have sessions of their own."""
    for pid in tuple(_family(process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        # One that hangs in the kernel is left.
        process.wait(_DIE_S)


def _family(pid: int) -> Iterator[int]:
    """A process and what descends from it."""
    yield pid
    with contextlib.suppress(OSError, ValueError):
        for each in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in each.read_text().split():
                yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    """Of its own memory: what several map of the same file is not counted for each."""
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return max(0, resident - shared) * _PAGE_BYTES


def _memory_for(budget_mb: float | None) -> int:
    """Bytes: what is free but for a reserve, and no more than the budget makes plausible."""
    free = max(_available_bytes() - _SPARED_BYTES, _MEMORY_MIN_BYTES)
    return free if budget_mb is None else min(free, _PROGRAM_BYTES + round(2 * budget_mb * 1e6))


def _available_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 30


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
