"""The service, as its unit starts it: its memory, and what its page costs while somebody looks, and while nobody does.

    python -m scripts.benchmarks.service FPS SECONDS      one measurement

SSD over a drawn camera of 640x480, results to mosquitto on loopback, the page on. Who looks asks for the live picture
and, once a second, for all that the page shows, as the page does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.benchmarks import setting
from scripts.benchmarks.contest import OURS, Line, Row, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.local_broker import NoBroker, free_port, mosquitto, running
from scripts.local_service import environment_of

TITLE = "The service at work"
MEMORY_MAX_MIB, PAGE_MAX_PERCENT, CLOSED_MAX_PERCENT = 150e6 / (1 << 20), 10.0, 1.0
SECONDS, QUICK_SECONDS, STARTS_WITHIN_S = 30.0, 5.0, 60.0
_IDLE, _WATCHED = "SSD at 5 fps", "SSD at 10 fps, pictures at 10 fps"
_FPS = {_IDLE: 5, _WATCHED: 10}
_ASKED = ("state", "history", "events", "log")
_CONFIGURATION = """
[uplink]
url = "{url}"

[web]
listen = "127.0.0.1:{port}"
fps = 10

[[pipeline]]
name = "door"
model = "{model}"
source = "synthetic://test-card?width=640&height=480&fps={fps}"
device = "cpu"
"""


def measure(rounds: int) -> list[Row]:
    seconds = QUICK_SECONDS if setting.SETTING.quick else SECONDS
    rows: list[Row] = []
    for case, fps in _FPS.items():
        rows += take_turns(rounds, case, {OURS: lambda fps=fps: fresh("service", fps, seconds)})
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    def line(case: str, metric: str, values: Sequence[float], unit: str, at_most: float) -> Line:
        return Line(case, metric, values, unit=unit, at_most=at_most)

    before, watched, after = (of(rows, _WATCHED, OURS, f"{when}_percent") for when in ("before", "open", "after"))
    opened = [one - other for one, other in zip(watched, before, strict=True)]
    closed = [one - other for one, other in zip(after, before, strict=True)]
    return [
        line(_IDLE, "resident memory", of(rows, _IDLE, OURS, "resident_mib"), "MiB", MEMORY_MAX_MIB),
        line(_WATCHED, "the page open, of a core", opened, "%", PAGE_MAX_PERCENT),
        line(_WATCHED, "the page closed again, of a core", closed, "%", CLOSED_MAX_PERCENT),
    ]


def run(fps: float, seconds: float) -> dict[str, float]:
    """Resident MiB of the service's process; percent of a core that it takes before, while and after somebody looks."""
    with _service(fps) as (process, port):
        time.sleep(seconds)
        before = _percent(process.pid, seconds)
        resident = _resident_mib(process.pid)
        with _watching(f"http://127.0.0.1:{port}") as pictures:
            time.sleep(1.0)
            watched = _percent(process.pid, seconds)
        if not pictures:
            raise SystemExit("the page shows no pictures")
        time.sleep(1.0)
        after = _percent(process.pid, seconds)
    return {"resident_mib": resident, "before_percent": before, "open_percent": watched, "after_percent": after}


@contextmanager
def _service(fps: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    folder, port = Path.cwd(), free_port()
    try:
        with running(mosquitto(folder)) as broker:
            configuration = folder / "service.toml"
            model = setting.model("ssd_mobilenet_v1_coco.tflite")
            configuration.write_text(_CONFIGURATION.format(url=broker.url, port=port, model=model, fps=fps))
            command = [sys.executable, "-m", "edgeinfer", "service", "run", "--config", str(configuration)]
            with subprocess.Popen(command, env={**os.environ, **environment_of()}) as process:
                try:
                    _wait_for_results(f"http://127.0.0.1:{port}")
                    yield process, port
                finally:
                    process.terminate()
    except NoBroker as missing:
        raise SystemExit(f"scripts/bench: {missing}") from missing


def _wait_for_results(page: str) -> None:
    until_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until_s:
        with suppress(OSError), urllib.request.urlopen(f"{page}/healthz", timeout=5):
            return
        time.sleep(0.2)
    raise SystemExit(f"the service gives no results within {STARTS_WITHIN_S:g} s")


@contextmanager
def _watching(page: str) -> Iterator[list[int]]:
    """Somebody looks; yields the sizes of what came of the live picture."""
    is_over, came = threading.Event(), list[int]()

    def look() -> None:
        with urllib.request.urlopen(f"{page}/live/door.mjpg", timeout=10) as stream:
            while not is_over.is_set():
                came.append(len(stream.read1(1 << 16)))

    def ask() -> None:
        while not is_over.wait(1.0):
            for name in _ASKED:
                with urllib.request.urlopen(f"{page}/api/{name}", timeout=10) as answer:
                    answer.read()

    threads = [threading.Thread(target=each, daemon=True) for each in (look, ask)]
    for thread in threads:
        thread.start()
    try:
        yield came
    finally:
        is_over.set()
        for thread in threads:
            thread.join(15.0)


def _percent(pid: int, seconds: float) -> float:
    begun_s, spent_s = time.monotonic(), _cpu_s(pid)
    time.sleep(seconds)
    return 100 * (_cpu_s(pid) - spent_s) / (time.monotonic() - begun_s)


def _cpu_s(pid: int) -> float:
    # After the name, which may hold anything: state, and from the 12th on user and system time.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    tell(run(float(sys.argv[1]), float(sys.argv[2])))
