"""A runtime in a worker process over shared memory, so that one that hangs or crashes can be killed and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.worker import CLOSE, DONE, PACKET_BYTES, RUN, SharedTensors, spec_from_json
from edgeinfer.tensor import Array

OPEN_TIMEOUT_S = 60.0

# What the parent can import, the child can: isolated mode alone would lose an editable checkout's PYTHONPATH.
_BOOT = (
    "import json, socket, sys; number = int(sys.argv[1]); "
    f"peer = socket.socket(fileno=number); job = json.loads(peer.recv({PACKET_BYTES})); peer.detach(); "
    "sys.path[:] = job['sys_path']; from edgeinfer.runtimes.worker import work; work(number, job)"
)
_MAX_CHATTER_BYTES = 1 << 20
_TAIL_BYTES = 4096
_CLOSE_S = 2.0
# For these two somebody waits with a frame.
_DIE_S = 0.5
_KILL_S = 0.2
_BACKGROUND_NICE = 10


class Crew:
    """Workers in the background: they give way to everything else, and all can be dismissed, even while they open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[subprocess.Popen[bytes]] = []
        self.is_dismissed = False

    def take_on(self, worker: subprocess.Popen[bytes]) -> None:
        # It has a single thread yet, and whatever it starts later takes after that.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, _BACKGROUND_NICE)
        with self._lock:
            self._workers.append(worker)
            if self.is_dismissed:
                _end(worker)

    def dismiss(self) -> None:
        """Kill them, and whoever joins later; whoever waits for one is told that it died."""
        with self._lock:
            self.is_dismissed = True
            for worker in self._workers:
                _end(worker)


