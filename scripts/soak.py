"""scripts/soak: the service at work for as long as you let it, while everything around it fails at random.

Four processes: this one, which does the harm and is the consumer; mosquitto with its defaults, which keeps nothing on
disk; the service; its isolated worker. The camera is unplugged and falls silent, the broker and the worker are killed
with -9. In the end everything that was accepted must have been delivered, by the process that began.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeinfer import Consumer
from edgeinfer.uplink.messages import Numbered
from scripts.local_broker import Broker, NoBroker, free_port, mosquitto, running
from scripts.local_service import environment_of
from tests.soak.unpluggable import SILENT, UNPLUGGED

SLOPE_MAX_MB_H = 1.0
JUDGED_FROM_S = 1800.0
LOOK_S = 1.0
SAMPLE_S = 5.0
LINE_S = 60.0
START_S = 60.0
DRAIN_S = 180.0
SETTLE_S = 3.0
WATCHDOG_S = 30.0
# What comes at the beginning is no growth: a sixth of the time, and six minutes at least, for the page fills its memory
# of five.
WARM_UP_PART, WARM_UP_S = 6, 360.0

CONFIGURATION = """
node = "soak"

[uplink]
url = "{url}"
mode = "consumer"

[web]
listen = "127.0.0.1:{port}"

[[pipeline]]
name = "door"
model = "{model}"
source = "unpluggable://{camera}?fps={fps:g}"
device = "cpu"
isolate = true
"""


@dataclass
class Fault:
    """Something that happens at random: `begin`, and after a while `end`."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    every_s: tuple[float, float]
    for_s: tuple[float, float]
    due_s: float = 0.0
    is_on: bool = False
    count: int = 0

    def turn(self, now_s: float, choose: random.Random) -> None:
        if now_s < self.due_s:
            return
        if self.is_on:
            self.end()
        elif self.due_s:
            self.begin()
            self.count += 1
        self.is_on = bool(self.due_s) and not self.is_on
        self.due_s = now_s + choose.uniform(*(self.for_s if self.is_on else self.every_s))

    def over(self) -> None:
        if self.is_on:
            self.end()
        self.is_on = False


