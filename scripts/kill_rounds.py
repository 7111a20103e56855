"""scripts/kill_rounds: a node gives numbered results to its uplink, a consumer acknowledges them, and -9 kills.

Four processes: this one, which kills; mosquitto with its defaults, which keeps nothing on disk; the node; the consumer.
The node writes down, durably, the epoch and number of each result as soon as it is accepted (committed); the consumer
writes down what it was handed. In the end everything that was accepted must have been handed over, once.

In mode `broker` only the node is killed: what mosquitto has acknowledged and not yet handed on dies with it, which is
what mode `consumer` is for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.config import UplinkConfig
from edgeinfer.result import Detection, ModelInfo, Result, SourceInfo, Timing
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.consumer import Consumer
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.messages import Numbered
from edgeinfer.uplink.selection import message_of_result
from edgeinfer.uplink.session import Sessions
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink

NODE = "killed"
SPOOL_BYTES = 32_000_000
ROUND_S = (0.5, 1.3)
DOWN_S = (0.0, 0.4)
DRAIN_S = 180.0
START_S = 60.0

Key = tuple[str, int]
"""Epoch and seq."""


class Verdict(NamedTuple):
    """accepted: as the node wrote it down; delivered: of those; unwritten: delivered, and the node was killed before it
    could write down that they were accepted; wrong: delivered with another content, or twice."""

    accepted: int
    delivered: int
    unwritten: int
    duplicates: int
    wrong: int

    @property
    def lost(self) -> int:
        return self.accepted - self.delivered


def main() -> None:
    words = _parser().parse_args()
    if words.part == "node":
        run_node(words.url, words.folder, words.rate, words.mode)
    elif words.part == "consumer":
        run_consumer(words.url, words.folder)
    else:
        sys.exit(kill(words))


# The node.


class Journalled(Spool):
    """A spool that writes down elsewhere, durably, what it has accepted."""

    journal: int

    def commit(self, messages: Sequence[Message]) -> range:
        seqs = super().commit(messages)
        numbers = (_number_of(message) for message in messages[: len(seqs)])
        lines = "".join(f"{self.epoch} {seq} {number}\n" for seq, number in zip(seqs, numbers, strict=True))
        os.write(self.journal, lines.encode())
        os.fsync(self.journal)
        return seqs


def run_node(url: str, folder: Path, rate: float, mode: str) -> None:
    """Results at that rate until SIGTERM; then all that waits is delivered first."""
    journal = os.open(folder / "accepted", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    number = max((number for _, number in read_lines(folder / "accepted")), default=0)

    def open_spool() -> Spool:
        spool = Journalled.open(folder / "spool", max_bytes=SPOOL_BYTES)
        assert isinstance(spool, Journalled)
        spool.journal = journal
        return spool

    config = UplinkConfig(url=url, mode="broker" if mode == "broker" else "consumer")
    link = MqttLink(
        lambda: read_address(config),
        f"edgeinfer-{NODE}",
        keepalive_s=config.keepalive,
        backoff=Backoff(0.1, 0.5, random.random),
        stolen=Backoff(0.1, 0.5, random.random),
    )
    clock = Clock()
    uplink = Uplink(config, Topics(NODE), open_spool, link, sessions=Sessions(folder / "session", clock), clock=clock)
    uplink.start()
    stopped = _until_terminated()
    _say_ready(folder, "node")
    due_s = time.monotonic()
    while not stopped:
        number += 1
        uplink.accept(message_of_result(_result(number)))
        due_s += 1 / rate
        time.sleep(max(0.0, due_s - time.monotonic()))
    while uplink.counters().accepted < 1 or uplink.counters().depth:
        time.sleep(0.1)
    uplink.close(5.0)


def _result(number: int) -> Result:
    now_ns = time.time_ns()
    return Result(
        id=f"{number:026d}",
        node=NODE,
        pipeline="main",
        seq=number,
        captured_at=rfc3339(now_ns),
        clock="synced",
        monotonic_ns=time.monotonic_ns(),
        source=SourceInfo("synthetic://", 768, 432),
        model=ModelInfo("ssd", "3", "0" * 64),
        device="fake",
        task="detect",
        detections=(Detection(label="person", class_id=0, score=0.9, box_xyxy=(0.1, 0.2, 0.3, 0.9)),),
        timing_ms=Timing(0.1, 0.2, 5.1, 0.1, 6.0),
    )


def _number_of(message: Message) -> int:
    _, _, after = message.data.partition(b'"seq":')
    return int(after[: after.index(b",")])


# The consumer.


def run_consumer(url: str, folder: Path) -> None:
    """Writes down what comes, and acknowledges it, until SIGTERM."""
    consumer = Consumer(url, node=NODE)
    handed = os.open(folder / "handed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def take(message: Numbered) -> None:
        number = message.data.seq if isinstance(message.data, Result) else -1
        os.write(handed, f"{message.epoch} {message.seq} {number}\n".encode())

    signal.signal(signal.SIGTERM, lambda _signal, _frame: consumer.stop())
    _say_ready(folder, "consumer")
    consumer.run(take)
    (folder / "duplicates").write_text(f"{consumer.duplicates}\n")


# Who kills.


def kill(words: argparse.Namespace) -> int:
    """The exit status."""
    if shutil.which("mosquitto", path=_PATH) is None:
        raise SystemExit("scripts/kill_rounds: mosquitto is not installed")
    choose = random.Random(words.seed)
    folder = Path(tempfile.mkdtemp(prefix="edgeinfer-kill-"))
    kills = {"node": 0, "broker": 0}
    begin_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        parts = Parts(folder, words)
        stack.callback(parts.close)
        for number in range(words.rounds):
            time.sleep(choose.uniform(*ROUND_S))
            victim = "node" if words.mode == "broker" else choose.choice(["node", "broker"])
            kills[victim] += 1
            parts.kill(victim)
            time.sleep(choose.uniform(*DOWN_S))
            parts.start(victim)
            _progress(f"{number + 1}/{words.rounds} rounds")
        _progress("delivering what waits\n")
        parts.finish()
        verdict = judge(folder)
    print(
        f"{words.rounds} rounds in {time.monotonic() - begin_s:.0f} s: node killed {kills['node']} times, broker "
        f"{kills['broker']} times; {words.rate:g} results/s, mode {words.mode}"
    )
    print(
        f"accepted {verdict.accepted}, of those delivered {verdict.delivered}, lost {verdict.lost}; "
        f"{verdict.duplicates} duplicates, all removed by (epoch, seq); {verdict.wrong} wrong; "
        f"{verdict.unwritten} more were delivered of which the node died before it could note them"
    )
    if verdict.accepted and not verdict.lost and not verdict.wrong:
        shutil.rmtree(folder)
        return 0
    print(f"what they wrote, and their logs: {folder}", file=sys.stderr)
    return 1


class Parts:
    """The three processes that may be killed or ended."""

    def __init__(self, folder: Path, words: argparse.Namespace) -> None:
        port = _free_port()
        (folder / "mosquitto.conf").write_text(f"listener {port} localhost\nallow_anonymous true\n")
        url = f"mqtt://localhost:{port}"
        this = [sys.executable, str(Path(__file__).resolve())]
        own = ["--url", url, "--folder", str(folder), "--mode", words.mode, "--rate", str(words.rate)]
        self._folder = folder
        self._commands = {
            "broker": [str(shutil.which("mosquitto", path=_PATH)), "-c", str(folder / "mosquitto.conf")],
            "consumer": [*this, "--part", "consumer", *own],
            "node": [*this, "--part", "node", *own],
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for part in self._commands:
            self.start(part)

    def start(self, part: str) -> None:
        with (self._folder / f"{part}.log").open("ab") as log:
            self._running[part] = subprocess.Popen(self._commands[part], stdout=log, stderr=log)

    def kill(self, part: str) -> None:
        process = self._running[part]
        if process.poll() is not None:
            raise SystemExit(f"{part} ended by itself:\n{(self._folder / f'{part}.log').read_text()[-2000:]}")
        process.kill()
        process.wait()

    def finish(self) -> None:
        """Let everything be delivered."""
        for part in ("node", "consumer"):
            self._wait_until_ready(part)
            self._running[part].terminate()
            try:
                self._running[part].wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                print(f"{part} does not end: not all was delivered in {DRAIN_S:g} s", file=sys.stderr)
                self.kill(part)

    def _wait_until_ready(self, part: str) -> None:
        """Or it would die of SIGTERM before it knows what that is to mean."""
        until_s = time.monotonic() + START_S
        pid = str(self._running[part].pid)
        while not (self._folder / f"{part}.{pid}").exists():
            if time.monotonic() > until_s:
                raise SystemExit(f"{part} does not start:\n{(self._folder / f'{part}.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


def judge(folder: Path) -> Verdict:
    accepted = dict(read_lines(folder / "accepted"))
    handed = list(read_lines(folder / "handed"))
    came = dict(handed)
    wrong = sum(came.get(key, number) != number for key, number in accepted.items()) + len(handed) - len(came)
    duplicates = folder / "duplicates"
    return Verdict(
        accepted=len(accepted),
        delivered=len(accepted.keys() & came.keys()),
        unwritten=len(came.keys() - accepted.keys()),
        duplicates=int(duplicates.read_text()) if duplicates.exists() else -1,
        wrong=wrong,
    )


def read_lines(path: Path) -> Iterator[tuple[Key, int]]:
    """(epoch, seq) and number of each line; a last one that was cut off is none."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            epoch, seq, number = line.split()
            yield (epoch, int(seq)), int(number)


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def _until_terminated() -> list[int]:
    """Empty until SIGTERM comes."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    signal.signal(signal.SIGTERM, note)
    return came


def _say_ready(folder: Path, part: str) -> None:
    (folder / f"{part}.{os.getpid()}").touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/kill_rounds", description="kill -9 of node and broker, mixed, while results are sent."
    )
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--rate", type=float, default=100.0, metavar="R", help="results per second; default: 100")
    parser.add_argument("--mode", choices=("consumer", "broker"), default="consumer", help="default: consumer")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of who is killed when; default: 1")
    for name in ("--part", "--url"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