class Isolated:
    """See Runtime. deadline_s: a run that takes longer is killed, worker and all, and raises RuntimeFailed.

    A worker that crashed or was killed is gone, and every further run fails; what was written as input can still be
    read until this is closed.
    """

    def __init__(
        self,
        file: ModelFile,
        runtime: str,
        unit: str,
        options: RuntimeOptions,
        *,
        deadline_s: float,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        crew: Crew | None = None,
    ) -> None:
        """Raises ModelError or DeviceNotFound as the runtime does; a crash or a hang at opening is a ModelError."""
        self.device = f"{runtime}:{unit}" if unit else runtime
        self._deadline_s = deadline_s
        self._name = str(file.path)
        self._tensors: SharedTensors | None = None
        self._packet = bytearray(PACKET_BYTES)
        self._is_killed = False
        self._chatter, self._worker, self._peer = _start()
        try:
            if crew is not None:
                crew.take_on(self._worker)
            job = _job(file, runtime, unit, options)
            self._open({**job, "deadline_s": deadline_s, "open_timeout_s": open_timeout_s}, open_timeout_s)
        except BaseException:
            self.close()
            raise

    def input(self, index: int = 0) -> Array:
        return self._shared().inputs[index]

    def run(self) -> tuple[Array, ...]:
        tensors = self._shared()
        if self._worker.returncode is not None or self._is_killed:
            raise RuntimeFailed(f"{self.device} has lost its worker process")
        answer = self._let_run()
        if answer == DONE:
            return tensors.outputs
        said = json.loads(answer)
        if "error" in said:
            raise RuntimeFailed(said["error"])
        return tuple(tensors.output(index, tuple(shape)) for index, shape in enumerate(said["shapes"]))

    def allow(self, deadline_s: float) -> None:
        """From now on a run may take that long, but not longer than was said at the opening."""
        self._deadline_s = max(deadline_s, 0.001)
        if self._tensors is not None:
            self._peer.settimeout(self._deadline_s)

    def close(self) -> None:
        if self._worker.poll() is None and not self._is_killed:
            with contextlib.suppress(OSError):
                self._peer.send(CLOSE)
            try:
                self._worker.wait(_CLOSE_S)
            except subprocess.TimeoutExpired:
                self._kill()
        self._peer.close()
        # Outputs that somebody still holds keep the memory, and its descriptor, until they are let go of.
        self._tensors = None
        if self._chatter >= 0:
            os.close(self._chatter)
            self._chatter = -1

    @property
    def exit_signal(self) -> str | None:
        """The signal that ended the worker, as in SIGSEGV; None while it lives and after an orderly end."""
        code = self._worker.returncode
        return _signal_name(-code) if code is not None and code < 0 else None

    def _shared(self) -> SharedTensors:
        if self._tensors is None:
            raise RuntimeFailed(f"{self.device} is closed")
        return self._tensors

    def _open(self, job: dict[str, Any], timeout_s: float) -> None:
        try:
            self._peer.settimeout(timeout_s)
            self._peer.send(json.dumps(job).encode())
            packet, descriptors, _, _ = socket.recv_fds(self._peer, PACKET_BYTES, 1)
        except TimeoutError:
            self._kill()
            raise ModelError(f"{self.device} did not open {self._name} within {timeout_s:g} s") from None
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            raise ModelError(f"{self.device} {self._last_words()} while it opened {self._name}")
        answer = json.loads(packet)
        if "error" in answer:
            raise {"device": DeviceNotFound, "model": ModelError, "run": RuntimeFailed}[answer["kind"]](answer["error"])
        self.device = answer["device"]
        self.inputs = tuple(spec_from_json(spec) for spec in answer["inputs"])
        self.outputs = tuple(spec_from_json(spec) for spec in answer["outputs"])
        self._tensors = SharedTensors(self.inputs, self.outputs, descriptors[0])
        os.close(descriptors[0])
        self.allow(self._deadline_s)

    def _let_run(self) -> bytes:
        """What the worker answers. Raises RuntimeFailed where it does not."""
        try:
            self._peer.send(RUN)
            self._cut_chatter()  # While the worker computes, so that it costs no time.
            size = self._peer.recv_into(self._packet)
        except TimeoutError:
            self._kill()
            raise RuntimeFailed(f"{self.device} did not answer within {self._deadline_s:g} s and was killed") from None
        except OSError:
            size = 0
        except BaseException:
            # Its answer would be taken for that to the next question.
            self._kill()
            raise
        if not size:
            raise RuntimeFailed(f"{self.device} {self._last_words()} while it ran {self._name}")
        return bytes(self._packet[:size])

    def _last_words(self) -> str:
        """How the worker ended, as in `died (SIGSEGV)`, with the last line that it wrote."""
        deadline_s = time.monotonic() + _DIE_S
        while self._worker.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.001)
        if self._worker.returncode is None:
            self._kill()
        how = f"died ({self.exit_signal})" if self.exit_signal else f"ended (exit {self._worker.returncode})"
        said = self._tail()
        return f"{how}: {said}" if said and self.exit_signal is None else how

    def _tail(self) -> str:
        size = os.fstat(self._chatter).st_size
        text = os.pread(self._chatter, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

    def _cut_chatter(self) -> None:
        if os.lseek(self._chatter, 0, os.SEEK_END) > _MAX_CHATTER_BYTES:
            os.ftruncate(self._chatter, 0)

    def _kill(self) -> None:
        _end(self._worker)
        self._is_killed = True
        # A driver that hangs in the kernel keeps even a killed process: the next device must not wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._worker.wait(_KILL_S)


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Kill it and whatever it started."""
    if worker.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)


def _start() -> tuple[int, subprocess.Popen[bytes], socket.socket]:
    """The file that takes what a worker prints, the worker, and the socket to it. Raises DeviceNotFound."""
    if not sys.executable:
        raise DeviceNotFound("no worker process can be started: this program does not know its Python interpreter")
    chatter = -1
    try:
        chatter = os.memfd_create("edgeinfer-worker", os.MFD_CLOEXEC)
        return chatter, *_spawn(chatter)
    except BaseException as refused:
        if chatter >= 0:
            os.close(chatter)
        if isinstance(refused, OSError):
            raise DeviceNotFound(f"no worker process can be started: {refused.strerror}") from refused
        raise


def _spawn(chatter: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    appending = -1
    try:
        # A file description of its own, which appends: the worker's lines come after one another even when we cut.
        appending = os.open(f"/proc/self/fd/{chatter}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        worker = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=appending,
            stderr=appending,
            pass_fds=[theirs.fileno()],
            # Ctrl-C on the terminal is for the parent, which then closes the worker in order.
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        if appending >= 0:
            os.close(appending)
        theirs.close()
    return worker, ours


def _job(file: ModelFile, runtime: str, unit: str, options: RuntimeOptions) -> dict[str, Any]:
    return {
        "path": str(file.path.absolute()),
        "sha256": file.sha256,
        "shapes": [spec.shape for spec in file.inputs],
        "runtime": runtime,
        "unit": unit,
        "threads": options.threads,
        "paced": options.paced,
        "driver": dict(options.driver),
        "sys_path": [entry for entry in sys.path if isinstance(entry, str)],
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