@dataclass
class Service:
    """The process, watched as systemd would."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    notices: socket.socket
    heard_s: float = field(default_factory=time.monotonic)
    restarts: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Take what it tells systemd; note where systemd would begin it anew."""
        while True:
            try:
                told = self.notices.recv(4096).decode(errors="replace")
            except BlockingIOError:
                break
            if "WATCHDOG=trigger" in told:
                self.restarts.append(f"it asked for one: {told}")
            elif "WATCHDOG=1" in told:
                self.heard_s = time.monotonic()
        if time.monotonic() - self.heard_s > WATCHDOG_S:
            self.restarts.append(f"no sign of life for {WATCHDOG_S:g} s")
            self.heard_s = time.monotonic()
        if self.process.poll() is not None:
            raise SystemExit(f"the service ended by itself ({self.process.returncode}):\n{self.log()}")

    def state(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/state", timeout=10) as answer:
            return json.load(answer)

    def log(self) -> str:
        return (self.folder / "service.log").read_text()[-3000:]

    def workers(self) -> list[int]:
        """Its processes, one in the making included."""
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                found += map(int, (task / "children").read_text().split())
            except OSError:
                continue  # A thread that has just ended.
        return found

    def kill_worker(self, choose: random.Random) -> None:
        if workers := self.workers():
            os.kill(choose.choice(workers), signal.SIGKILL)


@dataclass
class Delivered:
    """What the consumer was handed."""

    numbers: set[tuple[str, int]] = field(default_factory=set)
    results: int = 0
    gaps: int = 0
    again: int = 0

    def take(self, message: Numbered) -> None:
        key = message.epoch, message.seq
        self.again += key in self.numbers
        self.numbers.add(key)
        self.results += message.channel == "result"
        self.gaps += message.channel == "gap"


@dataclass(frozen=True)
class Sample:
    """Resident memory of the service's own process and of its workers, MB."""

    at_s: float
    own_mb: float
    workers_mb: float


def main() -> int:
    words = _parser().parse_args()
    choose = random.Random(words.seed)
    # Whoever ends it ends its service and its broker, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="edgeinfer-soak-")))
        try:
            broker = opened.enter_context(running(mosquitto_as_installed(folder)))
        except NoBroker as missing:
            print(f"error: {missing}", file=sys.stderr)
            return 2
        delivered = Delivered()
        consumer = Consumer(broker.url, node="soak", state=folder / "seen.json")
        thread = threading.Thread(target=consumer.run, args=(delivered.take,), daemon=True)
        thread.start()
        service = start(folder, broker.url, words)
        opened.callback(service.process.kill)
        camera = folder / "camera"
        faults = faults_of(service, broker, camera, choose)
        samples = soak(service, faults, choose, words.minutes * 60.0)
        wrong = [f"begun anew: {each}" for each in service.restarts]
        wrong += settle(service, camera, delivered)
        consumer.stop()
        thread.join(10.0)
        service.process.terminate()
        code = service.process.wait(60.0)
        wrong += [f"the service ended with {code}:\n{service.log()}"] if code else []
    wrong += judge_memory(samples)
    done = ", ".join(f"{each.name} {each.count}" for each in faults)
    print(f"{done}; restarts of the process {len(service.restarts)}; --seed {words.seed}")
    for each in wrong:
        print(f"WRONG: {each}")
    return 1 if wrong else 0


def mosquitto_as_installed(folder: Path) -> Broker:
    """Raises NoBroker."""
    (folder / "broker").mkdir()
    return mosquitto(folder / "broker")


def start(folder: Path, url: str, words: argparse.Namespace) -> Service:
    """The service as its unit starts it, once it has given results."""
    site, port = folder / "site", free_port()
    info = site / "edgeinfer_soak-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgeinfer-soak\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgeinfer.sources]\nunpluggable = tests.soak.unpluggable:Unpluggable\n")
    configuration = folder / "soak.toml"
    configuration.write_text(
        CONFIGURATION.format(url=url, port=port, model=words.model, camera=folder / "camera", fps=words.fps)
    )
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(folder / "notify"))
    notices.setblocking(False)
    environment = {
        **os.environ,
        **environment_of(),
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
        "EDGEINFER_STATE": str(folder / "state"),
        "NOTIFY_SOCKET": str(folder / "notify"),
        "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
    }
    with (folder / "service.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeinfer", "service", "run", "--config", str(configuration)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    service = Service(folder, port, process, notices)
    until_s = time.monotonic() + START_S
    while not _has_results(service):
        if time.monotonic() > until_s:
            process.kill()
            raise SystemExit(f"no results within {START_S:g} s:\n{service.log()}")
        time.sleep(0.2)
    return service


def _has_results(service: Service) -> bool:
    service.listen()
    try:
        return bool(service.state()["pipelines"][0]["counts"].get("published"))
    except OSError:
        return False  # It does not answer yet.


def faults_of(service: Service, broker: Broker, camera: Path, choose: random.Random) -> Sequence[Fault]:
    unplugged, silent = Path(f"{camera}{UNPLUGGED}"), Path(f"{camera}{SILENT}")
    return (
        Fault("camera unplugged", unplugged.touch, unplugged.unlink, (30.0, 90.0), (1.0, 8.0)),
        Fault("camera silent", silent.touch, silent.unlink, (60.0, 180.0), (1.0, 12.0)),
        Fault("broker killed", broker.kill, broker.start, (30.0, 90.0), (0.5, 15.0)),
        Fault("worker killed", lambda: service.kill_worker(choose), lambda: None, (30.0, 90.0), (0.0, 0.0)),
    )


def soak(service: Service, faults: Sequence[Fault], choose: random.Random, seconds: float) -> Sequence[Sample]:
    """Prints a line each minute."""
    samples: list[Sample] = []
    begun_s = line_s = sample_s = time.monotonic()
    before = service.state()
    print(" min  own MB  workers MB   fps  spool  dropped since the line before", flush=True)
    while (now_s := time.monotonic()) - begun_s < seconds:
        service.listen()
        for each in faults:
            each.turn(now_s, choose)
        if now_s - sample_s >= SAMPLE_S:
            sample_s = now_s
            samples.append(look(service, now_s - begun_s))
        if now_s - line_s >= LINE_S:
            state = service.state()
            _show_line(samples[-1], before, state, now_s - line_s)
            before, line_s = state, now_s
        time.sleep(LOOK_S)
    for each in faults:
        each.over()
    return samples


def look(service: Service, at_s: float) -> Sample:
    return Sample(at_s, _resident_mb(service.process.pid), sum(map(_resident_mb, service.workers())))


def _show_line(sample: Sample, before: Any, state: Any, seconds: float) -> None:
    (was,), (now,) = before["pipelines"], state["pipelines"]
    grown = Counter(now["counts"])
    grown.subtract(was["counts"])
    dropped = ", ".join(
        f"{name.removeprefix('dropped.')} {count}"
        for name, count in sorted(grown.items())
        if count and name.startswith("dropped.")
    )
    print(
        f"{sample.at_s / 60:4.0f}  {sample.own_mb:6.1f}  {sample.workers_mb:10.1f}  {grown['published'] / seconds:4.1f}"
        f"  {state['uplink']['depth']:5d}  {dropped or '-'}; {now['state']}",
        flush=True,
    )


def settle(service: Service, camera: Path, delivered: Delivered) -> Sequence[str]:
    """No frames any more; all that was accepted is delivered. What is wrong then."""
    Path(f"{camera}{UNPLUGGED}").touch()
    time.sleep(SETTLE_S)
    until_s = time.monotonic() + DRAIN_S
    while (uplink := service.state()["uplink"])["depth"]:
        if time.monotonic() > until_s:
            break
        service.listen()
        time.sleep(LOOK_S)
    epochs = {epoch for epoch, _ in delivered.numbers}
    lost = uplink["accepted"] - len(delivered.numbers)
    print(
        f"accepted {uplink['accepted']}, delivered {len(delivered.numbers)} ({delivered.results} results), lost {lost},"
        f" twice {delivered.again}, gaps {delivered.gaps}; dropped before they were accepted: {uplink['dropped'] or 0}"
    )
    wrong = []
    if lost or uplink["depth"] or delivered.gaps or delivered.again:
        wrong.append(
            f"{lost} lost, {uplink['depth']} left in the spool, {delivered.again} twice, {delivered.gaps} gaps"
        )
    if len(epochs) != 1:
        wrong.append(f"{len(epochs)} epochs")
    return wrong


def judge_memory(samples: Sequence[Sample]) -> Sequence[str]:
    """Prints the slopes, and finds them too steep where they were watched for long enough to say so."""
    warm_up_s = max(WARM_UP_S, samples[-1].at_s / WARM_UP_PART) if samples else 0.0
    steady = [each for each in samples if each.at_s >= warm_up_s]
    if len(steady) < 2:
        print("memory: too short to tell a slope")
        return []
    own_mb_h = slope_mb_h(steady, lambda each: each.own_mb)
    all_mb_h = slope_mb_h(steady, lambda each: each.own_mb + each.workers_mb)
    watched_s = steady[-1].at_s - steady[0].at_s
    print(
        f"memory over the last {watched_s / 60:.0f} min: own process {steady[0].own_mb:.1f} to {steady[-1].own_mb:.1f}"
        f" MB, {own_mb_h:+.2f} MB/h; with its workers {all_mb_h:+.2f} MB/h"
    )
    if watched_s < JUDGED_FROM_S or own_mb_h <= SLOPE_MAX_MB_H:
        return []
    return [f"memory grows by {own_mb_h:.2f} MB/h, {SLOPE_MAX_MB_H:g} is the limit"]


def slope_mb_h(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Least squares."""
    return statistics.linear_regression([each.at_s / 3600 for each in samples], [of(each) for each in samples]).slope


def _resident_mb(pid: int) -> float:
    """0 of one that has just ended. Pages that processes share are counted in each of them."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="The service at work, while camera, broker and worker fail at random."
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="for so long; default: 60")
    parser.add_argument("--fps", type=float, default=30.0, metavar="N", help="of the camera; default: 30")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what fails when; default: 1")
    parser.add_argument("--model", default="blood-cells", help="default: blood-cells")
    return parser


if __name__ == "__main__":
    sys.exit(main())
